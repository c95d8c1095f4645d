"""A2A: the Agent2Agent protocol 1.0 over JSON-RPC, for agents of other makers.

A task of the protocol is a run, and a context a session. A message's id is an idempotency key. A run that waits is
a task in the state "input required", and its status message has the calls that wait; a message with the task's id
and a data part `{"decisions": [...]}`, as `POST /runs/ID/decisions` takes them, answers it.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any
from uuid import uuid4

from a2a.server.context import ServerCallContext
from a2a.server.request_handlers.request_handler import RequestHandler
from a2a.server.request_handlers.response_helpers import agent_card_to_dict
from a2a.server.routes.jsonrpc_dispatcher import JsonRpcDispatcher
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import (
    A2AError,
    ContentTypeNotSupportedError,
    InternalError,
    InvalidParamsError,
    PushNotificationNotSupportedError,
    TaskNotCancelableError,
    TaskNotFoundError,
)
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Value
from pydantic import ValidationError
from pydantic_core import to_json

from agentkit.approvals.pending import Decision, PendingCall
from agentkit.events import (
    AgentEvent,
    ModelRequestEvent,
    RunFailedEvent,
    RunFinishedEvent,
    RunStartedEvent,
    TextDeltaEvent,
)
from agentkit.files import KINDS, FileLimits
from agentkit.messages import BinaryContent, Content
from agentkit.persistence.checkpointer import RunSummary
from agentkit.serving.bodies import DecisionsBody
from agentkit.serving.errors import RequestRefused
from agentkit.serving.followers import RunEnd, end_in, wait_for_end
from agentkit.serving.given_files import content_of, file_of_url
from agentkit.serving.run_request import RunRequest
from agentkit.serving.service import WAITING, AgentService
from agentkit.serving.worker import CANCELLED, SESSION
from mcp_servers.distribution import NAME

ANSWER = "answer"
"""Id of the artifact with the output."""
_STATES = {"refused": pb.TASK_STATE_REJECTED, "running": pb.TASK_STATE_WORKING, "failed": pb.TASK_STATE_FAILED}
"""States of tasks by the status of a run; the others have ended with a result."""


def dispatcher(service: AgentService, owner_of: Callable[[Mapping[str, str]], str]) -> JsonRpcDispatcher:
    """Return what answers requests; `owner_of` returns the client's name from the headers of a request."""
    return JsonRpcDispatcher(request_handler=ServiceHandler(service, owner_of))


def card_of(service: AgentService, url: str) -> dict[str, Any]:
    """Return the description of the agent as JSON data; `url` is the address of the endpoint."""
    return agent_card_to_dict(agent_card(service, url))


def agent_card(service: AgentService, url: str) -> pb.AgentCard:
    """Return the description of the agent."""
    name = service.agent_name or service.name
    return pb.AgentCard(
        name=name,
        description=f"The agent {name!r}.",
        version=version(NAME),
        supported_interfaces=[pb.AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="1.0")],
        capabilities=pb.AgentCapabilities(streaming=True, push_notifications=False),
        default_input_modes=["text/plain", *KINDS],
        default_output_modes=["text/plain", "application/json"],
        skills=[pb.AgentSkill(id=service.name, name=name, description="Answers a task.", tags=["agent"])],
    )


class ServiceHandler(RequestHandler):
    """Answers the protocol's methods from the journal."""

    def __init__(self, service: AgentService, owner_of: Callable[[Mapping[str, str]], str]) -> None:
        """Answer for a service; `owner_of` returns the client's name from the headers of a request."""
        self._service, self._owner_of = service, owner_of

    async def on_message_send(self, params: pb.SendMessageRequest, context: ServerCallContext) -> pb.Task:
        """Begin or continue a task, and wait until it ends or waits, unless the client does not want to."""
        with _told():
            owner = self._owner(context)
            run_id, after = await self._accept(params.message, owner)
            if not params.configuration.return_immediately:
                await wait_for_end(await self._service.follow(run_id, after, owner))
            return await self._task(run_id, owner)

    async def on_message_send_stream(
        self, params: pb.SendMessageRequest, context: ServerCallContext
    ) -> AsyncGenerator[Any]:
        """Begin or continue a task, and tell it while it goes on."""
        with _told():
            owner = self._owner(context)
            run_id, after = await self._accept(params.message, owner)
            async for each in self._followed(run_id, after, owner):
                yield each

    async def on_subscribe_to_task(
        self, params: pb.SubscribeToTaskRequest, context: ServerCallContext
    ) -> AsyncGenerator[Any]:
        """Tell a task from its beginning on, until it ends or waits."""
        with _told():
            owner = self._owner(context)
            async for each in self._followed(params.id, 0, owner):
                yield each

    async def on_get_task(self, params: pb.GetTaskRequest, context: ServerCallContext) -> pb.Task:
        """Return a task."""
        with _told():
            return await self._task(params.id, self._owner(context))

    async def on_list_tasks(self, params: pb.ListTasksRequest, context: ServerCallContext) -> pb.ListTasksResponse:
        """Return the client's tasks, latest first."""
        with _told():
            owner = self._owner(context)
            found = await self._service.runs(
                owner, session=params.context_id or None, limit=params.page_size or 50
            )
            tasks = [await self._task(each.run_id, owner) for each in found]
            return pb.ListTasksResponse(tasks=tasks, page_size=len(tasks), total_size=len(tasks))

    async def on_cancel_task(self, params: pb.CancelTaskRequest, context: ServerCallContext) -> pb.Task:
        """Cancel a task."""
        with _told():
            owner = self._owner(context)
            await self._service.cancel(params.id, owner)
            return await self._task(params.id, owner)

    async def on_create_task_push_notification_config(self, params: Any, context: ServerCallContext) -> Any:
        """Refuse: clients read on in the stream."""
        raise PushNotificationNotSupportedError

    async def on_get_task_push_notification_config(self, params: Any, context: ServerCallContext) -> Any:
        """Refuse."""
        raise PushNotificationNotSupportedError

    async def on_list_task_push_notification_configs(self, params: Any, context: ServerCallContext) -> Any:
        """Refuse."""
        raise PushNotificationNotSupportedError

    async def on_delete_task_push_notification_config(self, params: Any, context: ServerCallContext) -> None:
        """Refuse."""
        raise PushNotificationNotSupportedError

    async def on_get_extended_agent_card(self, params: Any, context: ServerCallContext) -> pb.AgentCard:
        """Refuse: the public card has everything."""
        raise A2AError("there is no extended card")

    def _owner(self, context: ServerCallContext) -> str:
        return self._owner_of(context.state.get("headers", {}))

    async def _accept(self, message: pb.Message, owner: str) -> tuple[str, int]:
        """Begin a run, or decide about the calls of one; return it, and the event to follow it from."""
        if message.task_id:
            decisions = _decisions(message)
            n_before = await self._service.n_events(message.task_id, owner)
            await self._service.decide(message.task_id, decisions, owner)
            return message.task_id, n_before
        session = message.context_id or f"a2a {uuid4()}"
        key = f"a2a {message.context_id} {message.message_id}" if message.message_id else None
        if key is not None and not message.context_id:  # a repeated message must find the session that it began
            session = f"a2a {message.message_id}"
        prompt = _prompt(message, self._service.file_limits)
        return await self._service.submit(RunRequest(prompt, session, key), owner), 0

    async def _followed(self, run_id: str, after: int, owner: str) -> AsyncGenerator[Any]:
        """Yield the task, then its updates, until it ends or waits."""
        summary = await self._service.summary(run_id, owner)
        task = pb.Task(
            id=run_id, context_id=summary.metadata.get(SESSION, ""), status=_status(pb.TASK_STATE_SUBMITTED)
        )
        yield task
        told = _Told(task)
        async for events in await self._service.follow(run_id, after, owner):
            for event in (each.event for each in events):
                for update in told.updates(event):
                    yield update
            if (end := end_in(events)) is not None:
                stored, _ = await self._service.stored(run_id, owner)
                yield told.end(end, stored.state.pending)
                return

    async def _task(self, run_id: str, owner: str) -> pb.Task:
        """Return a run as a task, with its output as an artifact."""
        stored, end = await self._service.stored(run_id, owner)
        summary: RunSummary = stored.summary
        task = pb.Task(id=run_id, context_id=summary.metadata.get(SESSION, ""))
        if isinstance(end, RunEnd):
            task.status.CopyFrom(_ended(end, stored.state.pending))
        else:
            task.status.CopyFrom(_status(_STATES.get(summary.status, pb.TASK_STATE_WORKING)))
        if isinstance(end, RunFinishedEvent) and end.output is not None:
            task.artifacts.append(pb.Artifact(artifact_id=ANSWER, parts=[_output_part(end.output)]))
        return task


@dataclass(slots=True)
class _Told:
    """Updates of a task for the events of a run."""

    task: pb.Task
    has_text: bool = False
    """Whether text of the current step was told."""

    def updates(self, event: AgentEvent) -> Iterator[Any]:
        match event:
            case RunStartedEvent():
                yield self._status(_status(pb.TASK_STATE_WORKING))
            case ModelRequestEvent():
                self.has_text = False  # the next piece replaces the text of the step before, or of one cut off
            case TextDeltaEvent() if event.text:
                artifact = pb.Artifact(artifact_id=ANSWER, parts=[pb.Part(text=event.text)])
                yield self._artifact(artifact, append=self.has_text, is_last=False)
                self.has_text = True
            case RunFinishedEvent() if event.output is not None:
                artifact = pb.Artifact(artifact_id=ANSWER, parts=[_output_part(event.output)])
                yield self._artifact(artifact, append=False, is_last=True)
            case _:
                pass

    def end(self, event: RunEnd, pending: tuple[PendingCall, ...]) -> Any:
        return self._status(_ended(event, pending))

    def _status(self, status: pb.TaskStatus) -> Any:
        return pb.TaskStatusUpdateEvent(task_id=self.task.id, context_id=self.task.context_id, status=status)

    def _artifact(self, artifact: pb.Artifact, *, append: bool, is_last: bool) -> Any:
        return pb.TaskArtifactUpdateEvent(
            task_id=self.task.id,
            context_id=self.task.context_id,
            artifact=artifact,
            append=append,
            last_chunk=is_last,
        )


def _ended(event: RunEnd, pending: tuple[PendingCall, ...]) -> pb.TaskStatus:
    if isinstance(event, RunFailedEvent):
        state = pb.TASK_STATE_CANCELED if event.error_type == CANCELLED else pb.TASK_STATE_FAILED
        return _status(state, pb.Part(text=f"{event.error_type}: {event.error}"))
    if event.status in WAITING:
        questions = _data_part({"pending": [asdict(call) for call in pending]})
        text = "\n".join(f"{call.tool_name} {call.arguments}: {call.reason}" for call in pending)
        return _status(pb.TASK_STATE_INPUT_REQUIRED, pb.Part(text=text), questions)
    return _status(_STATES.get(event.status, pb.TASK_STATE_COMPLETED))


def _status(state: Any, *parts: pb.Part) -> pb.TaskStatus:
    status = pb.TaskStatus(state=state)
    status.timestamp.FromNanoseconds(time.time_ns())
    if parts:
        message = pb.Message(message_id=str(uuid4()), role=pb.ROLE_AGENT, parts=parts)
        status.message.CopyFrom(message)
    return status


def _output_part(output: Any) -> pb.Part:
    return pb.Part(text=output) if isinstance(output, str) else _data_part(output)


def _data_part(value: Any) -> pb.Part:
    return pb.Part(data=ParseDict(json.loads(to_json(value)), Value()))


def _prompt(message: pb.Message, limits: FileLimits) -> Content:
    try:
        return content_of([_item(part) for part in message.parts], limits)
    except RequestRefused as error:
        raise InvalidParamsError(error.message) from error


def _item(part: pb.Part) -> str | BinaryContent:
    match part.WhichOneof("content"):
        case "text":
            return part.text
        case "raw":
            return BinaryContent(part.raw, part.media_type, part.filename or None)
        case "url":
            return file_of_url(part.url, part.filename or None)
        case kind:
            raise ContentTypeNotSupportedError(f"a part {kind!r} of a message is not read here")


def _decisions(message: pb.Message) -> list[Decision]:
    """Return the decisions in a message about a task that waits."""
    for part in message.parts:
        if part.WhichOneof("content") == "data":
            try:
                body = DecisionsBody.model_validate(MessageToDict(part.data))
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                where = ".".join(map(str, first["loc"]))
                raise InvalidParamsError(f"the data part is no decisions: {where}: {first['msg']}") from error
            return [each.as_decision() for each in body.decisions]
    raise InvalidParamsError('a message about a task that waits needs a data part {"decisions": [...]}')


@contextmanager
def _told() -> Generator[None]:
    """Turn refusals into errors of the protocol."""
    try:
        yield
    except RequestRefused as error:
        kind = {"not_found": TaskNotFoundError, "ended": TaskNotCancelableError, "closing": InternalError}
        raise kind.get(error.code, InvalidParamsError)(error.message) from error
