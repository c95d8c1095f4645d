"""AG-UI: the Agent-User Interaction Protocol, version 1.0, for web interfaces such as CopilotKit.

A thread of the protocol is a session, and its run id an idempotency key: a request that is sent again follows the
same run. The conversation is in the journal, so of the messages in a request only the user's last ones are read. A
call that waits is an interrupt; the entries under `resume` decide about it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ag_ui.core import (
    AssistantMessage,
    AudioPart,
    BaseEvent,
    CustomEvent,
    DataSource,
    DocumentPart,
    FunctionCall,
    ImagePart,
    Interrupt,
    Message,
    MessagesSnapshotEvent,
    ReasoningEndEvent,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    ReasoningStartEvent,
    ResumeEntry,
    RunAgentInput,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedInterruptOutcome,
    RunFinishedSuccessOutcome,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    TextPart,
    ToolCall,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    ToolMessage,
    UrlSource,
    UserMessage,
)
from ag_ui.core import RunFinishedEvent as AgUiFinished
from ag_ui.core import RunStartedEvent as AgUiStarted
from ag_ui.encoder import EventEncoder
from pydantic_core import to_jsonable_python

from agentkit.approvals.pending import Approve, Decision, Deny, PendingCall, Settle
from agentkit.events import (
    AgentEvent,
    ApprovalRequestedEvent,
    ModelRequestEvent,
    ModelResponseEvent,
    RunFailedEvent,
    RunFinishedEvent,
    RunResumedEvent,
    TextDeltaEvent,
    ThinkingDeltaEvent,
    ToolResultEvent,
)
from agentkit.files import FileLimits
from agentkit.messages import BinaryContent, Content, text_of
from agentkit.serving.client_tools import client_tool
from agentkit.serving.errors import RequestRefused
from agentkit.serving.followers import Batches, until_end
from agentkit.serving.given_files import content_of, file_of_base64, file_of_url
from agentkit.serving.run_request import RunRequest
from agentkit.serving.service import WAITING, AgentService
from agentkit.serving.threads import TOLD_BY_OTHERS, answers_in, waiting_run
from agentkit.serving.worker import CANCELLED

if TYPE_CHECKING:
    from agentkit.messages import ModelResponse

ANSWER_SCHEMA = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean"},
        "reason": {"type": "string", "description": "Shown to the agent if the call is not approved."},
        "result": {"type": "string", "description": "Result of a call that has run elsewhere."},
    },
}
"""JSON Schema of the payload that answers an interrupt."""
CUSTOM_PREFIX = "agentkit."


async def accept(service: AgentService, given: RunAgentInput, owner: str) -> tuple[str, int]:
    """Begin or continue the run of a request; return its id and the number of the event to follow it from.

    Raises:
        RequestRefused: the request asks for something that is not there, or see `AgentService`.
    """
    _refuse_without_effect(given)
    results = _results(given)
    if given.resume or results:
        return await _decided(service, given, results, owner)
    key = f"ag-ui {given.thread_id} {given.run_id}"
    tools = tuple(client_tool(each.name, each.description, each.parameters or {}) for each in given.tools or ())
    prompt = _prompt(given, service.file_limits)
    return await service.submit(RunRequest(prompt, given.thread_id, key, tools=tools), owner), 0


async def lines(batches: Batches, given: RunAgentInput) -> AsyncIterator[bytes]:
    """Yield the events of a run as server-sent events of the protocol, until the run ends or waits."""
    encoder, stream = EventEncoder(), AgUiStream.answering(given)
    async for events in until_end(batches):
        told = [each for event in events for each in stream.told(event.event)]
        if told:
            yield "".join(map(encoder.encode, told)).encode()


@dataclass(slots=True)
class AgUiStream:
    """Translation of the events of one run, in order."""

    thread_id: str
    run_id: str
    messages: list[Message]
    """Complete messages: first those of the request, then those of the run."""
    page_tools: frozenset[str] = frozenset()
    """Names of the tools that the page runs."""
    pending: list[PendingCall] = field(default_factory=list[PendingCall])
    """Calls that have been asked about since the run last went on."""
    _has_begun: bool = False
    _text: str | None = None
    """Id of the message that is being written."""
    _thought: str | None = None
    """Id of the reasoning that is being written."""
    _n: int = 0

    @classmethod
    def answering(cls, given: RunAgentInput) -> AgUiStream:
        """Return the stream that answers a request."""
        tools = frozenset(tool.name for tool in given.tools or ())
        return cls(given.thread_id, given.run_id, list(given.messages), tools)

    def told(self, event: AgentEvent) -> Iterator[BaseEvent]:
        """Yield the protocol's events for an event of the run."""
        if not self._has_begun:
            self._has_begun = True
            yield AgUiStarted(thread_id=self.thread_id, run_id=self.run_id)
        match event:
            case TextDeltaEvent():
                yield from self._write(event.text)
            case ThinkingDeltaEvent():
                yield from self._think(event.text)
            case ModelResponseEvent():
                yield from self._respond(event.response)
            case ToolResultEvent():
                yield self._result(event.tool_call_id, event.content)
            case ModelRequestEvent():
                yield from self._unheard_results(event)
            case RunResumedEvent():
                yield from self._resume()
            case RunFinishedEvent():
                yield from self._finish(event)
            case RunFailedEvent():
                yield from self._fail(event)
            case ApprovalRequestedEvent():
                self.pending.append(event.call)
            case _ if not isinstance(event, TOLD_BY_OTHERS):
                value = to_jsonable_python(event, inf_nan_mode="strings", serialize_unknown=True)
                yield CustomEvent(name=CUSTOM_PREFIX + event.event_kind, value=value)
            case _:
                pass

    def _new_id(self, kind: str) -> str:
        self._n += 1
        return f"{self.run_id}-{kind}-{self._n}"

    def _write(self, text: str) -> Iterator[BaseEvent]:
        if not text:
            return
        yield from self._end_thought()
        if self._text is None:
            self._text = self._new_id("text")
            yield TextMessageStartEvent(message_id=self._text, role="assistant")
        yield TextMessageContentEvent(message_id=self._text, delta=text)

    def _think(self, text: str) -> Iterator[BaseEvent]:
        if not text:
            return
        if self._thought is None:
            self._thought = self._new_id("thought")
            yield ReasoningStartEvent(message_id=self._thought)
            yield ReasoningMessageStartEvent(message_id=self._thought)
        yield ReasoningMessageContentEvent(message_id=self._thought, delta=text)

    def _respond(self, response: ModelResponse) -> Iterator[BaseEvent]:
        """Complete the message, or tell it as a whole where no pieces were told."""
        if self._text is None:
            yield from self._write(response.text)
        text_id = self._text
        yield from self._end_texts()
        calls: list[ToolCall] = []
        for call in response.tool_calls:  # pieces of them have no id yet, so they are told as a whole
            yield ToolCallStartEvent(tool_call_id=call.tool_call_id, tool_call_name=call.tool_name)
            yield ToolCallArgsEvent(tool_call_id=call.tool_call_id, delta=call.arguments or "{}")
            yield ToolCallEndEvent(tool_call_id=call.tool_call_id)
            function = FunctionCall(name=call.tool_name, arguments=call.arguments)
            calls.append(ToolCall(id=call.tool_call_id, function=function))
        said, message_id = response.text or None, text_id or self._new_id("text")
        self.messages.append(AssistantMessage(id=message_id, content=said, tool_calls=calls or None))

    def _result(self, call_id: str, content: str) -> BaseEvent:
        message = ToolMessage(id=self._new_id("result"), tool_call_id=call_id, content=content)
        self.messages.append(message)
        return ToolCallResultEvent(message_id=message.id, tool_call_id=call_id, content=content, role="tool")

    def _unheard_results(self, event: ModelRequestEvent) -> Iterator[BaseEvent]:
        """Tell the answers of calls that did not run, which are in the next request only."""
        heard = {message.tool_call_id for message in self.messages if isinstance(message, ToolMessage)}
        for call_id, content, _ in answers_in(event):
            if call_id not in heard:
                yield self._result(call_id, content)

    def _resume(self) -> Iterator[BaseEvent]:
        """Take back what was being written when a server was killed: the model is asked again."""
        self.pending.clear()
        was_writing = self._text is not None
        yield from self._end_texts()
        if was_writing:
            yield MessagesSnapshotEvent(messages=list(self.messages))

    def _finish(self, event: RunFinishedEvent) -> Iterator[BaseEvent]:
        yield from self._end_texts()
        outcome: Any = RunFinishedSuccessOutcome()
        interrupts = [self._interrupt(call) for call in self.pending if not self._is_the_pages(call)]
        if event.status in WAITING and interrupts:
            outcome = RunFinishedInterruptOutcome(interrupts=interrupts)
        yield AgUiFinished(
            thread_id=self.thread_id,
            run_id=self.run_id,
            result=event.output,
            outcome=outcome,
            metadata={CUSTOM_PREFIX + "status": event.status},
        )

    def _is_the_pages(self, call: PendingCall) -> bool:
        """Whether the page runs a call, and sends its result with the next request."""
        return call.kind == "external" and call.tool_name in self.page_tools

    def _interrupt(self, call: PendingCall) -> Interrupt:
        return Interrupt(
            id=call.digest,
            reason=f"tool_{call.kind}",
            message=f"{call.tool_name} {call.arguments}: {call.reason}",
            tool_call_id=call.tool_call_id,
            response_schema=ANSWER_SCHEMA,
        )

    def _fail(self, event: RunFailedEvent) -> Iterator[BaseEvent]:
        yield from self._end_texts()
        if event.error_type == CANCELLED:
            outcome = RunFinishedCancelledOutcome()
            yield AgUiFinished(thread_id=self.thread_id, run_id=self.run_id, outcome=outcome)
        else:
            yield RunErrorEvent(message=event.error, code=event.error_type)

    def _end_texts(self) -> Iterator[BaseEvent]:
        yield from self._end_thought()
        if self._text is not None:
            yield TextMessageEndEvent(message_id=self._text)
            self._text = None

    def _end_thought(self) -> Iterator[BaseEvent]:
        if self._thought is not None:
            yield ReasoningMessageEndEvent(message_id=self._thought)
            yield ReasoningEndEvent(message_id=self._thought)
            self._thought = None


def _results(given: RunAgentInput) -> dict[str, ToolMessage]:
    """Return the results at the end of the messages, by call id: those of tools that the page has run."""
    found: dict[str, ToolMessage] = {}
    for message in reversed(given.messages):
        if not isinstance(message, ToolMessage):
            break
        found[message.tool_call_id] = message
    return found


async def _decided(
    service: AgentService, given: RunAgentInput, results: Mapping[str, ToolMessage], owner: str
) -> tuple[str, int]:
    """Apply the answers to the waiting calls of a thread's run; return its id and its last event before them."""
    waiting = await waiting_run(service, given.thread_id, owner)
    answers = {entry.interrupt_id: entry for entry in given.resume or ()}
    if stale := answers.keys() - waiting.pending.keys():
        known = ", ".join(waiting.pending)
        raise RequestRefused("stale_decision", f"the interrupt {min(stale)!r} does not wait; waiting: {known}.")
    decisions: list[Decision] = []
    for digest, call in waiting.pending.items():
        result = results.get(call.tool_call_id) if call.kind == "external" else None
        if digest in answers:
            decisions.append(_decision(call, answers[digest]))
        elif result is not None:
            content = text_of(tuple(_items(result.content)))
            is_error = result.error is not None
            decisions.append(Settle(call.tool_call_id, content or result.error or "", is_error, digest))
        else:
            text = f"the request must answer all calls that wait; {digest} ({call.tool_name}) is not answered."
            raise RequestRefused("unprocessable", text)
    await service.decide(waiting.run_id, decisions, owner)
    return waiting.run_id, waiting.n_events


def _decision(call: PendingCall, entry: ResumeEntry) -> Decision:
    payload: Any = entry.payload if entry.status == "resolved" else {"approved": False}
    match payload:
        case {"result": str(result)}:
            return Settle(call.tool_call_id, result, digest=call.digest)
        case {"approved": True} | True:
            return Approve(call.tool_call_id, call.digest)
        case {"approved": False, "reason": str(reason)}:
            return Deny(call.tool_call_id, reason)
        case {"approved": False} | False:
            return Deny(call.tool_call_id)
        case _:
            raise RequestRefused(
                "unprocessable",
                f"the answer {payload!r} to an interrupt must be an object with 'approved' (true or false) or "
                f"'result' (text), as its responseSchema says.",
            )


def _prompt(given: RunAgentInput, limits: FileLimits) -> Content:
    """Return what the user has said since the last message of anyone else, after the context of the page."""
    said: list[list[str | BinaryContent]] = []
    for message in reversed(given.messages):
        if not isinstance(message, UserMessage):
            break
        said.append(_items(message.content))
    if not said:
        raise RequestRefused("unprocessable", "messages must end with a message of the user, or resume be given.")
    context = [f"{each.description}: {each.value}" for each in given.context or ()]
    items = [*context, *(item for items in reversed(said) for item in items)]
    return content_of(items, limits, between="\n\n")


def _items(content: str | Sequence[Any]) -> list[str | BinaryContent]:
    return [content] if isinstance(content, str) else [_item(part) for part in content]


def _item(part: Any) -> str | BinaryContent:
    match part:
        case TextPart():
            return part.text
        case ImagePart() | AudioPart() | DocumentPart() if isinstance(part.source, DataSource):
            return file_of_base64(part.source.value, part.source.mime_type)
        case ImagePart() | AudioPart() | DocumentPart() if isinstance(part.source, UrlSource):
            return file_of_url(part.source.value)
        case _:
            raise RequestRefused("unprocessable", f"a part {part.type!r} of a message is not read here.")


def _refuse_without_effect(given: RunAgentInput) -> None:
    for name in ("state", "forwarded_props"):
        if value := getattr(given, name):
            raise RequestRefused("unprocessable", f"{name}={value!r} would have no effect here: leave it out.")
