"""The `Model` protocol: one request in, one response out, deltas on the side.

A reply is pushed to a callback while it grows rather than pulled from a generator, so cancelling a run cancels
exactly one coroutine and nothing is left to close.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from agentkit.errors import UserError
from agentkit.messages import ModelMessage, ModelResponse
from agentkit.models.model_price import ModelPrice, Prices
from agentkit.models.providers import IN_PROCESS_PROVIDER
from agentkit.tools.definition import ToolDefinition

if TYPE_CHECKING:
    from agentkit.files import FileKind


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """Capabilities of a model; the runtime requests no others."""

    grammar: bool = False
    """Replies are masked by a grammar, so calls and structured output cannot be malformed."""
    logprobs: bool = False
    prefix_cache: bool = False
    """Evaluated tokens of a conversation are reused."""
    context_window: int | None = None
    parallel_tool_calls: bool = True
    native_output: bool = False
    """Accepts a JSON Schema for the final answer."""
    inputs: frozenset[FileKind] | None = None
    """Kinds of files that the model reads besides text; None: not known, and all are sent."""


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Settings for sampling and timeouts; None keeps the model's default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    tool_choice: Literal["auto", "required", "none"] | None = None
    """"required": the first response of a run must call a tool; later ones are free, or no run would end."""
    stop: tuple[str, ...] = ()
    thinking_tokens: int | None = None
    """Maximum number of thinking tokens. 0: no thinking; a model in this process that was trained to think writes
    an empty thought. None: the model's default; a model in this process answers at once. Models of a provider that
    take no number decide themselves how much they think."""
    timeout_s: float | None = None
    """Seconds until a reply begins, retries included, and between two pieces of it; a reply that continues may
    take any time."""
    extra_body: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further fields for the body of an HTTP request. Objects are merged, here and with the body."""

    def merged(self, other: ModelSettings | None) -> ModelSettings:
        """Return these settings with those of `other` that are set taking precedence; `extra_body` is merged."""
        if other is None or other is self:
            return self
        default = ModelSettings()
        changes = {
            name: value for name in self.__slots__ if (value := getattr(other, name)) != getattr(default, name)
        }
        if "extra_body" in changes:
            changes["extra_body"] = merged_objects(self.extra_body, other.extra_body)
        return ModelSettings(**{**{name: getattr(self, name) for name in self.__slots__}, **changes})


def merged_objects(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes`, which take precedence; an object is merged with an object, key by key."""
    merged = dict(base)
    for key, value in changes.items():
        known = merged.get(key)
        if isinstance(known, Mapping) and isinstance(value, Mapping):
            value = merged_objects(cast("Mapping[str, Any]", known), cast("Mapping[str, Any]", value))
        merged[key] = value
    return merged


@dataclass(frozen=True, slots=True)
class OutputSchema:
    """The form of a structured final answer."""

    name: str
    json_schema: Mapping[str, Any]
    """JSON Schema of an object."""
    description: str | None = None
    wrapped: bool = False
    """True if the answer is the one property `result` of that object, because its own schema is not an object."""


@dataclass(frozen=True, slots=True)
class ModelRequestParameters:
    """Parameters of a request besides the conversation."""

    tools: tuple[ToolDefinition, ...] = ()
    """Tools that are shown to the model."""
    allowed_tools: frozenset[str] | None = None
    """Tools that it may call now; None means all. Others stay in the prompt but are masked out."""
    found_tools: frozenset[str] = frozenset()
    """Names of tools that a search found during the conversation; `tools` lists them last."""
    output: OutputSchema | None = None
    """Schema of a structured final answer; None means text."""
    tool_choice: Literal["auto", "required", "none"] = "auto"
    parallel_tool_calls: bool = True
    settings: ModelSettings = ModelSettings()
    prices: Prices = field(default_factory=dict[str, ModelPrice])
    """Prices that the application gave. A model that asks several others prices each of their replies."""

    @property
    def callable_tools(self) -> tuple[ToolDefinition, ...]:
        """The tools that may be called in this request."""
        return () if self.tool_choice == "none" else self.offered_tools

    @property
    def offered_tools(self) -> tuple[ToolDefinition, ...]:
        """The tools that a server is sent: with `tool_choice` "none" the same ones, though none may be called.

        Some servers refuse a history with calls if no tools are given, and their prompt caches hold only while the
        tools stay the same.
        """
        if self.allowed_tools is None:
            return self.tools
        return tuple(tool for tool in self.tools if tool.name in self.allowed_tools)


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """More reasoning text."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of a tool call; `index` counts the calls of this response."""

    index: int
    tool_name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class TokensDelta:
    """The tokens of a whole reply, sent at its end by a model that runs in this process.

    Sufficient to train without tokenising again, and to check that the same request gives the same reply.
    """

    n_prompt: int
    """Tokens of the whole prompt."""
    new_prompt_ids: tuple[int, ...]
    """Prompt tokens after the conversation's last reply; all if there was none."""
    reply_ids: tuple[int, ...]
    """Tokens of the reply, without the end token."""
    logprobs: tuple[float | None, ...]
    """Natural log-probability of each reply token under the model's full distribution; None if forced."""
    legal_counts: tuple[int, ...]
    """Number of legal tokens at each position; 1 is forced."""
    engine: str
    """Hash of weights and adapter."""
    vocabulary: str
    """Hash of the tokenizer's vocabulary."""
    grammar: str | None
    """Hash of the reply's format; None without a grammar."""
    convention: str = "ours"
    """Convention in which calls are written, see `modelstack.toolcalls.conventions`."""
    convention_why: str = ""
    """Reason for this convention."""


@dataclass(frozen=True, slots=True)
class FilterDelta:
    """A monitor inside the model stopped the reply, which then has the finish reason "content_filter"."""

    what: Literal["request", "reply"]
    """Text that was judged unsafe."""
    reason: str


ModelDelta = TextDelta | ThinkingDelta | ToolCallDelta | TokensDelta | FilterDelta
OnDelta = Callable[[ModelDelta], None]


_requests_blocked: ContextVar[bool] = ContextVar("agentkit_model_requests_blocked", default=False)


@contextmanager
def block_model_requests() -> Generator[None]:
    """Make every real model refuse requests within this context; test doubles keep working."""
    token = _requests_blocked.set(True)
    try:
        yield
    finally:
        _requests_blocked.reset(token)


def check_model_requests_allowed(model: Model) -> None:
    """Refuse a request to a real model inside `block_model_requests()`.

    Raises:
        UserError: requests are blocked here.
    """
    if _requests_blocked.get():
        raise UserError(
            f"a request to {model.name!r} inside block_model_requests(): give the agent a test double with "
            f"`agent.override(model=TestModel())`, or leave the block."
        )


class Model(ABC):
    """A model that continues a conversation. Safe for concurrent requests unless it states otherwise."""

    @property
    @abstractmethod
    def name(self) -> str:
        """A name for messages, traces and errors."""

    @property
    def provider(self) -> str:
        """The provider in OpenTelemetry's terms (`gen_ai.provider.name`); by default a model in this process."""
        return IN_PROCESS_PROVIDER

    @property
    def adapter(self) -> str | None:
        """Name and hash of the LoRA adapter on the model's weights, for traces; None without one."""
        return None

    @property
    def base_url(self) -> str | None:
        """Address of the API that is asked, by which the price list knows the provider; None without one."""
        return None

    @property
    def is_free(self) -> bool:
        """True if a request costs no money, because the model runs in this process."""
        return False

    @property
    def answering_models(self) -> tuple[Model, ...]:
        """Models whose replies this one returns: itself, unless it asks others."""
        return (self,)

    @property
    def profile(self) -> ModelProfile:
        """Capabilities of the model."""
        return ModelProfile()

    @abstractmethod
    async def request(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        *,
        on_delta: OnDelta | None = None,
    ) -> ModelResponse:
        """Continue `messages`; pass text and calls to `on_delta` as they arrive.

        Raises:
            ModelError: the request failed; subclasses say how.
        """

    async def __aenter__(self) -> Self:
        """Acquire connections or weights; may be entered more than once."""
        return self

    async def __aexit__(  # noqa: B027 - having nothing to release is the common case
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release what `__aenter__` acquired."""
