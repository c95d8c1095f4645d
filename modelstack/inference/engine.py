"""The `Engine` protocol: token ids in, token ids out, with everything a runtime wants to know on the side.

An engine owns weights, KV cache and decode loop. It is synchronous and used from one thread at a time: the
caller keeps it off its event loop. Conversations are named, so that an engine can keep the KV cache of several
and evaluate only what is new in each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.grammar import Grammar
from modelstack.tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from modelstack.inference.sampling import LegalTokens

FinishReason = Literal["end", "length", "cancelled"]


class EngineError(Exception):
    """The engine could not load, or could not evaluate what it was given; the message says the fix."""


class ContextWindowError(EngineError):
    """Prompt and reply do not fit in the context window."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one token is drawn from the (masked) distribution; temperature 0 is greedy."""

    temperature: float = 0.0
    top_k: int = 0
    """Keep the k most probable tokens; 0 keeps all."""
    top_p: float = 1.0
    min_p: float = 0.0
    """Drop tokens below this share of the most probable one's probability."""
    seed: int | None = None


class ChoiceBias(Protocol):
    """What is known of a choice of tools before the model is asked, as something to add to its logits."""

    def __call__(self, written: Sequence[int], token_ids: NDArray[np.intp]) -> NDArray[np.float32] | None:
        """Return what to add to the logit of each of `token_ids`, all legal behind the reply's tokens `written`.

        Asked while `Grammar.choosing`. None adds nothing.
        """
        ...


class LogitBias(Protocol):
    """What is known of any other token of a reply before the model is asked."""

    def __call__(
        self, written: Sequence[int], legal: LegalTokens, logits_V: NDArray[np.float32]
    ) -> NDArray[np.float32] | None:
        """Return logits to draw from instead of `logits_V`, behind the reply's tokens `written`; None for these.

        Asked where more than one token is legal and no tool is being chosen.
        """
        ...


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One generation: continue `prompt_ids` in `conversation`."""

    prompt_ids: Sequence[int]
    """The whole prompt; the engine finds by itself which prefix it has evaluated already."""
    max_tokens: int
    fixed_tokens: int = field(default=0, kw_only=True)
    """Leading tokens that prompts of later processes will share (system text and tools), worth storing."""
    conversation: str = "default"
    grammar: Grammar | None = None
    sampling: SamplingParams = SamplingParams()
    end_ids: frozenset[int] | None = None
    """Tokens that end the generation; None takes the vocabulary's."""
    jump_ahead: bool = True
    """Append forced tokens as a block and evaluate them in one call."""
    choice_bias: ChoiceBias | None = None
    """A prior over tools; log-probabilities stay the model's own, `Generation.choices` have it in them."""
    logit_bias: LogitBias | None = None
    """A prior over what comes behind the choice of a tool; log-probabilities stay the model's own here too."""


@dataclass(slots=True)
class GenerationStats:
    """What a generation cost. Times in seconds of wall clock."""

    reused_tokens: int = 0
    """Prompt tokens whose KV entries were not computed by this call."""
    restored_tokens: int = 0
    """Reused tokens that an earlier process had stored on disk."""
    prefilled_tokens: int = 0
    """Prompt tokens evaluated by this call."""
    sampled_tokens: int = 0
    forced_tokens: int = 0
    """Tokens that the grammar left no choice about; never sampled."""
    forward_calls: int = 0
    """Evaluations of the model after the prompt."""
    prefill_s: float = 0.0
    decode_s: float = 0.0
    mask_s: float = 0.0
    first_token_s: float = 0.0
    """From the request to the first token, with what was restored."""

    def then(self, other: GenerationStats) -> GenerationStats:
        """Return what this generation and one that went on behind it cost together.

        What the second found in the cache is the first's own work: only what the first found counts as reused.
        """
        return GenerationStats(
            reused_tokens=self.reused_tokens,
            restored_tokens=self.restored_tokens,
            prefilled_tokens=self.prefilled_tokens + other.prefilled_tokens,
            sampled_tokens=self.sampled_tokens + other.sampled_tokens,
            forced_tokens=self.forced_tokens + other.forced_tokens,
            forward_calls=self.forward_calls + other.forward_calls,
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
    """Softmax at temperature 1 over the legal tokens only, a `ChoiceBias` included; sums to 1."""


@dataclass(slots=True)
class Generation:
    """The tokens of one reply; lists run in parallel, one entry a token, the end token left out."""

    ids: list[int] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    """Natural log-probability under the model's full softmax at temperature 1; nan for forced tokens."""
    masked_logprobs: list[float] = field(default_factory=list)
    """The same, renormalised over the legal tokens; 0 for forced tokens."""
    legal_counts: list[int] = field(default_factory=list)
    choices: list[ChoicePoint] = field(default_factory=list)
    finish_reason: FinishReason = "end"
    closed_at: int | None = None
    """Tokens in front of which the grammar closed the reply, because its token budget ended, although the model
    would have gone on; None where it did not."""
    stats: GenerationStats = field(default_factory=GenerationStats)

    @property
    def closed_early(self) -> bool:
        """Whether the grammar closed the reply where the model would have gone on."""
        return self.closed_at is not None


class Engine(Protocol):
    """A loaded model. `generate` blocks; run it in a worker thread."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's tokens."""
        ...

    @property
    def context_window(self) -> int:
        """Tokens that one conversation may hold."""
        ...

    @property
    def chat_template(self) -> str | None:
        """The Jinja chat template that the weights carry, if any."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of weights and adapter, for replay and caches."""
        ...

    def encode_template(self, text: str) -> list[int]:
        """Encode text of the chat template itself, where names of control tokens become control tokens."""
        ...

    def generate(
        self,
        request: GenerateRequest,
        *,
        on_tokens: Callable[[list[int]], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Generation:
        """Continue a conversation; `cancelled` is asked between tokens, `on_tokens` told each block.

        Raises:
            ContextWindowError: prompt plus one token do not fit.
            EngineError: the backend failed.
        """
        ...

    def forget(self, conversation: str) -> None:
        """Free the cache of a conversation; unknown names are ignored."""
        ...

    def close(self) -> None:
        """Free weights and cache."""
        ...
