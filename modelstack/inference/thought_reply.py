"""A thought before a reply: told while it is written, then joined with the reply.

The thought is free text within a budget (`thinking`); the grammar applies to the reply after it. Both stay in the
conversation's tokens, so the next turn evaluates neither again.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable
from dataclasses import replace

from modelstack.inference.engine import Engine, GenerateRequest, Generation
from modelstack.inference.thinking import ThinkingBudget, ThoughtfulReply, ThoughtMarks, thought, with_seed
from modelstack.tokenizer.vocabulary import Vocabulary


class ThoughtListener:
    """Receives a thought's tokens and tells its text as it comes, without the marks around it."""

    def __init__(self, vocabulary: Vocabulary, marks: ThoughtMarks, tell: Callable[[str], None]) -> None:
        """Listen for the marks."""
        self._token_bytes = vocabulary.token_bytes
        self._marks = marks
        self._tell = tell
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text: str = ""
        self._told = 0

    def hear(self, ids: list[int]) -> None:
        """Process a block of tokens."""
        self._text += str(self._decoder.decode(b"".join(self._token_bytes[i] for i in ids)))
        if self._marks.open.startswith(self._text) and self._text != self._marks.open:
            return  # it may still become the opening mark
        inner = self._text.removeprefix(self._marks.open)
        at = inner.find(self._marks.close)
        end = at if at >= 0 else len(inner) - self._held_back(inner)
        if end > self._told:
            self._tell(inner[self._told : end])
            self._told = end

    def _held_back(self, text: str) -> int:
        """Return the number of final characters that may begin the closing mark."""
        close = self._marks.close
        return max((n for n in range(1, len(close)) if text.endswith(close[:n])), default=0)


def told_thought(
    engine: Engine,
    request: GenerateRequest,
    budget: ThinkingBudget,
    marks: ThoughtMarks,
    tell: Callable[[str], None] | None,
    cancelled: Callable[[], bool],
) -> ThoughtfulReply:
    """Write a thought within its budget, and tell its text as it comes; `tell=None` tells nothing.

    Raises:
        EngineError: The backend failed, or the prompt does not fit.
    """
    hear = None if tell is None else ThoughtListener(engine.vocabulary, marks, tell).hear
    return thought(engine, request, budget, marks, on_tokens=hear, cancelled=cancelled)


def answering(request: GenerateRequest, thought: ThoughtfulReply) -> GenerateRequest:
    """Return the request for the reply after a thought, with a random seed of its own."""
    prompt_ids = [*request.prompt_ids, *thought.ids]
    return replace(request, prompt_ids=prompt_ids, sampling=with_seed(request.sampling, 1))


def joined(thought: ThoughtfulReply, answer: Generation, vocabulary: Vocabulary) -> Generation:
    """Return a thought and the reply after it as one generation; the steps of the reply's choices are shifted."""
    n_thought = len(thought.ids)
    return Generation(
        ids=thought.ids + answer.ids,
        forced=thought.forced + answer.forced,
        logprobs=thought.logprobs + answer.logprobs,
        masked_logprobs=[0.0 if math.isnan(p) else p for p in thought.logprobs] + answer.masked_logprobs,
        legal_counts=[1 if forced else len(vocabulary) for forced in thought.forced] + answer.legal_counts,
        top_logprobs=[()] * n_thought + answer.top_logprobs if answer.top_logprobs else [],
        choices=[replace(choice, step=choice.step + n_thought) for choice in answer.choices],
        finish_reason=answer.finish_reason,
        stats=answer.stats if thought.stats is None else thought.stats.then(answer.stats),
    )
