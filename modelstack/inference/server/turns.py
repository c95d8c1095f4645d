"""Types between the protocols and the model: what a reply is asked for, and what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from modelstack.inference.engine import SamplingParams
from modelstack.inference.thinking import with_seed
from modelstack.tokenizer.chat import Role
from modelstack.toolcalls.convention import JsonSchema, ToolSpec

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
"""`content_filter`: the monitor stopped the reply."""
FILTERED = "The request or the reply was stopped by the monitor of this server."
"""Refusal that a client is told."""


@dataclass(frozen=True, slots=True)
class PastCall:
    """Call of a tool in an earlier turn of the assistant."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Turn:
    """Turn of a conversation."""

    role: Role
    text: str
    calls: tuple[PastCall, ...] = ()
    """Calls of an assistant's turn."""
    tool_name: str = ""
    """Tool whose result this is."""
    is_error: bool = False
    """Whether the result is an error of the call."""


@dataclass(frozen=True, slots=True)
class ReplyRequest:
    """A reply that is asked for."""

    turns: tuple[Turn, ...]
    tools: tuple[ToolSpec, ...] = ()
    """Tools that the model is shown."""
    callable: frozenset[str] | None = None
    """Names of the tools that it may call; None: all."""
    must_call: bool = False
    """Whether the reply is calls; otherwise it may be an answer."""
    parallel: bool = True
    """Whether a reply may have several calls."""
    answer_schema: JsonSchema | None = None
    """JSON Schema of an answer; None: words."""
    max_tokens: int | None = None
    """Maximum number of tokens of the reply without its thought; None: what the context window leaves."""
    thinking_tokens: int | None = None
    """Maximum number of tokens of a thought before the reply; None: no thought."""
    stop: tuple[str, ...] = ()
    sampling: SamplingParams = SamplingParams()
    adapter: str | None = None
    n_top_logprobs: int | None = None
    """Number of most probable tokens beside each token's log-probability; None: no log-probabilities."""
    expected: str = ""
    """Text that the reply may repeat: a source of drafts."""

    def with_seed(self, number: int) -> ReplyRequest:
        """Return the request for one of several replies."""
        return replace(self, sampling=with_seed(self.sampling, number))


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A continuation of tokens, without a conversation's format."""

    prompt_ids: Sequence[int]
    max_tokens: int
    stop: tuple[str, ...] = ()
    sampling: SamplingParams = SamplingParams()
    adapter: str | None = None
    ignores_end: bool = False
    """Whether the reply goes on after an end token."""
    n_top_logprobs: int | None = None
    """Number of most probable tokens beside each token's log-probability; None: no log-probabilities."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A visible token with its natural log-probability, before temperature, filters and grammar."""

    data: bytes
    """Its bytes, without those that are not visible."""
    logprob: float
    """0 if no other token was legal."""
    offset: int
    """Number of characters of the text before it."""
    top: tuple[tuple[bytes, float], ...] = ()
    """The most probable tokens at its place, whether legal or not; none if no other token was legal."""


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Next piece of the words, or of the JSON, of an answer."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    """Its tokens, if they are asked for."""


@dataclass(frozen=True, slots=True)
class ThoughtPiece:
    """Next piece of a thought."""

    text: str


@dataclass(frozen=True, slots=True)
class CallPiece:
    """Next piece of the JSON arguments of a call; the first piece of a call has its name."""

    index: int
    arguments: str
    name: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    """Tokens that were written since the piece before, marks included, if they are asked for."""


Piece = TextPiece | ThoughtPiece | CallPiece


@dataclass(frozen=True, slots=True)
class ServedReply:
    """A finished reply."""

    text: str
    calls: tuple[tuple[str, str], ...] = ()
    """Name of each called tool with the JSON of its arguments."""
    thought: str = ""
    finish_reason: FinishReason = "stop"
    stopped_by: str | None = None
    """Text of the request's `stop` that ended the reply."""
    n_prompt: int = 0
    n_cached: int = 0
    """Prompt tokens whose cache entries existed already."""
    n_written: int = 0
    """Tokens of thought and reply."""
    n_thought: int = 0
    """Tokens of the thought and its marks."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Tokens of the text, if they are asked for."""
    call_logprobs: tuple[TokenLogprob, ...] = ()
    """Tokens of the calls, marks included."""
    n_drafted: int = 0
    """Draft tokens that were evaluated for the reply without its thought."""
    n_accepted: int = 0
    """Draft tokens that became part of it."""
    n_evaluations: int = 0
    """Evaluations of the model after its prompt."""
    first_token_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ServedEmbeddings(ServedReply):
    """The end of a request for embeddings: a reply without text."""

    vectors: tuple[str, ...] = ()
    """The vector of each text as JSON."""
