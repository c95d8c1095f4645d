"""The `Engine` protocol: token ids in, token ids out, with measurements for the runtime.

An engine owns weights, KV cache and decode loop. It is synchronous and used from one thread at a time: the caller
keeps it off its event loop. Conversations are named, so that an engine can keep the KV caches of several
conversations and evaluate only the new tokens of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.grammar import Grammar
from modelstack.inference.legal_tokens import LegalTokens
from modelstack.tokenizer.vocabulary import Vocabulary

FinishReason = Literal["end", "length", "cancelled", "content_filter"]
"""`content_filter`: the request's `StateWatch` stopped the reply."""
TopLogprobs = tuple[tuple[int, float], ...]
"""The most probable tokens of a position with their natural log-probabilities, most probable first."""


class EngineError(Exception):
    """The engine could not load or evaluate its input; the message names the fix."""


class ContextWindowError(EngineError):
    """Prompt and reply do not fit in the context window."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Parameters for drawing a token from the (masked) distribution; temperature 0 is greedy."""

    temperature: float = 0.0
    top_k: int = 0
    """Keep the k most probable tokens; 0 keeps all."""
    top_p: float = 1.0
    min_p: float = 0.0
    """Drop tokens below this share of the probability of the most probable token."""
    seed: int | None = None


class ChoiceBias(Protocol):
    """A prior over the choice of a tool, added to the model's logits."""

    def __call__(self, written: Sequence[int], token_ids: NDArray[np.intp]) -> NDArray[np.float32] | None:
        """Return the bias of each of `token_ids`, which are all legal after the reply's tokens `written`.

        Called while `Grammar.choosing`. None means no bias.
        """
        ...


class LogitBias(Protocol):
    """A prior over the tokens of a reply outside the choice of a tool."""

    def __call__(
        self, written: Sequence[int], legal: LegalTokens, logits_V: NDArray[np.float32]
    ) -> NDArray[np.float32] | None:
        """Return the logits to draw from after the reply's tokens `written`; None for `logits_V` itself.

        Called where several tokens are legal and no tool is being chosen.
        """
        ...


class StateWatch(Protocol):
    """A monitor of a reply that reads hidden states of the model.

    An engine shows it the states of the prompt's last token and of each token of the reply whose logits are
    computed, which leaves out most tokens that a grammar forced. Draft tokens are shown once they are accepted.
    """

    def __call__(self, states_LD: NDArray[np.float32], written: Sequence[int]) -> bool:
        """Return whether the reply may continue.

        Args:
            states_LD: Outputs of the engine's `state_layers` for the last token, valid during the call.
            written: Tokens of the reply so far; empty at the end of the prompt.
        """
        ...


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """The parameters of a generation, which continues `prompt_ids` in `conversation`."""

    prompt_ids: Sequence[int]
    """The whole prompt; the engine finds the prefix that it has evaluated already."""
    max_tokens: int
    fixed_tokens: int = field(default=0, kw_only=True)
    """Number of leading tokens that prompts of later processes share (system text and tools), worth storing."""
    conversation: str = "default"
    grammar: Grammar | None = None
    sampling: SamplingParams = SamplingParams()
    end_ids: frozenset[int] | None = None
    """Tokens that end the generation; None: the vocabulary's."""
    jump_ahead: bool = True
    """Whether forced tokens are appended as a block and evaluated in one call."""
    choice_bias: ChoiceBias | None = None
    """Prior over tools. Log-probabilities stay the model's own; `Generation.choices` include the prior."""
    logit_bias: LogitBias | None = None
    """Prior over tokens outside the choice of a tool. Log-probabilities stay the model's own."""
    expected_ids: Sequence[int] = ()
    """Text that the reply may repeat, for engines with a drafter; the reply is the same without it."""
    priority: int = 0
    """Larger is more urgent, for engines that run several requests together."""
    adapter: str | None = None
    """Adapter that the reply is written with, for engines that hold several; None: the base model."""
    n_top_logprobs: int = 0
    """Number of most probable tokens in `Generation.top_logprobs` for each sampled token; 0 costs nothing."""
    on_progress: Callable[[Generation], None] | None = None
    """Called with the reply so far after each block of tokens, before `on_tokens`."""
    watch: StateWatch | None = None
    """Monitor that may stop the reply, for engines that were loaded with `state_layers`."""


@dataclass(slots=True)
class GenerationStats:
    """Cost of a generation. Times are in seconds of wall clock."""

    reused_tokens: int = 0
    """Number of prompt tokens whose KV entries were not computed by this call."""
    restored_tokens: int = 0
    """Number of reused tokens that another process had computed and stored."""
    prefilled_tokens: int = 0
    """Number of prompt tokens evaluated by this call."""
    sampled_tokens: int = 0
    forced_tokens: int = 0
    """Number of tokens without an alternative under the grammar; they are not sampled."""
    forward_calls: int = 0
    """Number of evaluations of the model after the prompt."""
    drafted_tokens: int = 0
    """Number of draft tokens that were evaluated."""
    accepted_tokens: int = 0
    """Number of these that the reply took."""
    prefill_s: float = 0.0
    decode_s: float = 0.0
    mask_s: float = 0.0
    first_token_s: float = 0.0
    """Seconds from the request to the first token, including the restore of a state."""

    def then(self, other: GenerationStats) -> GenerationStats:
        """Return the cost of this generation and its continuation together.

        The cached tokens of the continuation are the work of this generation, so only its own reused tokens count.
        """
        return GenerationStats(
            reused_tokens=self.reused_tokens,
            restored_tokens=self.restored_tokens,
            prefilled_tokens=self.prefilled_tokens + other.prefilled_tokens,
            sampled_tokens=self.sampled_tokens + other.sampled_tokens,
            forced_tokens=self.forced_tokens + other.forced_tokens,
            forward_calls=self.forward_calls + other.forward_calls,
            drafted_tokens=self.drafted_tokens + other.drafted_tokens,
            accepted_tokens=self.accepted_tokens + other.accepted_tokens,
            prefill_s=self.prefill_s + other.prefill_s,
            decode_s=self.decode_s + other.decode_s,
            mask_s=self.mask_s + other.mask_s,
            first_token_s=self.first_token_s,
        )


@dataclass(frozen=True, slots=True)
class ChoicePoint:
    """The distribution over legal tokens at one step of a tool choice."""

    step: int
    """Index into `Generation.ids`."""
    token_ids: NDArray[np.int32]
    probabilities: NDArray[np.float32]
    """Softmax at temperature 1 over the legal tokens, including a `ChoiceBias`; sums to 1."""


@dataclass(slots=True)
class Generation:
    """The tokens of a reply; the lists are parallel, with one entry per token, without the end token."""

    ids: list[int] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    """Natural log-probability under the model's full softmax at temperature 1; nan for forced tokens."""
    masked_logprobs: list[float] = field(default_factory=list)
    """The same over the legal tokens only; 0 for forced tokens."""
    legal_counts: list[int] = field(default_factory=list)
    choices: list[ChoicePoint] = field(default_factory=list)
    finish_reason: FinishReason = "end"
    closed_at: int | None = None
    """Index of the token before which the grammar closed the reply because of its token budget, although the model
    would have continued; None if it did not."""
    stats: GenerationStats = field(default_factory=GenerationStats)
    top_logprobs: list[TopLogprobs] = field(default_factory=list)
    """The most probable tokens of each position, under the distribution of `logprobs`, legal or not; an empty
    tuple for forced tokens. No entries if the request asks for none."""

    @property
    def closed_early(self) -> bool:
        """Whether the grammar closed the reply although the model would have continued."""
        return self.closed_at is not None


class Engine(Protocol):
    """A loaded model. `generate` blocks; run it in a worker thread."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's tokens."""
        ...

    @property
    def context_window(self) -> int:
        """Number of tokens that a conversation may hold."""
        ...

    @property
    def chat_template(self) -> str | None:
        """The Jinja chat template that the weights carry, if any."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of weights and adapter, for replays and caches."""
        ...

    def encode_template(self, text: str) -> list[int]:
        """Encode text of the chat template, in which names of control tokens become control tokens."""
        ...

    def generate(
        self,
        request: GenerateRequest,
        *,
        on_tokens: Callable[[list[int]], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Generation:
        """Continue a conversation.

        Args:
            request: Prompt and parameters.
            on_tokens: Called with each block of tokens.
            cancelled: Called between tokens; True stops the generation.

        Raises:
            ContextWindowError: the prompt and one token do not fit.
            EngineError: the backend failed.
        """
        ...

    def forget(self, conversation: str) -> None:
        """Free the cache of a conversation; unknown names are ignored."""
        ...

    def close(self) -> None:
        """Free weights and cache."""
        ...


class Submission(Protocol):
    """A request that an engine runs beside others."""

    @property
    def is_done(self) -> bool:
        """Whether the reply has ended or failed."""
        ...

    def result(self) -> Generation:
        """Return the reply.

        Raises:
            EngineError: the reply failed, or it has not ended.
            GrammarError: the grammar refused a token that its own mask allowed.
        """
        ...


class BatchingEngine(Engine, Protocol):
    """An engine that runs several requests together: each step continues all of them."""

    def submit(
        self,
        request: GenerateRequest,
        *,
        on_tokens: Callable[[list[int]], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Submission:
        """Put a request in the line; the arguments are those of `generate`.

        Raises:
            ContextWindowError: the prompt and one token do not fit.
            EngineError: the request is invalid.
        """
        ...

    def step(self) -> Sequence[Submission]:
        """Evaluate one batch; return the requests that ended with it."""
        ...

    def cancel(self, submission: Submission) -> None:
        """End a request and free its part of the cache; ended ones are ignored."""
        ...


def require_token_ids(ids: Sequence[int], n_vocab: int) -> None:
    """Check that ids are a prompt.

    Raises:
        EngineError: there are none, or one is outside the vocabulary.
    """
    if len(ids) == 0:
        raise EngineError("the prompt is empty; a model needs at least one token to continue")
    if min(ids) < 0 or max(ids) >= n_vocab:
        raise EngineError(f"the prompt contains token ids outside the vocabulary of {n_vocab}")


def require_room(n_prompt: int, limit: int, *, option: str) -> int:
    """Return the number of tokens that may follow a prompt, at least one.

    Args:
        n_prompt: Number of tokens of the prompt.
        limit: Number of tokens that a request may hold.
        option: Option of the engine that sets the limit.

    Raises:
        ContextWindowError: the prompt and one token do not fit.
    """
    if n_prompt + 1 > limit:
        raise ContextWindowError(
            f"the prompt has {n_prompt} tokens and at least one more must fit, but a request may hold {limit}. "
            f"Shorten or compact the conversation, or load the engine with a larger {option}."
        )
    return limit - n_prompt
