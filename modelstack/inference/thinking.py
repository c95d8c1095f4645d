"""The thinking dial: the minimum and maximum number of tokens that a model thinks before it answers.

Budget forcing (Muennighoff et al., s1, arXiv 2501.19393): at the maximum, the closing mark is written for the
model, which then answers with what it has. Below the minimum, a closing mark from the model is replaced by a word
such as "Wait". A reply cannot end inside its thought: end tokens are legal in the answer only.

It works with any `Engine`: a thought and an answer are two generations of one conversation, so the answer reads
the thought from the cache. A mark may be one special token, as in Qwen3, which content can never spell. It may
also be a text of several tokens, found by its bytes under any tokenisation. An opening mark may be a special token
followed by text.

Thinking tokens are those before the closing mark; marks and texts inserted after them do not count.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import BaseModel, Field, model_validator

from modelstack.inference.engine import Engine, GenerateRequest, Generation, GenerationStats, SamplingParams
from modelstack.inference.thought_watch import ThoughtWatch
from modelstack.tokenizer.vocabulary import Vocabulary

ClosedBy = Literal["model", "budget", "cancelled"]
_LOOKED_BACK = 64
"""Number of tokens at the end of a prompt that are searched for an opening mark."""


class ThoughtMarks(BaseModel, frozen=True, extra="forbid"):
    """The texts around a thought."""

    open: str = Field(default="<think>", min_length=1)
    close: str = Field(default="</think>", min_length=1)


class ThinkingBudget(BaseModel, frozen=True, extra="forbid"):
    """The limits of a thought's length."""

    max_tokens: int = Field(ge=0)
    """Maximum number of tokens; 0: the model answers at once, after an empty thought."""
    min_tokens: int = Field(default=0, ge=0)
    wait: str = Field(default="\nWait", min_length=1)
    """Text written when the model closes its thought too early."""
    after_close: str = ""
    """Text written after the closing mark, the model's own or a forced one, such as "\\n\\nFinal answer: "."""

    @model_validator(mode="after")
    def _least_is_below_most(self) -> ThinkingBudget:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens = {self.min_tokens} is more than max_tokens = {self.max_tokens}")
        return self


@dataclass(slots=True)
class ThoughtfulReply:
    """A thought and an answer.

    The lists are parallel, with one entry per token after the prompt, without the end token.
    """

    ids: list[int] = field(default_factory=list[int])
    forced: list[bool] = field(default_factory=list[bool])
    """Whether a token was written for the model: forced marks, waits, tokens without an alternative under the
    grammar."""
    logprobs: list[float] = field(default_factory=list[float])
    """Natural log-probability under the model's full softmax at temperature 1; nan for forced tokens."""
    n_thinking: int = 0
    n_waits: int = 0
    closed_by: ClosedBy = "model"
    """Cause of the end of the thought."""
    thought: str = ""
    """Text between the marks."""
    answer: Generation = field(default_factory=Generation)
    """The generation after the thought; `answer.finish_reason` is the reply's."""
    stats: GenerationStats | None = None
    """Total cost of the thought's generations; None if there were none."""

    @property
    def mean_logprob(self) -> float:
        """Mean over the tokens that the model chose, in nats; -inf if it chose none."""
        chosen = [value for value in self.logprobs if not math.isnan(value)]
        return math.fsum(chosen) / len(chosen) if chosen else -math.inf

    def text(self, vocabulary: Vocabulary) -> str:
        """Return the whole reply, including marks."""
        return vocabulary.decode(self.ids)

    def write(self, ids: Sequence[int]) -> None:
        """Append tokens that the model did not choose."""
        self.ids += ids
        self.forced += [True] * len(ids)
        self.logprobs += [math.nan] * len(ids)

    def count(self, stats: GenerationStats) -> None:
        """Add the cost of another generation of the thought."""
        self.stats = stats if self.stats is None else self.stats.then(stats)

    def take(self, generation: Generation, n_tokens: int | None = None) -> None:
        """Append a generation, or its first `n_tokens` tokens."""
        self.ids += generation.ids[:n_tokens]
        self.forced += generation.forced[:n_tokens]
        self.logprobs += generation.logprobs[:n_tokens]


def think(
    engine: Engine,
    request: GenerateRequest,
    budget: ThinkingBudget,
    marks: ThoughtMarks | None = None,
    *,
    on_tokens: Callable[[list[int]], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> ThoughtfulReply:
    """Generate a thought within a budget, then an answer.

    Args:
        engine: Any engine.
        request: `max_tokens`, grammar and biases apply to the answer, the sampling to both. The prompt ends before
            the reply, or after the opening mark, as some templates write it.
        budget: Budget of the thought. In a short context window the answer's tokens have priority.
        marks: None: `<think>` and `</think>`.
        on_tokens: Called with each block of the reply that can no longer change.
        cancelled: Called between tokens; True stops the reply.

    Raises:
        ContextWindowError: prompt, marks and one token do not fit.
        EngineError: the engine failed.
    """
    return _Dial(engine, request, budget, marks or ThoughtMarks(), on_tokens, cancelled).reply()


def thought(
    engine: Engine,
    request: GenerateRequest,
    budget: ThinkingBudget,
    marks: ThoughtMarks | None = None,
    *,
    on_tokens: Callable[[list[int]], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> ThoughtfulReply:
    """Generate a thought without an answer; the caller may continue after `ids` any number of times.

    Args:
        engine: Any engine.
        request: As for `think`; `max_tokens` is the room reserved for the answer.
        budget: Budget of the thought.
        marks: None: `<think>` and `</think>`.
        on_tokens: Called with each block, including marks, that can no longer change.
        cancelled: Called between tokens; True stops the thought.

    Raises:
        ContextWindowError: prompt, marks and one token do not fit.
        EngineError: the engine failed.
    """
    return _Dial(engine, request, budget, marks or ThoughtMarks(), on_tokens, cancelled).thought()


def mark_ids(vocabulary: Vocabulary, mark: str) -> tuple[list[int], bool]:
    """Return the tokens of a mark, and whether it is a single special token.

    Names of special tokens inside a mark become these tokens, as in Gemma 4's `<|channel>thought`.
    """
    data = mark.encode()
    names: dict[str, int] = {}
    for token in sorted(vocabulary.special_ids):
        name = vocabulary.token_bytes[token]
        if name and name in data:
            names.setdefault(name.decode("utf-8", "replace"), token)
    if mark in names:
        return [names[mark]], True
    if not names:
        return vocabulary.encode(mark), False
    longest_first = sorted(names, key=len, reverse=True)
    pieces = re.split(f"({'|'.join(map(re.escape, longest_first))})", mark)
    return [token for p in pieces for token in ([names[p]] if p in names else vocabulary.encode(p))], False


class _Dial:
    """The state of a reply that is being written."""

    def __init__(
        self,
        engine: Engine,
        request: GenerateRequest,
        budget: ThinkingBudget,
        marks: ThoughtMarks,
        on_tokens: Callable[[list[int]], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self.engine, self.request, self.budget, self.marks = engine, request, budget, marks
        self.on_tokens, self.cancelled = on_tokens, cancelled
        vocabulary = self.vocabulary = engine.vocabulary
        self.open_ids = [] if self._is_open() else mark_ids(vocabulary, marks.open)[0]
        self.close_ids, self.close_is_special = mark_ids(vocabulary, marks.close)
        self.after_ids = vocabulary.encode(budget.after_close)
        self.wait_ids = vocabulary.encode(budget.wait)
        n_fixed = sum(map(len, (request.prompt_ids, self.open_ids, self.close_ids, self.after_ids)))
        room = engine.context_window - n_fixed - request.max_tokens
        self.most = min(budget.max_tokens, max(room, 0))
        self.least = min(budget.min_tokens, self.most)
        self.out = ThoughtfulReply()
        self.n_calls = 0

    def thought(self) -> ThoughtfulReply:
        out = self.out
        self._write(self.open_ids)
        first = len(out.ids)
        closed_at = self._think()
        out.thought = self.vocabulary.decode(out.ids[first:closed_at])
        if out.closed_by == "cancelled":
            out.answer = Generation(finish_reason="cancelled")
        else:
            self._write(self.after_ids)
        return out

    def reply(self) -> ThoughtfulReply:
        out = self.thought()
        if out.closed_by == "cancelled":
            return out
        out.answer = self.engine.generate(
            self._request(self.request.max_tokens), on_tokens=self.on_tokens, cancelled=self.cancelled
        )
        out.take(out.answer)
        return out

    def _is_open(self) -> bool:
        """Return whether the prompt ends with an opening mark, apart from blanks."""
        token_bytes = self.vocabulary.token_bytes
        tail = self._without_blanks(self.request.prompt_ids[-_LOOKED_BACK:])
        ids = self._without_blanks(mark_ids(self.vocabulary, self.marks.open)[0])
        if not self.vocabulary.special_ids.isdisjoint(ids):  # a mark spelled in text does not count
            return tail[-len(ids) :] == ids
        text = b"".join(token_bytes[token] for token in tail)
        return text.rstrip().endswith(self.marks.open.encode())

    def _without_blanks(self, ids: Sequence[int]) -> list[int]:
        """Return the ids without blank tokens at the end."""
        n_ids = len(ids)
        while n_ids and not self.vocabulary.token_bytes[ids[n_ids - 1]].strip():
            n_ids -= 1
        return list(ids[:n_ids])

    def _think(self) -> int:
        """Write the thought and its closing mark; return the index of the mark among the reply's tokens."""
        out = self.out
        while (n_left := self.most - out.n_thinking) > 0:
            watch = self._watch(n_left)
            generation = self._thought(watch, n_left)
            out.count(generation.stats)
            n_before = watch.n_before_mark(generation.ids)
            is_closed = watch.is_closed or (self.close_is_special and generation.finish_reason == "end")
            if generation.finish_reason == "cancelled" and not watch.has_stopped:
                self._keep(watch, generation, len(generation.ids))
                out.closed_by = "cancelled"
                return len(out.ids)
            if not is_closed or n_before > n_left:
                # The budget is used up; the tokens of an unfinished mark after it are dropped.
                self._keep(watch, generation, min(n_before, n_left))
                break
            if out.n_thinking + n_before < self.least:
                self._keep(watch, generation, n_before)
                self._wait()
                continue
            closed_at = len(out.ids) + n_before
            self._keep(watch, generation, n_before, len(generation.ids))
            if self.close_is_special:
                self._write(self.close_ids)
            return closed_at
        out.closed_by = "budget"
        closed_at = len(out.ids)
        self._write(self.close_ids)
        return closed_at

    def _keep(
        self, watch: ThoughtWatch, generation: Generation, n_thinking: int, n_tokens: int | None = None
    ) -> None:
        """Append the first `n_tokens` generated tokens to the reply.

        `n_thinking` of the thought, the rest of its mark.
        """
        n_tokens = n_thinking if n_tokens is None else n_tokens
        watch.settle(n_tokens)
        self.out.take(generation, n_tokens)
        self.out.n_thinking += n_thinking

    def _wait(self) -> None:
        ids = self.wait_ids[: self.most - self.out.n_thinking]
        self._write(ids)
        self.out.n_thinking += len(ids)
        self.out.n_waits += 1

    def _watch(self, n_most: int) -> ThoughtWatch:
        mark = b"" if self.close_is_special else self.marks.close.encode()
        return ThoughtWatch(self.vocabulary, mark, n_most, self.on_tokens)

    def _thought(self, watch: ThoughtWatch, n_most: int) -> Generation:
        """Continue the thought until the mark, the budget, or a stop by the caller."""
        cancelled = self.cancelled

        def stop() -> bool:
            return watch.has_stopped or (cancelled is not None and cancelled())

        plain = replace(
            self._request(n_most + len(watch.mark)),  # a mark may begin in the last token
            grammar=None,
            choice_bias=None,
            logit_bias=None,
            n_top_logprobs=0,
            on_progress=None,
            end_ids=frozenset(self.close_ids if self.close_is_special else ()),
        )
        return self.engine.generate(plain, on_tokens=watch, cancelled=stop)

    def _request(self, max_tokens: int) -> GenerateRequest:
        """Return the request for the continuation of the reply, with its own random numbers."""
        number, self.n_calls = self.n_calls, self.n_calls + 1
        return replace(
            self.request,
            prompt_ids=[*self.request.prompt_ids, *self.out.ids],
            max_tokens=max_tokens,
            sampling=with_seed(self.request.sampling, number),
        )

    def _write(self, ids: Sequence[int]) -> None:
        self.out.write(ids)
        if ids and self.on_tokens is not None:
            self.on_tokens(list(ids))


def with_seed(sampling: SamplingParams, number: int) -> SamplingParams:
    """Return the parameters for the `number`-th generation of a request: each has its own random numbers."""
    if sampling.seed is None or number == 0:
        return sampling
    digest = hashlib.sha256(f"{sampling.seed} {number}".encode()).digest()
    return replace(sampling, seed=int.from_bytes(digest[:7], "big"))
