"""Agents as an application uses them, with the product's own test doubles."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from agentkit import (
    Agent,
    AgentRunError,
    FunctionToolset,
    ModelRetry,
    ModelSettings,
    RunContext,
    ToolExecutionError,
    ToolFailed,
    UnexpectedModelBehavior,
    UsageLimits,
    UserError,
    tool,
)
from agentkit.events import (
    RunFinishedEvent,
    TextDeltaEvent,
    ToolCallEvent,
    ToolProgressEvent,
    ToolResultEvent,
)
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
    messages_from_json,
    messages_to_json,
)
from agentkit.models.base import Model, ModelRequestParameters, OnDelta, check_model_requests_allowed
from agentkit.testing import FunctionModel, ScriptedModel, TestModel, block_model_requests, call

pytestmark = pytest.mark.anyio


async def add(a: int, b: int) -> int:
    """Add two integers."""
    return a + b


class Item(BaseModel):
    name: str
    tags: list[str]
    parent: Item | None


def results_of(messages: Sequence[ModelMessage]) -> list[ToolReturnPart | RetryPromptPart]:
    return [
        part
        for message in messages
        if isinstance(message, ModelRequest)
        for part in message.parts
        if isinstance(part, (ToolReturnPart, RetryPromptPart))
    ]


def assert_paired(messages: Sequence[ModelMessage]) -> None:
    """Every call is answered, once, by the next request, and nothing else is answered."""
    for index, message in enumerate(messages):
        if isinstance(message, ModelResponse) and message.tool_calls:
            following = messages[index + 1]
            answered = [part.tool_call_id for part in results_of([following])]
            assert answered == [c.tool_call_id for c in message.tool_calls]


async def test_a_tool_is_called_and_the_answer_returned() -> None:
    model = ScriptedModel([call("add", a=19, b=23), "42"])
    agent = Agent(model, tools=[add], instructions="Use tools.")
    result = await agent.run("What is 19 + 23?")
    model.assert_complete()
    assert (result.output, result.status) == ("42", "completed")
    asked = ModelRequest((SystemPromptPart("Use tools."), UserPromptPart("What is 19 + 23?")))
    assert [recorded.messages[0] for recorded in model.calls] == [asked, asked]
    assert result.messages[0] == ModelRequest((UserPromptPart("What is 19 + 23?"),))
    assert results_of(result.messages)[0].content == "42"
    assert (result.usage.requests, result.usage.tool_calls) == (2, 1)


def test_run_sync_works_without_a_loop() -> None:
    assert Agent(TestModel(output="hi")).run_sync("x").output == "hi"


async def test_run_sync_works_inside_a_running_loop() -> None:
    agent = Agent(ScriptedModel([call("add", a=1, b=2), "3"]), tools=[add])
    assert agent.run_sync("x").output == "3"


async def test_run_sync_works_inside_a_tool_of_a_run_sync() -> None:
    inner = Agent(TestModel(output="inner"))

    async def ask_inner() -> str:
        return inner.run_sync("x").output

    outer = Agent(ScriptedModel([call("ask_inner"), "done"]), tools=[ask_inner])
    result = await anyio.to_thread.run_sync(lambda: outer.run_sync("x"))
    assert results_of(result.messages)[0].content == "inner"


async def test_the_output_type_is_validated_and_retried() -> None:
    class City(BaseModel):
        name: str
        population: int

    model = ScriptedModel(['{"name": "Bern"}', '{"name": "Bern", "population": 134000}'])
    result = await Agent(model, output_type=City).run("x")
    assert result.output == City(name="Bern", population=134000)
    retry = results_of(result.messages)[0]
    assert "population" in retry.content
    assert model.calls[0].parameters.output is not None


async def test_an_output_that_is_no_object_is_wrapped() -> None:
    model = ScriptedModel(['{"result": [1, 2, 3]}'])
    result = await Agent(model, output_type=list[int]).run("x")
    assert result.output == [1, 2, 3]
    assert model.calls[0].parameters.output is not None
    assert model.calls[0].parameters.output.json_schema["required"] == ["result"]


async def test_an_output_that_stays_invalid_fails_with_the_conversation() -> None:
    agent = Agent(ScriptedModel(["x", "y"]), output_type=int)
    with pytest.raises(UnexpectedModelBehavior) as caught:
        await agent.run("x")
    assert len(caught.value.messages) == 4
    assert caught.value.usage is not None
    assert caught.value.usage.requests == 2


async def test_an_output_validator_may_ask_for_another_answer() -> None:
    agent = Agent(ScriptedModel(["one", "two"]))

    @agent.output_validator
    async def check(context: RunContext[None], output: str) -> str:
        if output == "one":
            raise ModelRetry("not one")
        return output.upper()

    assert (await agent.run("x")).output == "TWO"


async def test_an_output_validator_may_be_a_plain_function() -> None:
    agent = Agent(ScriptedModel(["one", "two"]))

    @agent.output_validator
    def check(context: RunContext[None], output: str) -> str:
        if output == "one":
            raise ModelRetry("not one")
        return output.upper()

    assert (await agent.run("x")).output == "TWO"


async def test_deps_and_context_reach_a_tool() -> None:
    seen: list[RunContext[dict[str, int]]] = []

    def look(context: RunContext[dict[str, int]], key: str) -> int:
        """Look up a key."""
        seen.append(context)
        return context.deps[key]

    agent = Agent(ScriptedModel([call("look", key="a"), "7"]), tools=[look], deps_type=dict[str, int])
    result = await agent.run("x", deps={"a": 7})
    assert results_of(result.messages)[0].content == "7"
    assert (seen[0].tool_name, seen[0].step, seen[0].run_id) == ("look", 1, result.run_id)


async def test_model_retry_goes_back_to_the_model_and_tool_failed_does_not_count() -> None:
    attempts: list[int] = []

    async def flaky(context: RunContext[None], n: int) -> str:
        attempts.append(context.retry)
        if n == 1:
            raise ModelRetry("use 2")
        if n == 2:
            raise ToolFailed("the service is down")
        return "ok"

    model = ScriptedModel([call("flaky", n=1), call("flaky", n=2), "sorry"])
    result = await Agent(model, tools=[flaky]).run("x")
    first, second = results_of(result.messages)
    assert isinstance(first, RetryPromptPart)
    assert isinstance(second, ToolReturnPart)
    assert second.is_error
    assert attempts == [0, 1]


async def test_invalid_arguments_name_the_value_the_rule_and_the_nearest_key() -> None:
    model = ScriptedModel([ToolCallPart("add", '{"a": "1", "bb": 2}'), "x"])
    result = await Agent(model, tools=[add]).run("x")
    text = results_of(result.messages)[0].content
    assert "a: Input should be a valid integer (got '1')" in text
    assert "bb: unknown argument; did you mean 'b'?" in text


async def test_an_undeclared_error_that_is_raised_ends_the_run_and_carries_it() -> None:
    async def broken() -> str:
        raise ZeroDivisionError("oh")

    with pytest.raises(ToolExecutionError, match="'broken' raised ZeroDivisionError: oh") as caught:
        await Agent(ScriptedModel([call("broken")]), tools=[broken], on_tool_error="raise").run("x")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert_paired(caught.value.messages)


async def test_a_run_that_failed_does_not_start_again_and_its_conversation_goes_on() -> None:
    async def broken() -> str:
        raise ZeroDivisionError

    agent = Agent(ScriptedModel([call("broken"), "fine"]), tools=[broken], on_tool_error="raise")
    async with agent.iter("x") as run:
        with pytest.raises(ToolExecutionError):
            await run.finish()
        with pytest.raises(UserError, match="new one"):
            await run.advance()
    assert (await agent.run("again", message_history=run.state.messages)).output == "fine"


async def test_a_hanging_tool_times_out_and_the_others_keep_their_results() -> None:
    @tool(timeout_s=0.05)
    async def hang(n: int) -> int:
        await anyio.sleep_forever()
        return n

    async def quick(n: int) -> int:
        return n

    calls = [call("hang" if n == 25 else "quick", n=n) for n in range(50)]
    result = await Agent(ScriptedModel([calls, "done"]), tools=[hang, quick]).run("x")
    parts = results_of(result.messages)
    assert [p.content for i, p in enumerate(parts) if i != 25] == [str(n) for n in range(50) if n != 25]
    assert "Timed out after 0.05 s" in parts[25].content
    assert_paired(result.messages)


async def test_parallel_calls_overlap() -> None:
    both = anyio.Event()
    running = 0

    async def meet(who: str) -> str:
        nonlocal running
        running += 1
        if running == 2:
            both.set()
        await both.wait()
        return f"met {who}"

    calls = [call("meet", who="Ann"), call("meet", who="Bo")]
    with anyio.fail_after(5):
        result = await Agent(ScriptedModel([calls, "x"]), tools=[meet]).run("x")
    assert [p.content for p in results_of(result.messages)] == ["met Ann", "met Bo"]


async def test_a_sequential_tool_is_a_barrier() -> None:
    log: list[str] = []

    async def read(n: int) -> None:
        log.append(f"start {n}")
        await anyio.lowlevel.checkpoint()
        log.append(f"end {n}")

    @tool(sequential=True)
    async def write() -> None:
        log.append("write")
        await anyio.lowlevel.checkpoint()
        log.append("written")

    calls = [call("read", n=1), call("read", n=2), call("write"), call("read", n=3)]
    await Agent(ScriptedModel([calls, "x"]), tools=[read, write]).run("x")
    assert sorted(log[:4]) == ["end 1", "end 2", "start 1", "start 2"]
    assert log[:2] == ["start 1", "start 2"]
    assert log[4:] == ["write", "written", "start 3", "end 3"]


async def test_a_tool_whose_error_is_raised_cancels_its_siblings_and_leaves_no_open_call() -> None:
    async def broken() -> str:
        raise ZeroDivisionError

    async def slow() -> str:
        await anyio.sleep_forever()
        return ""

    agent = Agent(ScriptedModel([[call("slow"), call("broken")]]), tools=[broken, slow], on_tool_error="raise")
    with anyio.fail_after(5), pytest.raises(ToolExecutionError) as caught:
        await agent.run("x")
    assert_paired(caught.value.messages)


async def test_a_limit_ends_in_a_result_with_a_final_answer() -> None:
    def forever(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        if parameters.tool_choice == "none":
            return ModelResponse((TextPart("as far as I got"),))
        return ModelResponse((call("add", a=len(messages), b=1),))

    agent = Agent(FunctionModel(forever), tools=[add], limits=UsageLimits(request_limit=5))
    result = await agent.run("x")
    assert (result.output, result.status) == ("as far as I got", "limit_reached")
    assert (result.usage.requests, result.usage.tool_calls) == (5, 4)


async def test_a_required_call_is_required_of_the_first_response_only() -> None:
    model = ScriptedModel([call("add", a=1, b=2), "3"])
    await Agent(model, tools=[add], settings=ModelSettings(tool_choice="required")).run("x")
    assert [asked.parameters.tool_choice for asked in model.calls] == ["required", "auto"]


async def test_a_tool_taken_away_mid_run_cannot_be_called_at_the_next_step() -> None:
    toolset = FunctionToolset([add])

    async def drop() -> None:
        toolset.remove("add")

    toolset.add(drop)
    model = ScriptedModel([call("drop"), call("add", a=1, b=2), "x"])
    result = await Agent(model, toolsets=[toolset]).run("x")
    assert [d.name for d in model.calls[0].parameters.callable_tools] == ["add", "drop"]
    assert [d.name for d in model.calls[1].parameters.callable_tools] == ["drop"]
    assert "no tool 'add'" in results_of(result.messages)[1].content


async def test_names_that_collide_are_an_error_that_says_how_to_mend_it() -> None:
    agent = Agent(TestModel(), tools=[add], toolsets=[FunctionToolset([add], id="more")])
    with pytest.raises(UserError, match=r"tool 'add' is in 'functions' and in 'more'"):
        await agent.run("x")
    both = Agent(TestModel(), tools=[add], toolsets=[FunctionToolset([add], id="more").prefixed("more")])
    assert set(json.loads((await both.run("x")).output)) == {"add", "more_add"}


async def test_views_of_toolsets_filter_and_rename() -> None:
    toolset = FunctionToolset([add]).renamed({"add": "plus"}).filtered(lambda d: d.name == "plus")
    model = ScriptedModel([call("plus", a=1, b=2), "3"])
    result = await Agent(model, toolsets=[toolset]).run("x")
    assert results_of(result.messages)[0].content == "3"
    with pytest.raises(UserError, match="nope"):
        await Agent(TestModel(), toolsets=[FunctionToolset([add]).renamed({"nope": "x"})]).run("x")


async def test_a_result_lists_the_calls_of_its_run_alone() -> None:
    agent = Agent(ScriptedModel([call("add", a=1, b=2), "3", call("add", a=3, b="x"), "?"]), tools=[add])
    first = await agent.run("one")
    second = await agent.run("two", message_history=first.messages)
    calls = [[(each.tool_name, each.arguments_dict()) for each in r.tool_calls] for r in (first, second)]
    assert calls == [[("add", {"a": 1, "b": 2})], [("add", {"a": 3, "b": "x"})]]


async def test_a_conversation_goes_on_with_message_history() -> None:
    model = ScriptedModel(["first", "second"])
    agent = Agent(model, instructions="Be brief.")
    first = await agent.run("one")
    second = await agent.run("two", message_history=first.messages)
    assert second.messages[: len(first.messages)] == first.messages
    assert second.new_messages()[0] == ModelRequest((UserPromptPart("two"),))
    assert messages_from_json(messages_to_json(second.messages)) == second.messages


async def test_events_tell_the_whole_run_and_the_result_follows() -> None:
    async def work(context: RunContext[None], n: int) -> int:
        context.report_progress(1, 2, "half")
        return n

    agent = Agent(ScriptedModel([call("work", n=1), "done"]), tools=[work])
    async with agent.run_stream("x") as stream:
        events = [event async for event in stream]
    kinds = [event.event_kind for event in events]
    assert kinds == [
        "run_started",
        "model_request",
        "tool_call_delta",
        "model_response",
        "tool_call",
        "tool_progress",
        "tool_result",
        "model_request",
        "text_delta",
        "model_response",
        "run_finished",
    ]
    assert [e.message for e in events if isinstance(e, ToolProgressEvent)] == ["half"]
    assert [e.outcome for e in events if isinstance(e, ToolResultEvent)] == ["success"]
    assert [e.text for e in events if isinstance(e, TextDeltaEvent)] == ["done"]
    assert isinstance(events[-1], RunFinishedEvent)
    assert stream.result.output == "done"


async def test_leaving_a_stream_early_cancels_the_run() -> None:
    cancelled = anyio.Event()

    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    agent = Agent(ScriptedModel([call("wait")]), tools=[wait])
    with anyio.fail_after(5):
        async with agent.run_stream("x") as stream:
            async for event in stream:
                if isinstance(event, ToolCallEvent):
                    break
        assert cancelled.is_set()
    assert stream.state is not None
    assert_paired(stream.state.messages)


async def test_iter_shows_each_action_before_it_is_performed() -> None:
    agent = Agent(ScriptedModel([call("add", a=1, b=2), "3"]), tools=[add])
    async with agent.iter("x") as run:
        actions = [type(action).__name__ async for action in run]
    assert actions == ["CallModel", "RunTools", "CallModel", "ReadOutput"]
    assert run.result is not None
    assert run.result.output == "3"


async def test_override_replaces_model_tools_and_deps() -> None:
    def one(context: RunContext[int]) -> int:
        return context.deps

    agent = Agent("http://127.0.0.1:9/v1#none", deps_type=int)
    with agent.override(model=TestModel(), tools=[one], deps=5), block_model_requests():
        assert (await agent.run("x", deps=1)).output == '{"one": 5}'


class RealModel(Model):
    """Stands for a model that costs something."""

    @property
    def name(self) -> str:
        return "real"

    async def request(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        *,
        on_delta: OnDelta | None = None,
    ) -> ModelResponse:
        check_model_requests_allowed(self)
        return ModelResponse((TextPart("real"),))


async def test_blocked_requests_refuse_real_models_also_through_run_sync() -> None:
    agent = Agent(RealModel())
    assert (await agent.run("x")).output == "real"
    with block_model_requests():
        with pytest.raises(UserError, match="'real'"):
            await agent.run("x")
        with pytest.raises(UserError, match="'real'"):
            agent.run_sync("x")
        assert (await Agent(TestModel(output="free")).run("x")).output == "free"


async def test_test_model_calls_every_tool_with_valid_arguments() -> None:
    def save(item: Item, mode: str = "new", count: int | None = None) -> str:
        return f"{item.name} {item.tags}"

    result = await Agent(TestModel(), tools=[add, save]).run("x")
    assert [type(p) for p in results_of(result.messages)] == [ToolReturnPart, ToolReturnPart]


async def test_a_script_that_ends_too_early_or_too_late_says_so() -> None:
    model = ScriptedModel([call("add", a=1, b=2)])
    with pytest.raises(AssertionError, match="asked 2 times but has only 1"):
        await Agent(model, tools=[add]).run("x")
    with pytest.raises(AssertionError, match="1 of 1 responses not used"):
        ScriptedModel(["x"]).assert_complete()


class Waiting(Model):
    """Suspends `n` times in each request, so that every await point can be cancelled."""

    def __init__(self, script: ScriptedModel) -> None:
        self._script = script

    @property
    def name(self) -> str:
        return "waiting"

    async def request(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        *,
        on_delta: OnDelta | None = None,
    ) -> ModelResponse:
        await asyncio.sleep(0)
        response = await self._script.request(messages, parameters, on_delta=on_delta)
        await asyncio.sleep(0)
        return response


async def test_cancelling_at_every_await_point_leaves_no_call_without_result() -> None:
    """SDK-defined: whatever suspension the cancellation hits, the conversation can go on from the state."""
    started: list[int] = []
    ended: list[int] = []

    async def work(n: int) -> int:
        started.append(n)
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        finally:
            ended.append(n)
        return n

    def sync_work(n: int) -> int:
        return n

    def make() -> Agent[None, str]:
        script = ScriptedModel(
            [[call("work", n=1), call("work", n=2)], [call("work", n=3)], call("sync_work", n=4), "end"]
        )
        return Agent(Waiting(script), tools=[work, sync_work])

    for ticks in range(200):
        states: list[Any] = []

        async def go(states: list[Any] = states) -> None:
            async with make().iter("x") as run:
                states.append(run)
                await run.finish()

        task = asyncio.ensure_future(go())
        for _ in range(ticks):
            await asyncio.sleep(0)
        cancelled = task.cancel()
        with pytest.raises(asyncio.CancelledError) if cancelled else _nothing():
            await task
        assert sorted(started) == sorted(ended)
        if states:
            assert_paired(states[0].state.messages)
        if not cancelled:
            break
    else:
        pytest.fail("the run never completed: too few ticks")
    assert ticks > 10


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


async def test_a_sync_tool_does_not_block_the_loop() -> None:
    gate = anyio.Event()
    loop_ran: list[bool] = []

    def slow() -> str:
        deadline = time.monotonic() + 5
        while not loop_ran and time.monotonic() < deadline:
            time.sleep(0.001)
        return "seen" if loop_ran else "blocked"

    async def other() -> None:
        loop_ran.append(True)
        gate.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        result = await Agent(ScriptedModel([call("slow"), "x"]), tools=[slow]).run("x")
    assert results_of(result.messages)[0].content == "seen"


async def test_a_value_without_json_form_is_the_tool_authors_error() -> None:
    def thing() -> object:
        return object()

    with pytest.raises(UserError, match="'thing' returned object"):
        await Agent(ScriptedModel([call("thing")]), tools=[thing]).run("x")


async def test_a_broken_toolset_fails_before_the_model_is_asked() -> None:
    class Broken(FunctionToolset):
        async def list_tools(self, context: RunContext[Any]) -> Any:
            raise AgentRunError("server is gone")

    model = ScriptedModel([])
    with pytest.raises(AgentRunError, match="gone"):
        await Agent(model, tools=[add], toolsets=[Broken()]).run("x")
    assert model.calls == []


def test_a_bad_declaration_is_refused_at_once() -> None:
    def starred(*args: int) -> None: ...

    with pytest.raises(UserError, match=r"\*args.* has no fixed schema"):
        Agent(TestModel(), tools=[starred])
    with pytest.raises(UserError, match="retries=-1"):
        Agent(TestModel(), retries=-1)
    with pytest.raises(UserError, match="request_limit=0"):
        UsageLimits(request_limit=0)
