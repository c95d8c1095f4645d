"""ACP: the Agent Client Protocol on standard input and output, for editors such as Zed.

A session of the protocol is a session of the journal, so a conversation is loaded again after the editor was
closed, and a run that was going on when the process ended goes on. A call that waits is a request for permission.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from acp import (
    PROTOCOL_VERSION,
    InitializeResponse,
    LoadSessionResponse,
    NewSessionResponse,
    PromptResponse,
    RequestError,
    run_agent,
    start_tool_call,
    text_block,
    tool_content,
    update_agent_message_text,
    update_agent_thought_text,
    update_tool_call,
    update_user_message_text,
)
from acp.schema import (
    AgentCapabilities,
    AllowedOutcome,
    AudioContentBlock,
    AuthenticateResponse,
    BlobResourceContents,
    EmbeddedResourceContentBlock,
    ImageContentBlock,
    Implementation,
    PermissionOption,
    PromptCapabilities,
    ResourceContentBlock,
    SessionCapabilities,
    SetSessionModeResponse,
    TextContentBlock,
    TextResourceContents,
    ToolCallUpdate,
)

from agentkit.approvals.pending import Decision, PendingCall
from agentkit.events import (
    AgentEvent,
    ModelRequestEvent,
    ModelResponseEvent,
    RunFailedEvent,
    RunFinishedEvent,
    TextDeltaEvent,
    ThinkingDeltaEvent,
    ToolCallEvent,
    ToolResultEvent,
)
from agentkit.files import FileLimits
from agentkit.messages import (
    BinaryContent,
    Content,
    ModelMessage,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
    text_of,
)
from agentkit.serving.errors import RequestRefused
from agentkit.serving.followers import end_in
from agentkit.serving.given_files import content_of, file_of_base64
from agentkit.serving.run_request import RunRequest
from agentkit.serving.service import WAITING, AgentService
from agentkit.serving.threads import answers_in
from agentkit.serving.worker import CANCELLED, LOCAL_OWNER
from mcp_servers.distribution import NAME

if TYPE_CHECKING:
    from acp.interfaces import Client


logger = logging.getLogger(__name__)

ALLOW, ALLOW_ALL, REJECT = "allow", "allow-all", "reject"
_OPTIONS = [
    PermissionOption(option_id=ALLOW, name="Allow", kind="allow_once"),
    PermissionOption(option_id=ALLOW_ALL, name="Allow in this run", kind="allow_always"),
    PermissionOption(option_id=REJECT, name="Reject", kind="reject_once"),
]
_STOP_REASONS: dict[str, Any] = {
    "truncated": "max_tokens",
    "limit_reached": "max_turn_requests",
    "refused": "refusal",
    "filtered": "refusal",
}
"""Reasons by the status of a run; the others are "end_turn"."""


async def serve_stdio(service: AgentService) -> None:
    """Serve a service to the editor that started this process, until it closes standard input."""
    async with service.running():
        await run_agent(EditorAgent(service))  # pyright: ignore[reportArgumentType]


class EditorAgent:
    """Fulfils the protocol's `Agent`; `session_id` is the name of a conversation in the journal."""

    def __init__(self, service: AgentService) -> None:
        """Answer for a service."""
        self._service = service
        self._client: Client | None = None
        self._runs: dict[str, str] = {}
        """Runs that go on, by session."""

    def on_connect(self, conn: Client) -> None:
        """Keep the connection to the editor."""
        self._client = conn

    async def initialize(self, protocol_version: int, **_: Any) -> InitializeResponse:
        """Say what the agent can do."""
        return InitializeResponse(
            protocol_version=min(protocol_version, PROTOCOL_VERSION),
            agent_capabilities=AgentCapabilities(
                load_session=True,
                prompt_capabilities=PromptCapabilities(image=True, audio=True, embedded_context=True),
                session_capabilities=SessionCapabilities(),
            ),
            agent_info=Implementation(name=self._service.agent_name or self._service.name, version=version(NAME)),
        )

    async def authenticate(self, method_id: str, **_: Any) -> AuthenticateResponse:
        """Accept: the editor started this process as its user."""
        return AuthenticateResponse()

    async def new_session(
        self, cwd: str, mcp_servers: Sequence[Any] | None = None, **_: Any
    ) -> NewSessionResponse:
        """Begin a conversation."""
        self._leave_out(mcp_servers)
        return NewSessionResponse(session_id=f"acp {uuid4()}")

    async def load_session(
        self, cwd: str, session_id: str, mcp_servers: Sequence[Any] | None = None, **_: Any
    ) -> LoadSessionResponse:
        """Tell the editor a conversation of the journal again."""
        self._leave_out(mcp_servers)
        history = await self._service.session(session_id, LOCAL_OWNER).load()
        if not history.messages:
            raise RequestError.resource_not_found(session_id)
        for update in _told_again(history.messages):
            await self._update(session_id, update)
        return LoadSessionResponse()

    async def set_session_mode(self, mode_id: str, session_id: str, **_: Any) -> SetSessionModeResponse:
        """Refuse: the agent has no modes."""
        raise RequestError.invalid_params({"modeId": f"{mode_id!r} is unknown; this agent has no modes"})

    async def prompt(self, session_id: str, prompt: Sequence[Any], **_: Any) -> PromptResponse:
        """Perform a run, and tell it while it goes on."""
        try:
            content = _prompt(prompt, self._service.file_limits)
            run_id = await self._service.submit(RunRequest(content, session_id), LOCAL_OWNER)
            self._runs[session_id] = run_id
            return await self._performed(session_id, run_id)
        except RequestRefused as error:
            raise RequestError.invalid_params({"message": error.message}) from error
        finally:
            self._runs.pop(session_id, None)

    async def cancel(self, session_id: str, **_: Any) -> None:
        """Cancel the run of a session."""
        if (run_id := self._runs.get(session_id)) is not None:
            try:
                await self._service.cancel(run_id, LOCAL_OWNER)
            except RequestRefused as error:  # it has ended meanwhile
                logger.info("%s", error)

    async def ext_method(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Refuse an extension."""
        raise RequestError.method_not_found(method)

    async def ext_notification(self, method: str, params: dict[str, Any]) -> None:
        """Ignore a notification of an extension, as the protocol asks."""

    async def _performed(self, session_id: str, run_id: str) -> PromptResponse:
        told = _Told()
        async for events in await self._service.follow(run_id, 0, LOCAL_OWNER):
            for event in (each.event for each in events):
                for update in told.updates(event):
                    await self._update(session_id, update)
            match end_in(events):
                case RunFailedEvent(error_type=kind) if kind == CANCELLED:
                    return PromptResponse(stop_reason="cancelled")
                case RunFailedEvent() as end:
                    raise RequestError.internal_error({"message": f"{end.error_type}: {end.error}"})
                case RunFinishedEvent(status=status) if status in WAITING:
                    await self._ask(session_id, run_id)
                case RunFinishedEvent(status=status):
                    return PromptResponse(stop_reason=_STOP_REASONS.get(status, "end_turn"))
                case None:
                    pass
        raise AssertionError("a run is followed until it ends")

    async def _ask(self, session_id: str, run_id: str) -> None:
        """Ask for permission for each call that waits; without an answer the run is cancelled."""
        stored, _ = await self._service.stored(run_id, LOCAL_OWNER)
        decisions: list[Decision] = []
        for call in stored.state.pending:
            decision = await self._permission(session_id, call)
            if decision is None:
                await self._service.cancel(run_id, LOCAL_OWNER)
                return
            decisions.append(decision)
        await self._service.decide(run_id, decisions, LOCAL_OWNER)

    async def _permission(self, session_id: str, call: PendingCall) -> Decision | None:
        if call.kind == "external":
            return call.deny("the editor has no way to give the result of this call")
        assert self._client is not None  # the editor has connected before it asks for anything
        asked = ToolCallUpdate(tool_call_id=call.tool_call_id, title=_title(call.tool_name, call.arguments))
        answer = await self._client.request_permission(session_id=session_id, tool_call=asked, options=_OPTIONS)
        if not isinstance(answer.outcome, AllowedOutcome):
            return None
        if answer.outcome.option_id == REJECT:
            return call.deny("the user rejected it")
        return call.approve(for_run=answer.outcome.option_id == ALLOW_ALL)

    async def _update(self, session_id: str, update: Any) -> None:
        assert self._client is not None
        await self._client.session_update(session_id=session_id, update=update)

    def _leave_out(self, mcp_servers: Sequence[Any] | None) -> None:
        if mcp_servers:
            names = ", ".join(str(each.name) for each in mcp_servers)
            logger.warning("the editor's MCP servers are not connected, the agent has its own tools: %s", names)


class _Told:
    """Updates of a session for the events of a run."""

    def __init__(self) -> None:
        self._has_text = False
        self._started: set[str] = set()
        self._ended: set[str] = set()

    def updates(self, event: AgentEvent) -> Iterator[Any]:
        match event:
            case ModelRequestEvent():
                self._has_text = False
                for call_id, content, _ in answers_in(event):
                    if call_id in self._started - self._ended:
                        yield self._end(call_id, content, is_error=True)
            case TextDeltaEvent():
                self._has_text = True
                yield update_agent_message_text(event.text)
            case ThinkingDeltaEvent():
                yield update_agent_thought_text(event.text)
            case ModelResponseEvent():
                if not self._has_text and event.response.text:
                    yield update_agent_message_text(event.response.text)
                yield from map(self._start, event.response.tool_calls)
            case ToolCallEvent():
                yield update_tool_call(event.tool_call_id, status="in_progress")
            case ToolResultEvent():
                yield self._end(event.tool_call_id, event.content, is_error=event.outcome != "success")
            case _:
                pass

    def _start(self, call: ToolCallPart) -> Any:
        self._started.add(call.tool_call_id)
        return start_tool_call(call.tool_call_id, _title(call.tool_name, call.arguments), status="pending")

    def _end(self, call_id: str, content: str, *, is_error: bool) -> Any:
        self._ended.add(call_id)
        status = "failed" if is_error else "completed"
        return update_tool_call(call_id, status=status, content=[tool_content(text_block(content))])


def _told_again(messages: Sequence[ModelMessage]) -> Iterator[Any]:
    """Yield the updates that show a conversation."""
    for part in (part for message in messages for part in message.parts):
        match part:
            case UserPromptPart():
                yield update_user_message_text(text_of(part.said))
            case TextPart():
                yield update_agent_message_text(part.content)
            case ToolCallPart():
                yield start_tool_call(part.tool_call_id, _title(part.tool_name, part.arguments), status="pending")
            case ToolReturnPart():
                status = "failed" if part.is_error else "completed"
                yield update_tool_call(
                    part.tool_call_id, status=status, content=[tool_content(text_block(part.text))]
                )
            case _:
                pass


def _title(tool_name: str, arguments: str) -> str:
    return f"{tool_name} {arguments}"


def _prompt(prompt: Sequence[Any], limits: FileLimits) -> Content:
    """Return the content of a prompt: words, links, images, sounds, and files that the editor embeds."""
    items: list[str | BinaryContent] = []
    for block in prompt:
        match block:
            case TextContentBlock():
                items.append(block.text)
            case ResourceContentBlock():
                items.append(f"{block.name}: {block.uri}")
            case EmbeddedResourceContentBlock(resource=TextResourceContents() as file):
                items.append(f"{file.uri}:\n{file.text}")
            case EmbeddedResourceContentBlock(resource=BlobResourceContents() as file):
                items.append(file_of_base64(file.blob, file.mime_type or "an unknown type", str(file.uri)))
            case ImageContentBlock() | AudioContentBlock():
                items.append(file_of_base64(block.data, block.mime_type))
            case _:
                raise RequestRefused("unprocessable", f"{block.type!r} in a prompt is not read here.")
    return content_of(items, limits, between="\n\n")


__all__ = ["EditorAgent", "serve_stdio"]
