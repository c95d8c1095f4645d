"""Runs as OpenTelemetry spans, after the semantic conventions for generative AI (version 1.37).

    invoke_agent NAME
      chat MODEL            one a request
      execute_tool TOOL     one a call

Only the API package is used: without an SDK that the application has set up, spans are not recorded and nothing
goes anywhere. What is said is left out unless asked for (`content=True`); it may hold anything.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-agent-spans/
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentkit.events import (
    AgentEvent,
    ApprovalRequestedEvent,
    GuardrailEvent,
    ModelRequestEvent,
    ModelResponseEvent,
    RunFailedEvent,
    RunFinishedEvent,
    RunResumedEvent,
    RunStartedEvent,
    ToolCallEvent,
    ToolResultEvent,
)
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    RetryPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
)

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer, TracerProvider

_ROLES = {"system-prompt": "system", "user-prompt": "user", "tool-return": "tool", "retry-prompt": "user"}


@dataclass(frozen=True, slots=True)
class Telemetry:
    """How runs are reported; give it to `Agent(telemetry=...)`."""

    content: bool = False
    """Whether messages, arguments and results are attributes of the spans."""
    tracer_provider: TracerProvider | None = None
    """None takes the global one."""

    def sink(self) -> TelemetrySink:
        """Return a sink for the events of one run."""
        from opentelemetry import trace

        return TelemetrySink(trace.get_tracer("agentkit", tracer_provider=self.tracer_provider), self.content)


@dataclass(slots=True)
class TelemetrySink:
    """Turns the events of one run into spans."""

    tracer: Tracer
    content: bool
    model_name: str = ""
    run: Span | None = None
    chat: Span | None = None
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
            case ToolCallEvent():
                self._begin_tool(event)
            case ToolResultEvent():
                self._end_tool(event)
            case GuardrailEvent() | ApprovalRequestedEvent():
                self._note(event)
            case RunFinishedEvent() | RunFailedEvent():
                self._end_run(event)
            case _:
                pass

    def _begin_run(self, event: RunStartedEvent | RunResumedEvent) -> None:
        self.model_name = event.model_name
        name = f"invoke_agent {event.agent_name}" if event.agent_name else "invoke_agent"
        attributes = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": _provider(event.model_name),
            "gen_ai.conversation.id": event.run_id,
            "gen_ai.request.model": event.model_name,
        }
        if event.agent_name:
            attributes["gen_ai.agent.name"] = event.agent_name
        self.run = self.tracer.start_span(name, attributes=attributes)

    def _begin_chat(self, event: ModelRequestEvent) -> None:
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": _provider(self.model_name),
            "gen_ai.request.model": self.model_name,
        }
        settings = event.shape.settings if event.shape is not None else None
        for name in ("temperature", "top_p", "top_k", "max_tokens", "seed"):
            value = getattr(settings, name, None)
            if value is not None:
                attributes[f"gen_ai.request.{name}"] = value
        self.chat = self._child(f"chat {self.model_name}", attributes, kind="client")
        if self.content:
            self.chat.set_attribute("gen_ai.input.messages", _told(event.messages))

    def _end_chat(self, event: ModelResponseEvent) -> None:
        if self.chat is None:
            return
        response = event.response
        self.chat.set_attribute("gen_ai.response.model", response.model_name or self.model_name)
        self.chat.set_attribute("gen_ai.response.finish_reasons", (response.finish_reason or "stop",))
        self.chat.set_attribute("gen_ai.usage.input_tokens", response.usage.input_tokens)
        self.chat.set_attribute("gen_ai.usage.output_tokens", response.usage.output_tokens)
        if self.content:
            self.chat.set_attribute("gen_ai.output.messages", _told((response,)))
        self.chat.end()
        self.chat = None

    def _begin_tool(self, event: ToolCallEvent) -> None:
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": event.tool_name,
            "gen_ai.tool.call.id": event.tool_call_id,
        }
        if self.content:
            attributes["gen_ai.tool.call.arguments"] = event.arguments
        self.tools[event.tool_call_id] = self._child(f"execute_tool {event.tool_name}", attributes)

    def _end_tool(self, event: ToolResultEvent) -> None:
        span = self.tools.pop(event.tool_call_id, None)
        if span is None:
            return
        if event.outcome != "success":
            _fail(span, event.outcome)
        if self.content:
            span.set_attribute("gen_ai.tool.call.result", event.content)
        span.end()

    def _note(self, event: GuardrailEvent | ApprovalRequestedEvent) -> None:
        """Put on the run what happened to it; the conventions have no word for these."""
        if self.run is None:
            return
        if isinstance(event, ApprovalRequestedEvent):
            self.run.add_event("approval_requested", {"gen_ai.tool.name": event.call.tool_name})
        elif event.verdict != "allow":
            attributes = {"stage": event.stage, "guardrail": event.name, "verdict": event.verdict}
            self.run.add_event("guardrail", attributes)

    def _end_run(self, event: RunFinishedEvent | RunFailedEvent) -> None:
        for span in (self.chat, *self.tools.values()):
            if span is not None:  # it was cut off
                _fail(span, "cancelled")
                span.end()
        self.chat = None
        self.tools.clear()
        if self.run is None:
            return
        self.run.set_attribute("gen_ai.usage.input_tokens", event.usage.input_tokens)
        self.run.set_attribute("gen_ai.usage.output_tokens", event.usage.output_tokens)
        if isinstance(event, RunFailedEvent):
            _fail(self.run, event.error_type, event.error if self.content else "")
        else:
            self.run.set_attribute("agentkit.status", event.status)
        self.run.end()
        self.run = None

    def _child(self, name: str, attributes: Mapping[str, Any], kind: str = "internal") -> Span:
        from opentelemetry.trace import SpanKind, set_span_in_context

        context = set_span_in_context(self.run) if self.run is not None else None
        span_kind = SpanKind.CLIENT if kind == "client" else SpanKind.INTERNAL
        return self.tracer.start_span(name, context=context, kind=span_kind, attributes=attributes)


def _provider(model_name: str) -> str:
    """Return who answers, as far as a model's name tells; a model in this process is our own."""
    provider, colon, _ = model_name.partition(":")
    return provider if colon and provider not in ("local", "http", "https") else "agentkit"


def _fail(span: Span, error_type: str, description: str = "") -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", error_type)
    span.set_status(StatusCode.ERROR, description or None)


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
            return {"type": "tool_call_response", "id": part.tool_call_id, "result": part.content}
        case ThinkingPart():
            return {"type": "reasoning", "content": part.content}
        case TextPart():
            return {"type": "text", "content": part.content}
        case _:
            return {"type": "text", "content": part.content}
