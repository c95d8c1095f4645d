"""OpenAI's chat completions: an agent as a model, for programs that know no agents.

The protocol has no memory: a request brings the whole conversation, and a client that leaves cannot come back, so
its run is cancelled. It has no form for calls of the agent's own tools; they are not told. A run that waits for a
decision ends in an error that names the run.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from pydantic_core import to_json

from agentkit.events import (
    AgentEvent,
    ModelRequestEvent,
    RunFailedEvent,
    RunFinishedEvent,
    TextDeltaEvent,
)
from agentkit.files import FileLimits
from agentkit.messages import BinaryContent, ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart
from agentkit.serving.errors import RequestRefused
from agentkit.serving.followers import RunEnd, wait_for_end
from agentkit.serving.given_files import content_of, file_of_base64, file_of_url
from agentkit.serving.run_request import RunRequest
from agentkit.serving.service import WAITING, AgentService
from agentkit.serving.threads import cancelled_if_left, failed, output_text
from modelstack.inference.server.bodies import Body

if TYPE_CHECKING:
    from agentkit.usage import RunUsage

END = b"data: [DONE]\n\n"
_REASONS = {
    "truncated": "length",
    "limit_reached": "length",
    "filtered": "content_filter",
    "refused": "content_filter",
}
"""Finish reasons by the status of a run; the others are "stop"."""


class TextContent(Body):
    """Part of a message."""

    type: Literal["text"]
    text: str


class ImageAddress(Body):
    """Address of an image."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImageContent(Body):
    """Image in a message."""

    type: Literal["image_url"]
    image_url: ImageAddress


class AudioData(Body):
    """Sound in base64."""

    data: str
    format: Literal["wav", "mp3"]


class AudioContent(Body):
    """Sound in a message."""

    type: Literal["input_audio"]
    input_audio: AudioData


class FileData(Body):
    """File as a data URL."""

    file_data: str
    filename: str | None = None


class FileContent(Body):
    """Document in a message."""

    type: Literal["file"]
    file: FileData


ContentPart = Annotated[TextContent | ImageContent | AudioContent | FileContent, Field(discriminator="type")]


class ChatMessage(Body):
    """Message of a conversation."""

    role: Literal["user", "assistant"]
    content: str | list[ContentPart]
    refusal: None = None
    name: str | None = None

    @property
    def items(self) -> list[str | BinaryContent]:
        """Texts and files, in order."""
        return [self.content] if isinstance(self.content, str) else [_item(part) for part in self.content]


def _item(part: ContentPart) -> str | BinaryContent:
    match part:
        case TextContent():
            return part.text
        case ImageContent():
            return file_of_url(part.image_url.url)
        case AudioContent():
            return file_of_base64(part.input_audio.data, f"audio/{part.input_audio.format}")
        case FileContent():
            return file_of_url(part.file.file_data, part.file.filename)


class StreamOptions(Body):
    """Options of a streamed reply."""

    include_usage: bool = False


class ChatBody(Body):
    """Request; settings of models are the agent's own, so fields for them are refused by name."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] = 1
    # These describe the request to OpenAI's own service.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None


async def accept(service: AgentService, given: ChatBody, key: str | None, owner: str) -> str:
    """Begin the run of a request, and return its id.

    Raises:
        RequestRefused: another agent is asked, or the last message is not the user's; or see `AgentService`.
    """
    if given.model != service.name:
        raise RequestRefused(
            "not_found", f"the model {given.model!r} is not served here; known: {service.name!r}."
        )
    *earlier, last = given.messages
    if last.role != "user":
        raise RequestRefused("unprocessable", "the last message must be the user's.")
    limits = service.file_limits
    history = tuple(_message(each, limits) for each in earlier)
    return await service.submit(RunRequest(content_of(last.items, limits), None, key, history=history), owner)


def _message(given: ChatMessage, limits: FileLimits) -> ModelMessage:
    if given.role == "user":
        return ModelRequest((UserPromptPart(content_of(given.items, limits)),))
    if any(not isinstance(item, str) for item in given.items):
        raise RequestRefused("unprocessable", "a message of the assistant has text alone here.")
    return ModelResponse((TextPart("\n".join(map(str, given.items))),))


async def completion(service: AgentService, run_id: str, owner: str) -> dict[str, Any]:
    """Wait for the end of a run, and return the whole reply; if the wait is cancelled, so is the run.

    Raises:
        RequestRefused: the run failed, or waits for a decision.
    """
    async with cancelled_if_left(service, run_id, owner):
        end = await wait_for_end(await service.follow(run_id, 0, owner))
        if isinstance(end, RunFailedEvent) or end.status in WAITING:
            raise _refusal(end)
    choice = {"index": 0, "finish_reason": _reason(end), "logprobs": None}
    message = {"role": "assistant", "content": output_text(end.output), "refusal": None}
    choices = [{**choice, "message": message}]
    return {**_head(service, run_id, "chat.completion"), "choices": choices, "usage": _usage(end.usage)}


async def chunks(service: AgentService, run_id: str, owner: str, *, with_usage: bool) -> AsyncIterator[bytes]:
    """Yield the reply as server-sent events; if the client leaves, the run is cancelled.

    The text of a step whose server was killed is written again, and only what is new of it is told.
    """
    stream = _Stream(_head(service, run_id, "chat.completion.chunk"), with_usage)
    async with cancelled_if_left(service, run_id, owner):
        async for events in await service.follow(run_id, 0, owner):
            told = [each for event in events for each in stream.told(event.event)]
            if told:
                yield b"".join(b"data: " + to_json(each) + b"\n\n" for each in told)
            if stream.has_ended:
                break
    yield END


@dataclass(slots=True)
class _Stream:
    """Translation of the events of one run, in order."""

    head: dict[str, Any]
    with_usage: bool
    has_ended: bool = False
    _step: int = 0
    _sent: str = ""
    """Text of the step that was told."""
    _written: str = ""
    """Text of the step as far as it is written; after a kill it is written again."""
    _has_begun: bool = False

    def told(self, event: AgentEvent) -> Iterator[dict[str, Any]]:
        """Yield the parts of the stream for an event of the run."""
        match event:
            case ModelRequestEvent():
                if event.step != self._step:
                    self._step, self._sent = event.step, ""
                self._written = ""
            case TextDeltaEvent():
                yield from self._write(event.text)
            case RunFinishedEvent() if event.status not in WAITING:
                yield from self._begin()
                yield self._chunk({}, _reason(event))
                if self.with_usage:
                    yield {**self.head, "choices": [], "usage": _usage(event.usage)}
                self.has_ended = True
            case RunFinishedEvent() | RunFailedEvent():
                yield self._error(_refusal(event))
            case _:
                pass

    def _write(self, text: str) -> Iterator[dict[str, Any]]:
        self._written += text
        if self._sent.startswith(self._written) or self.has_ended:
            return
        if not self._written.startswith(self._sent):
            told = "a server was killed, and the reply is now written in other words; ask again."
            yield self._error(RequestRefused("restarted", told))
            return
        yield from self._begin()
        yield self._chunk({"content": self._written[len(self._sent) :]})
        self._sent = self._written

    def _begin(self) -> Iterator[dict[str, Any]]:
        if not self._has_begun:
            self._has_begun = True
            yield self._chunk({"role": "assistant", "content": ""})

    def _error(self, refused: RequestRefused) -> dict[str, Any]:
        self.has_ended = True
        return {"error": {"message": refused.message, "type": "server_error", "param": None, "code": refused.code}}

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return {**self.head, "choices": [choice]}


def _refusal(event: RunEnd) -> RequestRefused:
    if isinstance(event, RunFailedEvent):
        return failed(event)
    where = f"/runs/{event.run_id}"
    told = f"run {event.run_id} waits for a decision: decide at {where}/decisions, and read its result at {where}."
    return RequestRefused("needs_decision", told)


def _reason(event: RunFinishedEvent) -> str:
    return _REASONS.get(event.status, "stop")


def _usage(usage: RunUsage) -> dict[str, int]:
    read, written = usage.input_tokens, usage.output_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _head(service: AgentService, run_id: str, kind: str) -> dict[str, Any]:
    return {"id": run_id, "object": kind, "created": int(time.time()), "model": service.name}
