"""Runs as OpenTelemetry spans, after the semantic conventions for generative AI (version 1.37).

    invoke_agent NAME             child of the application's current span
      chat MODEL                  one for each request
      execute_tool TOOL           one for each call; the current span while the tool runs
        invoke_agent NAME         a run inside the tool, for example of an agent as a tool
        execute_tool TOOL         a call that the tool makes, in code mode

Only the API package is used: unless the application has set up an SDK, spans are not recorded and nothing is
sent. Content is left out unless requested (`content=True`), because it may be confidential.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-agent-spans/
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentkit.events import (
    AgentEvent,
    ApprovalRequestedEvent,
    GuardrailEvent,
    HandoffEvent,
    ModelRequestEvent,
    ModelResponseEvent,
    RunFailedEvent,
    RunFinishedEvent,
    RunResumedEvent,
    RunStartedEvent,
    SideRequestEvent,
    ToolCallEvent,
    ToolResultEvent,
)
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
)
from agentkit.models.providers import IN_PROCESS_PROVIDER
from agentkit.tools.execution import CallListener

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer, TracerProvider

    from agentkit.usage import RequestUsage, RunUsage

_ROLES = {"system-prompt": "system", "user-prompt": "user", "tool-return": "tool", "retry-prompt": "user"}


_calling: ContextVar[TelemetrySink | None] = ContextVar("_calling", default=None)
"""Sink of the run whose tool call the current code executes."""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Options of the reporting of runs, for `Agent(telemetry=...)`."""

    content: bool = False
    """True adds messages, arguments and results to the spans as attributes."""
    tracer_provider: TracerProvider | None = None
    """Provider of the tracer; None takes the global one."""

    def sink(self) -> TelemetrySink:
        """Return a sink for the events of one run."""
        from opentelemetry import trace

        return TelemetrySink(trace.get_tracer("agentkit", tracer_provider=self.tracer_provider), self.content)


@dataclass(slots=True, eq=False)
class TelemetrySink(CallListener):
    """Turns the events of one run into spans."""

    tracer: Tracer
    content: bool
    model_name: str = ""
    provider_name: str = IN_PROCESS_PROVIDER
    run: Span | None = None
    chat: Span | None = None
    chat_step: int = 0
    tools: dict[str, Span] = field(default_factory=dict[str, "Span"])

    def __call__(self, event: AgentEvent) -> None:
        """Begin, fill or end a span."""
        match event:
            case RunStartedEvent() | RunResumedEvent():
                self._begin_run(event)
            case ModelRequestEvent():
                self._begin_chat(event)
            case ModelResponseEvent():
                self._end_chat(event)
            case ToolCallEvent() | ToolResultEvent():
                self._fill_tool(event)
            case HandoffEvent():
                self._use_model(event)
            case SideRequestEvent():
                self._add_side_chat(event)
            case GuardrailEvent() | ApprovalRequestedEvent():
                self._note(event)
            case RunFinishedEvent() | RunFailedEvent():
                self._end_run(event)
            case _:
                pass

    @contextmanager
    def around_call(self, call: ToolCallPart) -> Generator[None]:
        """Keep a tool call's span open and current: spans made in the tool are its children."""
        from opentelemetry import context
        from opentelemetry.trace import set_span_in_context

        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": call.tool_name,
            "gen_ai.tool.call.id": call.tool_call_id,
            "gen_ai.tool.type": "function",
        }
        span = self._child(f"execute_tool {call.tool_name}", attributes)
        self.tools[call.tool_call_id] = span
        token, outer = context.attach(set_span_in_context(span)), _calling.set(self)
        try:
            yield
        except BaseException as error:
            _fail(span, type(error).__name__, str(error) if self.content else "")
            raise
        finally:
            _calling.reset(outer)
            context.detach(token)
            self.tools.pop(call.tool_call_id, None)
            span.end()

    def _use_model(self, event: RunStartedEvent | RunResumedEvent | HandoffEvent) -> None:
        self.model_name = event.model_name
        self.provider_name = event.provider_name or IN_PROCESS_PROVIDER

    def _begin_run(self, event: RunStartedEvent | RunResumedEvent) -> None:
        self._use_model(event)
        name = f"invoke_agent {event.agent_name}" if event.agent_name else "invoke_agent"
        attributes = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": self.provider_name,
            "gen_ai.conversation.id": event.run_id,
            "gen_ai.request.model": event.model_name,
        }
        if event.agent_name:
            attributes["gen_ai.agent.name"] = event.agent_name
        self.run = self.tracer.start_span(name, attributes=attributes)

    def _begin_chat(self, event: ModelRequestEvent) -> None:
        if self.chat is not None and event.step == self.chat_step:  # middleware asks again
            self.chat.end()
            self.chat = None
        self._cut_off_chat()  # a guardrail stopped the previous request
        self.chat_step = event.step
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": self.provider_name,
            "gen_ai.request.model": self.model_name,
        }
        settings = event.shape.settings if event.shape is not None else None
        for name in ("temperature", "top_p", "top_k", "max_tokens", "seed"):
            value = getattr(settings, name, None)
            if value is not None:
                attributes[f"gen_ai.request.{name}"] = value
        self.chat = self._child(f"chat {self.model_name}", attributes, kind="client")
        if self.content:
            self.chat.set_attribute("gen_ai.input.messages", _told(event.sent or event.messages))

    def _end_chat(self, event: ModelResponseEvent) -> None:
        if self.chat is None:
            return
        self._answer(self.chat, event.response, self.model_name)
        self.chat.end()
        self.chat = None

    def _answer(self, chat: Span, response: ModelResponse, model_name: str) -> None:
        chat.set_attribute("gen_ai.response.model", response.model_name or model_name)
        chat.set_attribute("gen_ai.response.finish_reasons", (response.finish_reason or "stop",))
        chat.set_attribute("gen_ai.usage.input_tokens", response.usage.input_tokens)
        chat.set_attribute("gen_ai.usage.output_tokens", response.usage.output_tokens)
        _set_cache_tokens(chat, response.usage)
        if response.usage.cost is not None:
            chat.set_attribute("operation.cost", float(response.usage.cost))
        if self.content:
            chat.set_attribute("gen_ai.output.messages", _told((response,)))

    def _add_side_chat(self, event: SideRequestEvent) -> None:
        """Add the span of a request that is reported only after its reply."""
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": event.provider_name or IN_PROCESS_PROVIDER,
            "gen_ai.request.model": event.model_name,
            "agentkit.purpose": event.purpose,
        }
        if self.content:
            attributes["gen_ai.input.messages"] = _told(event.messages)
        now_ns = time.time_ns()
        started_ns = now_ns - int(event.duration_s * 1e9)
        chat = self._child(f"chat {event.model_name}", attributes, kind="client", start_ns=started_ns)
        self._answer(chat, event.response, event.model_name)
        chat.end(now_ns)

    def _fill_tool(self, event: ToolCallEvent | ToolResultEvent) -> None:
        span = self.tools.get(event.tool_call_id)
        if span is None:
            return
        if isinstance(event, ToolCallEvent):
            if self.content:
                span.set_attribute("gen_ai.tool.call.arguments", event.arguments)
            return
        if event.error is not None:
            _fail(span, event.error.partition(":")[0], event.error if self.content else "")
        elif event.outcome != "success":
            _fail(span, event.outcome)
        if self.content:
            span.set_attribute("gen_ai.tool.call.result", event.content)

    def _note(self, event: GuardrailEvent | ApprovalRequestedEvent) -> None:
        """Add an event to the span of the run; the conventions have no name for these."""
        if self.run is None:
            return
        if isinstance(event, ApprovalRequestedEvent):
            self.run.add_event("approval_requested", {"gen_ai.tool.name": event.call.tool_name})
        elif event.verdict != "allow":
            attributes = {"stage": event.stage, "guardrail": event.name, "verdict": event.verdict}
            self.run.add_event("guardrail", attributes)

    def _end_run(self, event: RunFinishedEvent | RunFailedEvent) -> None:
        self._cut_off_chat()
        if self.run is None:
            return
        self.run.set_attribute("gen_ai.usage.input_tokens", event.usage.input_tokens)
        self.run.set_attribute("gen_ai.usage.output_tokens", event.usage.output_tokens)
        _set_cache_tokens(self.run, event.usage)
        if event.usage.cost is not None:
            # Not `operation.cost`: backends add that up over spans, and each chat span has its own.
            self.run.set_attribute("agentkit.cost", float(event.usage.cost))
        if isinstance(event, RunFailedEvent):
            _fail(self.run, event.error_type, event.error if self.content else "")
        else:
            self.run.set_attribute("agentkit.status", event.status)
        self.run.end()
        self.run = None

    def _cut_off_chat(self) -> None:
        if self.chat is not None:
            _fail(self.chat, "cancelled")
            self.chat.end()
            self.chat = None

    def _child(
        self, name: str, attributes: Mapping[str, Any], kind: str = "internal", start_ns: int | None = None
    ) -> Span:
        from opentelemetry.trace import SpanKind, set_span_in_context

        is_nested = _calling.get() is self  # the span of the outer call, or one inside it, is current
        context = None if is_nested or self.run is None else set_span_in_context(self.run)
        span_kind = SpanKind.CLIENT if kind == "client" else SpanKind.INTERNAL
        return self.tracer.start_span(
            name, context=context, kind=span_kind, attributes=attributes, start_time=start_ns
        )


def _fail(span: Span, error_type: str, description: str = "") -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", error_type)
    span.set_status(StatusCode.ERROR, description or None)


def _set_cache_tokens(span: Span, usage: RequestUsage | RunUsage) -> None:
    if usage.cache_read_tokens:
        span.set_attribute("gen_ai.usage.cache_read.input_tokens", usage.cache_read_tokens)
    if usage.cache_write_tokens:
        span.set_attribute("gen_ai.usage.cache_creation.input_tokens", usage.cache_write_tokens)


def _told(messages: tuple[ModelMessage, ...]) -> str:
    """Return messages in the form of the conventions' JSON schema."""
    return json.dumps([message for each in messages for message in _messages(each)], ensure_ascii=False)


def _messages(message: ModelMessage) -> list[dict[str, Any]]:
    if isinstance(message, ModelRequest):
        return [{"role": _ROLES[part.part_kind], "parts": [_part(part)]} for part in message.parts]
    told: dict[str, Any] = {"role": "assistant", "parts": [_part(part) for part in message.parts]}
    return [told | {"finish_reason": message.finish_reason or "stop"}]


def _part(part: Any) -> dict[str, Any]:
    match part:
        case ToolCallPart():
            return {
                "type": "tool_call", "id": part.tool_call_id, "name": part.tool_name, "arguments": part.arguments,
            }  # fmt: skip
        case ToolReturnPart() | RetryPromptPart(tool_call_id=str()):
            return {"type": "tool_call_response", "id": part.tool_call_id, "result": part.text}
        case ThinkingPart():
            return {"type": "reasoning", "content": part.content}
        case TextPart():
            return {"type": "text", "content": part.content}
        case _:
            return {"type": "text", "content": part.text}
