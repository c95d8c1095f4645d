"""Runs as OpenTelemetry spans: names, parents, attributes, and nothing of what was said unless asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, get_current_span

from agentkit import Agent, ApprovalRequired, ModelSettings, RunContext, ToolFailed
from agentkit.errors import ModelConnectionError, ToolExecutionError
from agentkit.events import (
    AgentEvent,
    RunFailedEvent,
    RunFinishedEvent,
    RunStartedEvent,
    SideRequestEvent,
    ToolResultEvent,
)
from agentkit.guardrails import Block, Verdict, output_guardrail
from agentkit.messages import ModelResponse, TextPart
from agentkit.middleware import Middleware, ModelCall
from agentkit.models.fallback import FallbackModel
from agentkit.models.openai.model import OpenAICompatibleModel
from agentkit.run.actions import CallModel
from agentkit.testing import FunctionModel, ScriptedModel, call
from agentkit.tracing.reading import summarise
from agentkit.tracing.telemetry import Telemetry
from agentkit.usage import RequestUsage, RunUsage
from tests.agentkit.hosted_models import HostedModel, said

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
    assert run.parent is None
    assert attributes(run) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "agentkit",
        "gen_ai.conversation.id": result.run_id,
        "gen_ai.request.model": "m",
        "gen_ai.agent.name": "adder",
        "gen_ai.usage.input_tokens": result.usage.input_tokens,
        "gen_ai.usage.output_tokens": result.usage.output_tokens,
        "agentkit.cost": 0.0,
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


async def test_spans_carry_costs_and_cached_tokens() -> None:
    spans, usage = Spans(), RequestUsage(4_000, 1_000, 0, cache_write_tokens=500)
    model = HostedModel([said("one", usage, "gpt-4o"), said("two", usage, "gpt-99")])
    agent = Agent(model, telemetry=spans.telemetry(), name="a")
    result = await agent.run("go")
    await agent.run("go")
    priced, unpriced = map(attributes, spans.named("chat gpt-4o"))
    assert priced["operation.cost"] == float(result.usage.cost or 0) == 0.00875
    assert priced["gen_ai.usage.cache_read.input_tokens"] == 1_000
    assert priced["gen_ai.usage.cache_creation.input_tokens"] == 500
    assert "operation.cost" not in unpriced
    known, unknown = map(attributes, spans.named("invoke_agent a"))
    assert known["agentkit.cost"] == 0.00875 and "agentkit.cost" not in unknown


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


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent is not None else None


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


async def test_spans_of_tools_and_of_inner_runs_hang_below_the_call_that_makes_them() -> None:
    spans = Spans()
    tracer = spans.provider.get_tracer("application")

    async def look_up(word: str) -> str:
        """Look a word up."""
        with tracer.start_as_current_span("query"):
            return word

    def in_a_thread() -> str:
        """Work in a thread."""
        with tracer.start_as_current_span("threaded query"):
            return "done"

    inner = Agent(
        ScriptedModel([call("look_up", word="a"), "found"], name="small"),
        tools=[look_up],
        name="inner",
        telemetry=spans.telemetry(),
    )
    outer = Agent(
        ScriptedModel(
            [[call("inner", task="x"), call("look_up", word="b"), call("in_a_thread")], "done"], name="m"
        ),
        tools=[inner.as_tool("Ask the other one."), look_up, in_a_thread],
        name="outer",
        telemetry=spans.telemetry(),
    )
    with tracer.start_as_current_span("request of a user"):
        await outer.run("go")
    (request,), (run,) = spans.named("request of a user"), spans.named("invoke_agent outer")
    (call_of_inner,), (inner_run,) = spans.named("execute_tool inner"), spans.named("invoke_agent inner")
    assert parent_of(run) == id_of(request)
    assert parent_of(call_of_inner) == id_of(run)
    assert parent_of(inner_run) == id_of(call_of_inner)
    assert {parent_of(span) for span in spans.named("chat small")} == {id_of(inner_run)}
    assert {parent_of(span) for span in spans.named("chat m")} == {id_of(run)}
    looked = spans.named("execute_tool look_up")
    assert {parent_of(span) for span in looked} == {id_of(run), id_of(inner_run)}
    assert {parent_of(span) for span in spans.named("query")} == {id_of(span) for span in looked}
    (threaded,), (of_thread,) = spans.named("threaded query"), spans.named("execute_tool in_a_thread")
    assert parent_of(threaded) == id_of(of_thread)
    assert len({span.context.trace_id for span in spans.all if span.context is not None}) == 1


async def test_after_a_tool_its_span_is_not_the_current_one_any_more() -> None:
    """Also where the call ends without a result: it waits, or its tool fails."""

    async def ask() -> str:
        """Ask."""
        raise ApprovalRequired("may I?")

    async def crash() -> str:
        """Crash."""
        raise RuntimeError("no")

    spans = Spans()
    outside = get_current_span()
    waiting = await Agent(ScriptedModel([call("ask")]), tools=[ask], telemetry=spans.telemetry()).run("x")
    assert waiting.status == "needs_approval" and get_current_span() is outside
    with pytest.raises(ToolExecutionError):
        await Agent(
            ScriptedModel([call("crash")]), tools=[crash], telemetry=spans.telemetry(), on_tool_error="raise"
        ).run("x")
    assert get_current_span() is outside
    (asked,), (crashed,) = spans.named("execute_tool ask"), spans.named("execute_tool crash")
    assert asked.status.status_code == StatusCode.UNSET
    assert (crashed.status.status_code, attributes(crashed)["error.type"]) == (
        StatusCode.ERROR,
        "ToolExecutionError",
    )


@pytest.mark.parametrize("content", [False, True])
async def test_the_span_of_a_tool_whose_error_was_told_names_its_class(content: bool) -> None:
    async def crash() -> str:
        """Crash."""
        raise RuntimeError("secret reason")

    spans = Spans()
    agent = Agent(ScriptedModel([call("crash"), "x"]), tools=[crash], telemetry=spans.telemetry(content=content))
    await agent.run("x")
    (crashed,) = spans.named("execute_tool crash")
    assert (crashed.status.status_code, attributes(crashed)["error.type"]) == (StatusCode.ERROR, "RuntimeError")
    assert crashed.status.description == ("RuntimeError: secret reason" if content else None)


@pytest.mark.parametrize(
    ("address", "provider"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("http://127.0.0.1:8080/v1", "openai"),
        ("https://api.mistral.ai/v1", "mistral_ai"),
        ("https://api.groq.com/openai/v1", "groq"),
        ("https://my-company.openai.azure.com/openai/v1", "azure.ai.openai"),
        ("https://us-central1-aiplatform.googleapis.com/v1beta1/x", "gcp.vertex_ai"),
        ("https://notapi.x.ai.evil.test/v1", "openai"),
    ],
)
async def test_the_provider_is_who_is_spoken_to_not_what_the_models_name_looks_like(
    address: str, provider: str
) -> None:
    model = OpenAICompatibleModel("gpt-4.1-mini", base_url=address, api_key="")
    assert model.provider == provider
    assert FallbackModel(model, ScriptedModel([])).provider == provider
    spans = Spans()

    def answer(request: httpx.Request) -> httpx.Response:
        message = {"role": "assistant", "content": "hello"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return httpx.Response(200, json={"model": "gpt-4.1-mini-2025-04-14", "choices": [choice]})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        model = OpenAICompatibleModel("gpt-4.1-mini", base_url=address, api_key="", http_client=client)
        await Agent(model, telemetry=spans.telemetry()).run("x")
    (run,), (chat,) = spans.named("invoke_agent"), spans.named("chat gpt-4.1-mini")
    for span in (run, chat):
        assert attributes(span)["gen_ai.provider.name"] == provider
        assert attributes(span)["gen_ai.request.model"] == "gpt-4.1-mini"
    assert attributes(chat)["gen_ai.response.model"] == "gpt-4.1-mini-2025-04-14"


async def test_after_a_handoff_the_model_is_that_of_the_agent_that_has_the_run() -> None:
    spans = Spans()
    other = Agent(ScriptedModel(["done"], name="large"), name="other")
    agent = Agent(
        ScriptedModel([call("transfer_to_other", task="x")], name="small"),
        handoffs=[other],
        name="first",
        telemetry=spans.telemetry(),
    )
    await agent.run("go")
    assert [span.name for span in spans.named("chat")] == ["chat small", "chat large"]


async def test_a_request_apart_from_the_conversation_has_a_span_of_its_own_model() -> None:
    spans = Spans()
    sink = spans.telemetry().sink()
    response = ModelResponse((TextPart("secret summary"),), usage=RequestUsage(7, 0, 3), finish_reason="stop")
    sink(RunStartedEvent("run_1", "a", "large", ()))
    sink(SideRequestEvent("summary", "gpt-4.1-nano", (), response, 2.0, "openai"))
    sink(RunFinishedEvent("run_1", "completed", "x", RunUsage(), None, 3.0))
    (chat,), (run,) = spans.named("chat gpt-4.1-nano"), spans.named("invoke_agent")
    assert attributes(chat) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4.1-nano",
        "gen_ai.response.model": "gpt-4.1-nano",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "agentkit.purpose": "summary",
    }
    assert parent_of(chat) == id_of(run)
    assert chat.end_time is not None and chat.start_time is not None
    assert chat.end_time - chat.start_time == 2_000_000_000


async def _break_after_a_tool(agent: Agent[None, str]) -> None:
    async with agent.iter("x") as run:
        async for action in run:
            if isinstance(action, CallModel) and run.state.step == 1:
                break


async def _raise_in_the_middle(agent: Agent[None, str]) -> None:
    async with agent.iter("x") as run:
        await run.advance()
        raise KeyError("the application's own")


async def _cancel_in_the_model(agent: Agent[None, str]) -> None:
    async def never(*_: Any, **__: Any) -> Any:
        scope.cancel()
        await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        await Agent(FunctionModel(never), telemetry=agent._declared.telemetry, trace=agent._declared.trace).run(
            "x"
        )


async def _cancel_in_a_tool(agent: Agent[None, str]) -> None:
    async def stop() -> str:
        """Stop."""
        scope.cancel()
        await anyio.sleep_forever()
        return ""

    model = ScriptedModel([call("stop")])
    with anyio.CancelScope() as scope:
        await Agent(model, tools=[stop], telemetry=agent._declared.telemetry, trace=agent._declared.trace).run("x")


async def _leave_a_stream(agent: Agent[None, str]) -> None:
    async with agent.run_stream("x") as stream:
        async for event in stream:
            if isinstance(event, ToolResultEvent):
                break


@pytest.mark.parametrize(
    ("leave", "error_type", "status"),
    [
        (_break_after_a_tool, "LeftEarly", "stopped"),
        (_raise_in_the_middle, "KeyError", "failed"),
        (_cancel_in_the_model, "CancelledError", "stopped"),
        (_cancel_in_a_tool, "CancelledError", "stopped"),
        (_leave_a_stream, "CancelledError", "stopped"),
    ],
)
async def test_a_run_that_is_left_ends_its_spans_and_closes_its_trace(
    leave: Callable[[Agent[None, str]], Awaitable[None]], error_type: str, status: str, tmp_path: Path
) -> None:
    """What is not ended is never exported, and a trace without an end looks like a killed process."""
    spans = Spans()
    started: list[str] = []
    spans.provider.add_span_processor(StartedSpans(started))
    model = ScriptedModel([call("add", a=1, b=2), "three"])
    agent = Agent(model, tools=[add], telemetry=spans.telemetry(), trace=tmp_path)
    with suppress(KeyError):
        await leave(agent)
    assert sorted(span.name for span in spans.all) == sorted(started) != []
    (run,) = spans.named("invoke_agent")
    assert (run.status.status_code, attributes(run)["error.type"]) == (StatusCode.ERROR, error_type)
    (path,) = tmp_path.glob("run_*.jsonl")
    assert json.loads(path.read_text().splitlines()[-1])["event_kind"] == "run_failed"
    assert summarise(path).status == status
    assert not [
        name for name in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{name}") == str(path)
    ]


async def test_a_listeners_error_at_an_early_end_is_raised() -> None:
    def listen(event: AgentEvent) -> None:
        if isinstance(event, RunFailedEvent):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        async with Agent(ScriptedModel(["x"]), on_event=listen).iter("x") as run:
            await run.advance()


class StartedSpans(SpanProcessor):
    """Notes what was begun."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self._names.append(span.name)


async def test_each_attempt_of_middleware_has_a_span_without_an_error() -> None:
    class Twice(Middleware):
        async def model_request(self, request: ModelCall, call_next: Any) -> ModelResponse:
            await call_next(request)
            return await call_next(request)

    spans = Spans()
    agent = Agent(ScriptedModel(["one", "two"], name="m"), middleware=[Twice()], telemetry=spans.telemetry())
    assert (await agent.run("hi")).output == "two"
    assert [span.status.status_code for span in spans.named("chat m")] == [StatusCode.UNSET, StatusCode.UNSET]
