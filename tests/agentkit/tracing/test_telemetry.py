"""Runs as OpenTelemetry spans: names, parents, attributes, and nothing of what was said unless asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from agentkit import Agent, ModelSettings, RunContext, ToolFailed
from agentkit.errors import ModelConnectionError
from agentkit.guardrails import Block, Verdict, output_guardrail
from agentkit.testing import ScriptedModel, call
from agentkit.tracing.telemetry import Telemetry

pytestmark = pytest.mark.anyio


class Spans:
    """What an application's SDK receives."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def telemetry(self, *, content: bool = False) -> Telemetry:
        return Telemetry(content=content, tracer_provider=self.provider)

    def named(self, beginning: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name.startswith(beginning)]

    @property
    def all(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def add(a: int, b: int) -> int:
    """Add."""
    return a + b


async def fail() -> str:
    """Fail."""
    raise ToolFailed("secret reason")


async def test_a_run_is_a_tree_of_spans_after_the_conventions() -> None:
    spans = Spans()
    agent = Agent(
        ScriptedModel([[call("add", a=1, b=2), call("fail")], "done"], name="m"),
        tools=[add, fail],
        name="adder",
        settings=ModelSettings(temperature=0.5, seed=7),
        telemetry=spans.telemetry(),
    )
    result = await agent.run("a secret task")
    (run,) = spans.named("invoke_agent adder")
    assert attributes(run) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "agentkit",
        "gen_ai.conversation.id": result.run_id,
        "gen_ai.request.model": "m",
        "gen_ai.agent.name": "adder",
        "gen_ai.usage.input_tokens": result.usage.input_tokens,
        "gen_ai.usage.output_tokens": result.usage.output_tokens,
        "agentkit.status": "completed",
    }
    chats = spans.named("chat m")
    assert [span.kind for span in chats] == [SpanKind.CLIENT, SpanKind.CLIENT]
    first = attributes(chats[0])
    assert (first["gen_ai.request.temperature"], first["gen_ai.request.seed"]) == (0.5, 7)
    assert first["gen_ai.response.finish_reasons"] == ("stop",)
    added, failed = spans.named("execute_tool add") + spans.named("execute_tool fail")
    assert attributes(added)["gen_ai.tool.name"] == "add"
    assert (failed.status.status_code, attributes(failed)["error.type"]) == (StatusCode.ERROR, "failed")
    assert run.context is not None
    assert {span.parent.span_id for span in spans.all if span.parent is not None} == {run.context.span_id}
    assert "secret" not in str([span.to_json() for span in spans.all])


async def test_what_was_said_is_there_if_asked_for() -> None:
    spans = Spans()
    script = [call("add", a=1, b=2), "three"]
    agent = Agent(ScriptedModel(script, name="m"), tools=[add], telemetry=spans.telemetry(content=True))
    await agent.run("1 + 2?")
    first, second = map(attributes, spans.named("chat m"))
    asked = json.loads(first["gen_ai.input.messages"])
    assert asked == [{"role": "user", "parts": [{"type": "text", "content": "1 + 2?"}]}]
    (said,) = json.loads(first["gen_ai.output.messages"])
    assert (said["role"], said["parts"][0]["type"], said["parts"][0]["name"]) == ("assistant", "tool_call", "add")
    (given,) = json.loads(second["gen_ai.input.messages"])
    assert given["parts"][0] == {"type": "tool_call_response", "id": said["parts"][0]["id"], "result": "3"}
    tool = attributes(spans.named("execute_tool add")[0])
    assert (tool["gen_ai.tool.call.arguments"], tool["gen_ai.tool.call.result"]) == ('{"a": 1, "b": 2}', "3")


async def test_a_failed_run_ends_all_its_spans_with_the_error() -> None:
    spans = Spans()
    agent = Agent(ScriptedModel([ModelConnectionError("gone")], name="m"), telemetry=spans.telemetry())
    with pytest.raises(ModelConnectionError):
        await agent.run("x")
    (run,), (chat,) = spans.named("invoke_agent"), spans.named("chat")
    assert attributes(run)["error.type"] == "ModelConnectionError"
    assert chat.status.status_code == run.status.status_code == StatusCode.ERROR


async def test_a_blocked_answer_is_an_event_of_the_run() -> None:
    @output_guardrail
    def block(text: str, context: RunContext[Any]) -> Verdict:
        return Block("no")

    spans = Spans()
    await Agent(ScriptedModel(["x"]), guardrails=[block], telemetry=spans.telemetry()).run("x")
    (run,) = spans.named("invoke_agent")
    assert [(event.name, dict(event.attributes or {})) for event in run.events] == [
        ("guardrail", {"stage": "output", "guardrail": "block", "verdict": "block"})
    ]
    assert attributes(run)["agentkit.status"] == "refused"


async def test_without_an_sdk_a_run_is_as_usual() -> None:
    assert (await Agent(ScriptedModel(["x"]), telemetry=Telemetry()).run("x")).output == "x"
