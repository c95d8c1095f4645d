"""OpenAI's responses: an agent as a model with memory, for programs that know no agents.

- The id of a response is the run's, and a run that waited for its client goes on as a further response; see
  `agentkit.serving.response_events`. `previous_response_id` continues with the messages of a run. `conversation`
  names a session, which needs no creation.
- The agent's own calls are told as `mcp_call` items: the protocol's form for calls that the server runs. A client
  does not answer them, and sees arguments and results.
- A call that needs an approval is an `mcp_approval_request`, whose id is the digest of the question; an
  `mcp_approval_response` decides about it. A call of an external tool is a `function_call`, answered by a
  `function_call_output`. All waiting calls are answered in one request, which names the response that asked.
- Everything is stored, so `store=false` is refused. `metadata` is kept with the run.
- The run of a client that closes its connection is cancelled, as the protocol says ("to cancel a synchronous
  response, terminate the connection"), unless it asked with `background`. A server that stops or is killed cancels
  nothing, and any stream can be read on by its id. A cancelled response ends its stream with `response.failed`,
  and has the status "cancelled".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import anyio
from pydantic import Field
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agentkit.approvals.pending import Approve, Decision, Deny, PendingCall, Settle
from agentkit.files import FileLimits
from agentkit.messages import (
    BinaryContent,
    Content,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    UserPromptPart,
)
from agentkit.serving.errors import RequestRefused
from agentkit.serving.followers import wait_for_end
from agentkit.serving.given_files import content_of, file_of_url
from agentkit.serving.response_events import ASKED, ResponseName, RunResponses, ToldResponse, parsed_name
from agentkit.serving.run_request import RunRequest
from agentkit.serving.run_routes import Endpoint, read, streaming
from agentkit.serving.service import CANCEL_S, WAITING, AgentService
from agentkit.serving.threads import unless_left, waiting_run
from modelstack.inference.server.bodies import Body
from modelstack.inference.server.errors import ApiError
from modelstack.inference.server.response_items import Event, ResultItem, Status, TextContent, text_of

MOST_METADATA = 16
"""OpenAI's limit of pairs of metadata; keys have at most 64 characters, values 512."""
_SessionName = Annotated[str, Field(min_length=1, max_length=200)]


class ApprovalItem(Body):
    """Decision about a call that waits."""

    type: Literal["mcp_approval_response"]
    approval_request_id: str
    approve: bool
    reason: str | None = None
    """Shown to the agent if the call is not approved."""
    id: str | None = None


class ConversationItem(Body):
    """Conversation by its id."""

    id: _SessionName


class ImageContent(Body):
    """Image in a message, as a data URL."""

    type: Literal["input_image"]
    image_url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class FileContent(Body):
    """Document in a message, as a data URL."""

    type: Literal["input_file"]
    file_data: str
    filename: str | None = None


class GivenMessage(Body):
    """Message of the conversation."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[TextContent | ImageContent | FileContent]
    id: str | None = None
    status: Status | None = None
    phase: str | None = None

    @property
    def pieces(self) -> list[str | BinaryContent]:
        """Texts and files, in order."""
        return [self.content] if isinstance(self.content, str) else [_piece(part) for part in self.content]


def _piece(part: TextContent | ImageContent | FileContent) -> str | BinaryContent:
    match part:
        case TextContent():
            return part.text
        case ImageContent():
            return file_of_url(part.image_url)
        case FileContent():
            return file_of_url(part.file_data, part.filename)


class ResponseStreamOptions(Body):
    """Options of a stream; nothing is obfuscated."""

    include_obfuscation: Literal[False] | None = None


class ResponseBody(Body):
    """Request; settings of models are the agent's own, so fields for them are refused by name."""

    model: str
    input: str | list[GivenMessage | ApprovalItem | ResultItem]
    previous_response_id: str | None = None
    conversation: _SessionName | ConversationItem | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    store: bool | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
            Field(max_length=MOST_METADATA),
        ]
        | None
    ) = None
    # These describe the request to OpenAI's own service.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def session(self) -> str | None:
        """The session that the run continues."""
        return self.conversation.id if isinstance(self.conversation, ConversationItem) else self.conversation


async def accept(service: AgentService, given: ResponseBody, key: str | None, owner: str) -> ServedResponse:
    """Begin or continue the run of a request, and return its response.

    Raises:
        ApiError: a field asks for something that is not there.
        RequestRefused: see `AgentService`.
    """
    if given.model != service.name:
        raise ApiError(404, f"{given.model!r} is not served here; known: {service.name!r}.", "model", "not_found")
    if given.store is False:
        raise _wrong("store", "false is refused, because runs are stored; delete the response when it has ended.")
    if given.previous_response_id is not None and given.conversation is not None:
        raise _wrong("conversation", "it names the earlier messages, and so does previous_response_id: send one.")
    items = [GivenMessage(role="user", content=given.input)] if isinstance(given.input, str) else given.input
    messages = [each for each in items if isinstance(each, GivenMessage)]
    answers = [each for each in items if not isinstance(each, GivenMessage)]
    if answers and messages:
        raise _wrong("input", "answers to waiting calls come alone; send messages once the run has ended.")
    if answers:
        return await _answered(service, given, answers, owner)
    prompt, history = _conversation(messages, service.file_limits)
    if given.conversation is not None and history:
        raise _wrong("input", "the conversation is stored; send only what the user has said since.")
    if given.previous_response_id is not None:
        history = (*await _messages_of(service, given.previous_response_id, owner), *history)
    asked = given.model_dump(include={"metadata", "previous_response_id", "background"}, exclude_none=True)
    kept = {ASKED: to_json({"background": False, **asked}).decode()}
    request = RunRequest(prompt, given.session, key, history=history, metadata=kept)
    return ServedResponse(service, ResponseName(await service.submit(request, owner)), owner)


def _wrong(param: str, message: str, code: str | None = None, status: int = 400) -> ApiError:
    return ApiError(status, message, param, code)


def _conversation(items: Sequence[GivenMessage], limits: FileLimits) -> tuple[Content, tuple[ModelMessage, ...]]:
    """Return what the user said last, and the messages before."""
    n_earlier = len(items)
    for number, item in enumerate(items):
        if item.role not in ("user", "assistant"):
            text = f"messages of the {item.role} would have no effect; the agent has its own instructions."
            raise _wrong(f"input.{number}.role", text)
    while n_earlier and items[n_earlier - 1].role == "user":
        n_earlier -= 1
    try:
        said = [piece for item in items[n_earlier:] for piece in item.pieces]
        history = tuple(_message(item, limits) for item in items[:n_earlier])
        return content_of(said, limits, between="\n\n"), history
    except RequestRefused as error:
        raise _wrong("input", error.message) from error


def _message(item: GivenMessage, limits: FileLimits) -> ModelMessage:
    if item.role == "user":
        return ModelRequest((UserPromptPart(content_of(item.pieces, limits)),))
    if any(not isinstance(piece, str) for piece in item.pieces):
        raise RequestRefused("unprocessable", "a message of the assistant has text alone here.")
    return ModelResponse((TextPart("".join(map(str, item.pieces))),))


async def _previous(service: AgentService, given: str, owner: str) -> RunResponses:
    """Return the responses of the run whose last one a request names.

    Raises:
        ApiError: it is unknown, or its run has gone on.
    """
    try:
        name = _name(given)
        found, response = await _read(service, name, owner)
    except RequestRefused as error:
        param = "previous_response_id"
        raise _wrong(param, error.message, "previous_response_not_found") from error
    if response is not found.last:
        text = f"{given!r} was continued by {found.last.name.id!r}; name that one."
        raise _wrong("previous_response_id", text, "stale_decision", 409)
    return found


async def _messages_of(service: AgentService, previous: str, owner: str) -> tuple[ModelMessage, ...]:
    """Return the messages of the run of a response that has ended."""
    run_id = (await _previous(service, previous, owner)).summary.run_id
    stored, _ = await service.stored(run_id, owner)
    status = stored.summary.status
    if status in WAITING:
        asked = _known(stored.state.pending)
        text = f"{previous!r} waits for answers: {asked}. Send them as items of input, or cancel it."
        raise _wrong("previous_response_id", text, "needs_decision", 409)
    if status == "running":
        raise _wrong("previous_response_id", f"{previous!r} goes on; wait for its end, or cancel it.", "held", 409)
    return stored.state.messages


async def _answered(
    service: AgentService, given: ResponseBody, answers: Sequence[ApprovalItem | ResultItem], owner: str
) -> ServedResponse:
    """Apply the answers to the calls that wait, and return the response with which the run goes on."""
    if given.metadata is not None:
        raise _wrong("metadata", "a run keeps those of its first response; leave it out with answers.")
    if given.previous_response_id is not None:
        responses = await _previous(service, given.previous_response_id, owner)
    elif given.session is not None:
        waiting = await waiting_run(service, given.session, owner)
        responses, _ = await _read(service, ResponseName(waiting.run_id), owner)
    else:
        raise _wrong("previous_response_id", "answers need the response that asked; name it.")
    run_id, last = responses.summary.run_id, responses.last
    stored, _ = await service.stored(run_id, owner)
    pending = stored.state.pending
    if stored.summary.status not in WAITING:
        raise _wrong("input", f"{last.name.id!r} waits for no answer.", "not_waiting", 409)
    decisions = [_decision(each, f"input.{number}", pending) for number, each in enumerate(answers)]
    decided = {decision.tool_call_id for decision in decisions}
    if left := [call for call in pending if call.tool_call_id not in decided]:
        raise _wrong("input", f"it must answer all calls that wait; not answered: {_known(left)}.")
    await service.decide(run_id, decisions, owner)
    return ServedResponse(service, ResponseName(run_id, last.end), owner)


def _decision(item: ApprovalItem | ResultItem, param: str, pending: Sequence[PendingCall]) -> Decision:
    """Return the decision of an item about one of the calls that wait."""
    if isinstance(item, ResultItem):
        for call in pending:
            if call.tool_call_id == item.call_id and call.kind != "approval":
                return Settle(call.tool_call_id, text_of(item.output), digest=call.digest)
        raise _stale(f"{param}.call_id", item.call_id, pending)
    for call in pending:
        if call.digest == item.approval_request_id and call.kind != "external":
            if item.approve:
                return Approve(call.tool_call_id, call.digest)
            return Deny(call.tool_call_id, item.reason or "")
    raise _stale(f"{param}.approval_request_id", item.approval_request_id, pending)


def _stale(param: str, given: str, pending: Sequence[PendingCall]) -> ApiError:
    text = f"{given!r} does not wait for such an answer; waiting: {_known(pending)}."
    return _wrong(param, text, "stale_decision", 409)


def _known(pending: Sequence[PendingCall]) -> str:
    """Return the ids of calls that wait, as items have them."""
    return ", ".join(call.tool_call_id if call.kind == "external" else call.digest for call in pending)


def _name(given: str) -> ResponseName:
    if (name := parsed_name(given)) is None:
        raise _unknown(given)
    return name


def _unknown(given: str) -> RequestRefused:
    return RequestRefused("not_found", f"there is no response {given!r}.")


async def _read(service: AgentService, name: ResponseName, owner: str) -> tuple[RunResponses, ToldResponse]:
    """Return all responses of a run, and one of them.

    Raises:
        RequestRefused: there is no such response.
    """
    try:
        run = await service.summary(name.run_id, owner)
        found = RunResponses(run, service.name)
        async for events in service.pages(run):
            for each in events:
                found.told(each)
    except RequestRefused as error:
        raise _unknown(name.id) from error
    if (response := found.named(name)) is None:
        raise _unknown(name.id)
    return found, response


@dataclass(slots=True)
class ServedResponse:
    """A response of a client."""

    service: AgentService
    name: ResponseName
    owner: str
    is_over: bool = False
    """Whether it was read to its end."""

    async def view(self) -> dict[str, Any]:
        """Return the response as it is now.

        Raises:
            RequestRefused: it is unknown to this client.
        """
        _, response = await _read(self.service, self.name, self.owner)
        return response.shown()

    async def whole(self) -> dict[str, Any]:
        """Wait for the end, and return the response."""
        async for _ in self._told():
            pass
        return await self.view()

    async def lines(self, after: int = -1) -> AsyncIterator[bytes]:
        """Yield the events behind a sequence number as server-sent events."""
        async for events in self._told():
            wanted = [each for each in events if each["sequence_number"] > after]
            if wanted:
                yield b"".join(map(_line, wanted))

    async def _told(self) -> AsyncIterator[list[Event]]:
        """Yield the events of the stream, several at a time, to its end."""
        summary = await self.service.summary(self.name.run_id, self.owner)
        found = RunResponses(summary, self.service.name)
        async for events in await self.service.follow(self.name.run_id, 0, self.owner):
            told: list[Event] = []
            for each in events:
                new = found.told(each)
                told += new if found.last.name == self.name else ()
            response = found.named(self.name)
            self.is_over = response is not None and response.end > 0
            yield told
            if self.is_over:
                return

    async def left(self, message: object = None) -> None:
        """Cancel the run of a client that closed its connection before the end."""
        if not self.is_over:
            with suppress(RequestRefused):  # it has just ended
                await self.service.cancel(self.name.run_id, self.owner)

    async def cancel(self) -> dict[str, Any]:
        """Cancel the run, and return the response; one that was cancelled before is returned as it is.

        Raises:
            RequestRefused: it is unknown to this client, its run has ended, or has gone on with another response.
        """
        found, response = await _read(self.service, self.name, self.owner)
        if response is not found.last:
            told = f"{self.name.id!r} was continued by {found.last.name.id!r}; cancel that one."
            raise RequestRefused("ended", told)
        if response.status != "cancelled":
            n_before = await self.service.n_events(self.name.run_id, self.owner)
            await self.service.cancel(self.name.run_id, self.owner)
            with anyio.move_on_after(CANCEL_S):  # of a run that another process performs
                await wait_for_end(await self.service.follow(self.name.run_id, n_before, self.owner))
        return await self.view()

    async def delete(self) -> dict[str, Any]:
        """Delete the run, with all of its responses.

        Raises:
            RequestRefused: it is unknown to this client, or its run goes on.
        """
        await _read(self.service, self.name, self.owner)
        await self.service.delete(self.name.run_id, self.owner)
        return {"id": self.name.id, "object": "response", "deleted": True}


class ResponseRoutes:
    """Endpoints of responses, by method and path."""

    def __init__(self, service: AgentService) -> None:
        """Answer for a service."""
        self.service = service
        self.by_method: dict[str, dict[str, Endpoint]] = {
            "GET": {"/v1/responses/{response_id}": self._retrieve},
            "POST": {"/v1/responses": self._create, "/v1/responses/{response_id}/cancel": self._cancel},
            "DELETE": {"/v1/responses/{response_id}": self._delete},
        }

    async def _create(self, request: Request, owner: str) -> Response:
        body = await read(request, ResponseBody, self.service.limits)
        response = await accept(self.service, body, request.headers.get("idempotency-key"), owner)
        headers = {"Run-Id": response.name.run_id}
        if body.stream:
            on_left = None if body.background else response.left
            return streaming(response.lines(), headers, self.service.limits, on_left)
        if body.background:
            return JSONResponse(await response.view(), headers=headers)
        whole = await unless_left(request, response.whole())
        if whole is None:
            await response.left()
        return JSONResponse(whole, headers=headers)

    async def _retrieve(self, request: Request, owner: str) -> Response:
        response = self._named(request, owner)
        view = await response.view()
        if request.query_params.get("stream") != "true":
            return JSONResponse(view)
        after = request.query_params.get("starting_after", "-1")
        if after != "-1" and not (after.isascii() and after.isdecimal() and len(after) < 16):
            raise _wrong("starting_after", f"{after!r} is not the sequence number of an event.")
        return streaming(response.lines(int(after)), {}, self.service.limits)

    async def _cancel(self, request: Request, owner: str) -> Response:
        return JSONResponse(await self._named(request, owner).cancel())

    async def _delete(self, request: Request, owner: str) -> Response:
        return JSONResponse(await self._named(request, owner).delete())

    def _named(self, request: Request, owner: str) -> ServedResponse:
        return ServedResponse(self.service, _name(request.path_params["response_id"]), owner)


def _line(event: Event) -> bytes:
    return f"event: {event['type']}\ndata: ".encode() + to_json(event) + b"\n\n"
