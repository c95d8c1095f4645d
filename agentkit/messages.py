"""The conversation: requests to a model and its responses, each a tuple of parts.

Messages are frozen and a conversation only grows, so a model may cache the rendering of earlier messages. The
names are those of pydantic-ai, the de-facto standard; the discriminators are `kind` and `part_kind`.
`messages_to_json` and `messages_from_json` are the stored form.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from agentkit.basics.base64_bytes import Base64, size_text
from agentkit.basics.tagged import TaggedBy
from agentkit.usage import RequestUsage

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True)
class SystemPromptPart:
    """Instructions of the developer."""

    content: str
    part_kind: Literal["system-prompt"] = "system-prompt"

    @property
    def text(self) -> str:
        """The content."""
        return self.content


@dataclass(frozen=True, slots=True)
class BinaryContent:
    """An image, a sound or a document in a prompt or in a tool's result.

    Example:
        ```python
        agent.run_sync(["What is wrong in this chart?", read_file("chart.png")])
        ```
    """

    data: Annotated[bytes, Base64()] = field(repr=False)
    media_type: str
    """Media type, such as "image/png"."""
    name: str | None = None
    """File name; None if there is none."""
    kind: Literal["binary"] = "binary"

    @property
    def reference(self) -> FileReference:
        """The same file without its bytes."""
        return FileReference(sha256(self.data).hexdigest(), self.media_type, len(self.data), self.name)

    @property
    def note(self) -> str:
        """See `FileReference.note`."""
        return _note(self.media_type, len(self.data), self.name)


@dataclass(frozen=True, slots=True)
class FileReference:
    """A file whose bytes are stored elsewhere: in the journal of the run, under their hash."""

    sha256: str
    """SHA-256 of the bytes in hexadecimal."""
    media_type: str
    size: int
    """Number of bytes."""
    name: str | None = None
    """File name; None if there is none."""
    kind: Literal["file"] = "file"

    @property
    def note(self) -> str:
        """Text in place of the file where only text can be shown, such as "[image/png, 20 kB: chart.png]"."""
        return _note(self.media_type, self.size, self.name)


def _note(media_type: str, size: int, name: str | None) -> str:
    return f"[{media_type}, {size_text(size)}{f': {name}' if name else ''}]"


ContentItem = str | Annotated[BinaryContent | FileReference, TaggedBy("kind")]
"""A piece of a message: text or a file."""
Content = str | tuple[ContentItem, ...]
"""Content of a message: text, or text and files in order."""


def text_of(content: Content) -> str:
    """Return content as text, with a note in place of each file; pieces are separated by line breaks."""
    if isinstance(content, str):
        return content
    return "\n".join(item if isinstance(item, str) else item.note for item in content)


def with_text(content: Content, text: str) -> Content:
    """Return content with its text replaced, and its files behind the text."""
    if isinstance(content, str):
        return text
    return (text, *(item for item in content if not isinstance(item, str)))


def with_line(content: Content, line: str) -> Content:
    """Return content with one more line of text at the end."""
    return f"{content}\n{line}" if isinstance(content, str) else (*content, line)


@dataclass(frozen=True, slots=True)
class Addition:
    """Text that a toolset adds to the prompt of a new run: memories, tools that were found, passages."""

    source: str
    """Name of what added it, such as "memory"."""
    text: str
    tools: tuple[str, ...] = ()
    """Names of the tools that the text defines; they may be called from now on."""
    is_untrusted: bool = False
    """True if others may have written the text: it taints the run."""


@dataclass(frozen=True, slots=True)
class UserPromptPart:
    """Message of the user, with the additions of toolsets at its end."""

    content: Content
    additions: tuple[Addition, ...] = ()
    """Additions of toolsets, which the content contains (`with_additions`)."""
    part_kind: Literal["user-prompt"] = "user-prompt"

    @property
    def text(self) -> str:
        """The content as text, with a note in place of each file."""
        return text_of(self.content)

    @property
    def said(self) -> Content:
        """The content without additions: what the user said."""
        if not self.additions:
            return self.content
        added = _joined(self.additions)
        if isinstance(self.content, str):
            return self.content.removesuffix(added)
        return tuple(item for item in self.content if item != added.lstrip())

    def with_additions(self, additions: tuple[Addition, ...]) -> UserPromptPart:
        """Return the message with additions at its end, instead of those that it has."""
        if not additions:
            return self if not self.additions else UserPromptPart(self.said)
        said, added = self.said, _joined(additions)
        content = said + added if isinstance(said, str) else (*said, added.lstrip())
        return UserPromptPart(content, additions)


def _joined(additions: tuple[Addition, ...]) -> str:
    return "".join(f"\n\n{each.text}" for each in additions)


@dataclass(frozen=True, slots=True)
class ToolReturnPart:
    """The result of one tool call. Its text is untrusted."""

    tool_name: str
    tool_call_id: str
    content: Content
    """Text, or text and files, for the model."""
    data: Any = None
    """The value behind the text, for the application; JSON-serialisable."""
    is_error: bool = False
    part_kind: Literal["tool-return"] = "tool-return"

    @property
    def text(self) -> str:
        """The content as text, with a note in place of each file."""
        return text_of(self.content)


@dataclass(frozen=True, slots=True)
class RetryPromptPart:
    """Request for a correction: the error in the last response and how to fix it."""

    content: str
    tool_name: str | None = None
    tool_call_id: str | None = None
    """The call that this part answers; None if the final answer was wrong."""
    part_kind: Literal["retry-prompt"] = "retry-prompt"

    @property
    def text(self) -> str:
        """The content."""
        return self.content


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text that the model wrote."""

    content: str
    part_kind: Literal["text"] = "text"


@dataclass(frozen=True, slots=True)
class ThinkingPart:
    """Reasoning that the model wrote before its answer."""

    content: str
    signature: str | None = None
    """Data with which the provider reads its reasoning again; not read here, and sent to that provider only."""
    provider: str | None = None
    """Provider that made the signature, as in `Model.provider`."""
    part_kind: Literal["thinking"] = "thinking"


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A tool call that the model asks for."""

    tool_name: str
    arguments: str
    """The JSON text of the arguments, as the model wrote it; may be invalid without a grammar."""
    tool_call_id: str = field(default_factory=lambda: new_call_id())
    probability: float | None = None
    """Probability of this tool among all legal choices, under the grammar's mask."""
    alternatives: tuple[tuple[str, float], ...] = ()
    """The other tools and their probabilities; names are joined by "|" if one branch led to several tools."""
    signature: str | None = None
    """Signature as in `ThinkingPart`; some providers sign calls."""
    provider: str | None = None
    """Provider that made the signature."""
    part_kind: Literal["tool-call"] = "tool-call"

    def arguments_dict(self) -> dict[str, Any]:
        """Parse the arguments.

        Raises:
            ValueError: they are not a JSON object.
        """
        value: Any = json.loads(self.arguments) if self.arguments.strip() else {}
        if not isinstance(value, dict):
            raise ValueError(f"arguments of {self.tool_name!r} are {type(value).__name__}, not an object")
        return cast("dict[str, Any]", value)


ModelRequestPart = SystemPromptPart | UserPromptPart | ToolReturnPart | RetryPromptPart
ModelResponsePart = TextPart | ThinkingPart | ToolCallPart


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """Parts sent to the model."""

    parts: tuple[Annotated[ModelRequestPart, TaggedBy("part_kind")], ...]
    kind: Literal["request"] = "request"


@dataclass(frozen=True, slots=True)
class DecodingStats:
    """Counters that an in-process engine reports for one response; times in seconds."""

    reused_tokens: int = 0
    """Prompt tokens that were not evaluated for this response."""
    restored_tokens: int = 0
    """Reused tokens that an earlier process had stored on disk."""
    prefilled_tokens: int = 0
    sampled_tokens: int = 0
    forced_tokens: int = 0
    forward_calls: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    mask_s: float = 0.0
    first_token_s: float = 0.0
    """Seconds from the request to the first token."""


@dataclass(frozen=True, slots=True)
class ModelResponse:
    """Parts received from the model."""

    parts: tuple[Annotated[ModelResponsePart, TaggedBy("part_kind")], ...]
    usage: RequestUsage = RequestUsage()
    model_name: str = ""
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter", "error"] | None = None
    decoding: DecodingStats | None = None
    p_answer: float | None = None
    """Probability, under the mask, that the model answers instead of calling a tool."""
    abstained: bool = False
    """The model stated that no tool fits, by the convention's empty call list."""
    kind: Literal["response"] = "response"

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return "".join(p.content for p in self.parts if isinstance(p, TextPart))

    @property
    def tool_calls(self) -> tuple[ToolCallPart, ...]:
        """The tool calls, in order."""
        return tuple(p for p in self.parts if isinstance(p, ToolCallPart))


ModelMessage = ModelRequest | ModelResponse
"""A message of a conversation: one to the model, or one from it."""


def new_call_id() -> str:
    """Return an id for a tool call: 64 random bits, enough to be unique within any journal."""
    return f"call_{secrets.token_hex(8)}"


def messages_to_json(messages: tuple[ModelMessage, ...] | list[ModelMessage]) -> bytes:
    """Return the conversation as JSON."""
    from pydantic_core import to_json

    return to_json(tuple(messages), inf_nan_mode="strings", bytes_mode="base64")


def messages_from_json(data: bytes | str) -> tuple[ModelMessage, ...]:
    """Read a conversation back.

    Raises:
        pydantic.ValidationError: the data is not a conversation.
    """
    from agentkit.basics.json_values import parsed_json

    try:
        value = parsed_json(data)
    except ValueError:
        return _adapter().validate_json(data)  # reports the position of the syntax error
    return _adapter().validate_python(value)


@cache
def _adapter() -> TypeAdapter[tuple[ModelMessage, ...]]:
    from pydantic import TypeAdapter

    return TypeAdapter(tuple[Annotated[ModelMessage, TaggedBy("kind")], ...])
