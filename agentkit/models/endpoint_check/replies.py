"""Reads a server's reply without trusting its form: a field that is absent or of another type is None or empty.

`ServerReply` is what came over the wire; `ChatReply` is the chat completion in it. Unlike the reader of the model
class, this one corrects nothing: a finish reason, an id or a count is kept as the server wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from agentkit.basics.well_formed import well_formed
from agentkit.errors import ContextWindowExceeded, UnexpectedModelBehavior
from agentkit.models.endpoint_check.findings import Sample
from agentkit.models.http.errors import Endpoint, ErrorFormat, read_details, status_error
from agentkit.models.local.tool_probability import TokenLogprob, read_logprobs
from agentkit.models.openai.tool_call_assembly import ToolCallAssembler

MAX_SHOWN_CHARS = 160
"""Characters of a server's own words in a finding."""
_BUSY = frozenset({408, 425, 429, 502, 503, 504, 529})
"""Statuses that say nothing about a request: limits of rate, overload, gateways."""
NOT_THERE = frozenset({404, 405, 501})
"""Statuses of a path that a server does not have."""


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """A server-sent event."""

    at_s: float
    """Seconds after the request was sent."""
    n_read: int
    """Number of the network read that completed it."""
    data: Any
    """Parsed JSON; None if it is not JSON."""


@dataclass(frozen=True, slots=True)
class ServerReply:
    """A reply as it came, or the reason why none came."""

    status: int = 0
    """HTTP status; 0 if no response came."""
    body: Any = None
    """Parsed JSON of a whole reply; None if it is not JSON."""
    text: str = ""
    """Beginning of the body."""
    content_type: str = ""
    location: str = ""
    """Target of a redirect."""
    events: tuple[StreamEvent, ...] = ()
    is_stream: bool = False
    has_done: bool = False
    """Whether the stream ended with `[DONE]`."""
    elapsed_s: float = 0.0
    error: str = ""
    """Reason why no complete reply came; "" if one came."""
    connection: str = ""
    """Description of the connection, such as "TLSv1.3"."""

    @property
    def is_ok(self) -> bool:
        """Whether a reply came that reports no error, with a status of success."""
        return not self.error and 200 <= self.status < 300 and not self.reported

    @property
    def reported(self) -> str:
        """The error that the reply reports, in the server's words; "" without one."""
        bodies = [event.data for event in self.events] if self.is_stream else [self.body]
        if not self.is_stream and not 200 <= self.status < 300:
            return shown(read_details(self.body).message or self.text) or "(no text)"
        for body in bodies:
            if isinstance(body, dict) and cast("dict[str, Any]", body).get("error"):
                return shown(read_details(body).message or json.dumps(body)[: 4 * MAX_SHOWN_CHARS])
        return ""

    @property
    def is_refused(self) -> bool:
        """Whether the server refused the request for its content, so that asking again is useless."""
        if self.error or self.status in _BUSY or self.status in (401, 403):
            return False
        return self.status >= 400 or bool(self.reported)

    @property
    def is_context_overflow(self) -> bool:
        """Whether the model classes recognise the error as a conversation that is too long."""
        if self.status < 400:
            return False
        found = status_error(Endpoint("", "", ErrorFormat("")), self.status, self.text)
        return isinstance(found, ContextWindowExceeded)


def at(value: Any, *path: str | int) -> Any:
    """Return what is at a path of keys and indexes; None where there is nothing."""
    for step in path:
        if isinstance(step, str) and isinstance(value, dict):
            value = cast("dict[str, Any]", value).get(step)
        elif isinstance(step, int) and isinstance(value, list) and step < len(cast("list[Any]", value)):
            value = cast("list[Any]", value)[step]
        else:
            return None
    return value


def text_at(value: Any, *path: str | int) -> str:
    """Return the text at a path; "" where there is none."""
    found = at(value, *path)
    return well_formed(found) if isinstance(found, str) else ""


def list_at(value: Any, *path: str | int) -> list[Any]:
    """Return the list at a path; empty where there is none."""
    found = at(value, *path)
    return cast("list[Any]", found) if isinstance(found, list) else []


def count_at(value: Any, *path: str | int) -> int | None:
    """Return the non-negative whole number at a path; None where there is none."""
    found = at(value, *path)
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None


def shown(text: str, max_chars: int = MAX_SHOWN_CHARS) -> str:
    """Return text on one line, cut to `max_chars`."""
    line = " ".join(well_formed(text[: 4 * max_chars]).split())
    return line if len(line) <= max_chars else line[: max_chars - 1] + "…"


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call as the server wrote it."""

    name: str
    arguments: str
    id: str = ""

    @property
    def parsed(self) -> dict[str, Any] | None:
        """The arguments; None if they are not a JSON object."""
        return json_object(self.arguments)


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A chat completion, whole or joined from a stream."""

    text: str
    thinking: str
    calls: tuple[Call, ...]
    finish_reason: str
    usage: Any
    logprobs: tuple[TokenLogprob, ...]

    @property
    def prompt_tokens(self) -> int | None:
        """Prompt tokens by the server's count."""
        return count_at(self.usage, "prompt_tokens")

    @property
    def completion_tokens(self) -> int | None:
        """Reply tokens by the server's count."""
        return count_at(self.usage, "completion_tokens")

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that came from a cache; None if the server does not count them."""
        found = count_at(self.usage, "prompt_tokens_details", "cached_tokens")
        return found if found is not None else count_at(self.usage, "prompt_cache_hit_tokens")


def json_object(text: str) -> dict[str, Any] | None:
    """Return the JSON object that a text is; None if it is something else."""
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def chat_reply(reply: ServerReply) -> ChatReply | None:
    """Return the chat completion in a reply; None if there is none."""
    if not reply.is_ok:
        return None
    bodies = [event.data for event in reply.events] if reply.is_stream else [reply.body]
    choices = [choice for body in bodies for choice in list_at(body, "choices") if not at(choice, "index")]
    if not choices:
        return None
    messages = [at(choice, "delta") or at(choice, "message") for choice in choices]
    usages = [body for body in bodies if isinstance(at(body, "usage"), dict)]
    return ChatReply(
        text="".join(map(_content, messages)),
        thinking="".join(text_at(m, "reasoning_content") or text_at(m, "reasoning") for m in messages),
        calls=_streamed_calls(messages) if reply.is_stream else _whole_calls(messages[0]),
        finish_reason=next((r for c in reversed(choices) if (r := text_at(c, "finish_reason"))), ""),
        usage=at(usages[-1], "usage") if usages else None,
        logprobs=tuple(
            token for c in choices if isinstance(c, dict) for token in read_logprobs(cast("dict[str, Any]", c))
        ),
    )


def _content(message: Any) -> str:
    """Return the text of a message; some servers send a list of blocks."""
    return text_at(message, "content") or "".join(text_at(block, "text") for block in list_at(message, "content"))


def _whole_calls(message: Any) -> tuple[Call, ...]:
    return tuple(
        Call(text_at(entry, "function", "name"), _arguments(entry), text_at(entry, "id"))
        for entry in list_at(message, "tool_calls")
    )


def _arguments(entry: Any) -> str:
    found = at(entry, "function", "arguments")
    return json.dumps(found) if isinstance(found, dict) else text_at(entry, "function", "arguments")


def _streamed_calls(messages: Sequence[Any]) -> tuple[Call, ...]:
    """Join the pieces of calls as the model class does."""
    assembler = ToolCallAssembler()
    ids: list[str] = []
    try:
        for message in messages:
            entries = list_at(message, "tool_calls")
            ids += [found for entry in entries if (found := text_at(entry, "id"))]
            assembler.feed(entries)
        parts = assembler.parts()
    except UnexpectedModelBehavior:
        return ()
    ids = list(dict.fromkeys(ids))
    return tuple(
        Call(part.tool_name, part.arguments, ids[n] if n < len(ids) else "") for n, part in enumerate(parts)
    )


def sample_without_reply(reply: ServerReply) -> Sample:
    """Return the sample of a reply that holds no chat completion."""
    if reply.error:
        return Sample("unknown", reply.error)
    if 300 <= reply.status < 400:
        return Sample("unknown", f"redirect to {shown(reply.location) or 'nowhere'}; redirects are not followed")
    if reply.is_refused:
        return Sample("refused", f"{reply.status}: {reply.reported}")
    if not reply.is_ok:
        return Sample("unknown", f"{reply.status}: {reply.reported}")
    return Sample("fails", f"no chat completion: {shown(reply.text) or reply.content_type or 'empty'}")
