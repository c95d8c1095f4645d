"""Middleware changes, repeats, answers and replaces requests and calls, and never the rules of the run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentkit import Agent, ModelResponse, ModelSettings, RunContext, UsageLimits, UserError
from agentkit.agent import Agent as AgentClass
from agentkit.approvals.pending import Settle
from agentkit.errors import ApprovalRequired, ModelConnectionError, ModelRetry, NoRequestLeft
from agentkit.events import (
    AgentEvent,
    ModelRequestEvent,
    ModelResponseEvent,
    TextCallsEvent,
    TextDeltaEvent,
    ToolCallEvent,
)
from agentkit.guardrails import Allow, Block, Verdict, output_guardrail, tool_call_guardrail
from agentkit.guardrails.guardrail import CheckedCall
from agentkit.messages import ModelRequest, RetryPromptPart, TextPart, ToolCallPart, ToolReturnPart, UserPromptPart
from agentkit.middleware import Middleware, ModelCall
from agentkit.persistence import InMemoryCheckpointer
from agentkit.planning import ModelPlanner
from agentkit.testing import FunctionModel, ScriptedModel, call
from agentkit.tools.function import function_tool
from agentkit.tools.tool import ToolOutput
from agentkit.tracing.replay import replay
from agentkit.usage import RequestUsage, RunUsage
from tests.agentkit.arrangements import ARRANGEMENTS, Arrangement, Killed, World, approvals, by_turns, told

pytestmark = pytest.mark.anyio
NextModel = Callable[[ModelCall], Awaitable[ModelResponse]]
NextTool = Callable[[ToolCallPart], Awaitable[ToolOutput]]


def reply(text: str, *, tokens: int = 0) -> ModelResponse:
    return ModelResponse((TextPart(text),), RequestUsage(input_tokens=tokens, output_tokens=tokens))


def user_texts(messages: Any) -> list[str]:
    return [part.text for m in messages for part in m.parts if isinstance(part, UserPromptPart)]


class Named(Middleware):
    """Notes when it is entered and left."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self.name, self.seen = name, seen

    async def model_request(self, request: ModelCall, call_next: NextModel) -> ModelResponse:
        self.seen.append(f"{self.name} asks")
        response = await call_next(request)
        self.seen.append(f"{self.name} has the reply")
        return response

    async def tool_call(self, call: ToolCallPart, context: RunContext[Any], call_next: NextTool) -> ToolOutput:
        self.seen.append(f"{self.name} calls {call.tool_name}")
        output = await call_next(call)
        self.seen.append(f"{self.name} has {output.content}")
        return output


class Again(Middleware):
    """Asks until the reply is good, or a number of times."""

    def __init__(self, n: int = 100, *, bad: str = "bad", catches: bool = False) -> None:
        self.n, self.bad, self.catches = n, bad, catches

    async def model_request(self, request: ModelCall, call_next: NextModel) -> ModelResponse:
        response = await call_next(request)
        for _ in range(self.n - 1):
            if response.text != self.bad:
                break
            try:
                response = await call_next(request)
            except NoRequestLeft:
                if not self.catches:
                    raise
                return reply("gave up")
        return response


async def add(a: int, b: int) -> int:
    """Add."""
    return a + b


# --- order, and what it may do with a model request ------------------------------------------------------------


async def test_the_first_middleware_is_the_outermost() -> None:
    seen: list[str] = []
    model = ScriptedModel([call("add", a=1, b=2), "three"])
    agent = Agent(model, tools=[add], middleware=[Named("outer", seen), Named("inner", seen)])
    assert (await agent.run("add")).output == "three"
    asks = ["outer asks", "inner asks", "inner has the reply", "outer has the reply"]
    assert seen == [*asks, "outer calls add", "inner calls add", "inner has 3", "outer has 3", *asks]


async def test_a_changed_request_is_sent_changed_and_not_stored() -> None:
    class Shout(Middleware):
        async def model_request(self, request: ModelCall, call_next: NextModel) -> ModelResponse:
            messages = (*request.messages, ModelRequest((UserPromptPart("LOUDER"),)))
            settings = ModelSettings(temperature=0.5)
            parameters = replace(request.parameters, settings=settings)
            return await call_next(replace(request, messages=messages, parameters=parameters))

    events: list[AgentEvent] = []
    model = ScriptedModel(["hey"])
    result = await Agent(model, instructions="Be kind.", middleware=[Shout()], on_event=events.append).run("hi")
    (asked,) = model.calls
    assert user_texts(asked.messages) == ["hi", "LOUDER"]
    assert asked.parameters.settings.temperature == 0.5
    assert user_texts(result.messages) == ["hi"]
    (event,) = [each for each in events if isinstance(each, ModelRequestEvent)]
    assert event.sent == asked.messages  # the event reports the request that was really sent
    assert event.shape is not None and event.shape.settings.temperature == 0.5


async def test_middleware_reads_the_request_with_instructions_and_the_context() -> None:
    seen: list[ModelCall] = []

    class Reads(Middleware):
        async def model_request(self, request: ModelCall, call_next: NextModel) -> ModelResponse:
            seen.append(request)
            return await call_next(request)

    agent = Agent(ScriptedModel(["hey"]), instructions="Be kind.", middleware=[Reads()], deps_type=dict)
    await agent.run("hi", deps={"user": "Ann"})
    (request,) = seen
    first = request.messages[0]
    assert isinstance(first, ModelRequest)
    assert [part.content for part in first.parts] == ["Be kind.", "hi"]
    assert request.context.deps == {"user": "Ann"}


async def test_an_answer_without_a_request_counts_no_request_and_is_streamed() -> None:
    class Cache(Middleware):
        async def model_request(self, request: ModelCall, call_next: NextModel) -> ModelResponse:
            return reply("cached", tokens=1000)

    events: list[AgentEvent] = []
    model = ScriptedModel([])
    result = await Agent(model, middleware=[Cache()], on_event=events.append).run("hi")
    assert (result.output, result.usage, model.calls) == ("cached", RunUsage(), [])
    assert [event.text for event in events if isinstance(event, TextDeltaEvent)] == ["cached"]
    assert not [event for event in events if isinstance(event, ModelRequestEvent)]
    (answered,) = [event for event in events if isinstance(event, ModelResponseEvent)]
    assert answered.received == ()


async def test_a_changed_reply_is_the_reply_of_the_run() -> None:
    class Polite(Middleware):
        async def model_request(self, request: ModelCall, call_next: NextModel) -> ModelResponse:
            response = await call_next(request)
            return replace(response, parts=(TextPart(f"{response.text}, please"),))

    events: list[AgentEvent] = []
    result = await Agent(ScriptedModel(["no"]), middleware=[Polite()], on_event=events.append).run("hi")
    assert (result.output, result.messages[-1].parts) == ("no, please", (TextPart("no, please"),))
    (answered,) = [event for event in events if isinstance(event, ModelResponseEvent)]
    assert answered.received is not None and [each.text for each in answered.received] == ["no"]


async def test_a_reply_that_is_no_response_is_a_mistake_of_the_developer() -> None:
    class Wrong(Middleware):
        async def model_request(self, request: ModelCall, call_next: NextModel) -> ModelResponse:
            return "text"  # pyright: ignore[reportReturnType]

    with pytest.raises(UserError, match=r"Wrong\.model_request returned str"):
        await Agent(ScriptedModel([]), middleware=[Wrong()]).run("hi")


async def test_an_error_of_middleware_is_raised_unchanged_with_the_run() -> None:
    class Breaks(Middleware):
        async def model_request(self, request: ModelCall, call_next: NextModel) -> ModelResponse:
            await call_next(request)
            raise KeyError("cache")

    with pytest.raises(KeyError) as caught:
        await Agent(ScriptedModel(["hey"]), middleware=[Breaks()]).run("hi")
    assert caught.value.usage.requests == 1  # pyright: ignore[reportAttributeAccessIssue]


# --- retries ---------------------------------------------------------------------------------------------------


async def test_every_request_of_a_retry_counts_in_the_usage() -> None:
    model = ScriptedModel([reply("bad", tokens=10), reply("bad", tokens=10), reply("good", tokens=10)])
    events: list[AgentEvent] = []
    result = await Agent(model, middleware=[Again()], on_event=events.append).run("hi")
    assert (result.output, result.usage.requests, result.usage.total_tokens) == ("good", 3, 60)
    assert len([event for event in events if isinstance(event, ModelRequestEvent)]) == 3
    (answered,) = [event for event in events if isinstance(event, ModelResponseEvent)]
    assert answered.received is not None and [each.text for each in answered.received] == ["bad", "bad", "good"]


async def test_a_failed_request_counts_and_can_be_repeated() -> None:
    class OnFailure(Middleware):
        async def model_request(self, request: ModelCall, call_next: NextModel) -> ModelResponse:
            try:
                return await call_next(request)
            except ModelConnectionError:
                return await call_next(request)

    model = ScriptedModel([ModelConnectionError("lost"), "here"])
    result = await Agent(model, middleware=[OnFailure()]).run("hi")
    assert (result.output, result.usage.requests) == ("here", 2)


@pytest.mark.parametrize("limit", [2, 3, 5])
async def test_a_retry_without_a_request_left_gives_the_last_reply(limit: int) -> None:
    model = ScriptedModel([reply("bad")] * 100)
    result = await Agent(model, middleware=[Again()], limits=UsageLimits(request_limit=limit)).run("hi")
    # One request stays reserved for an answer, as in every step that may call tools.
    assert (result.output, result.usage.requests, len(model.calls)) == ("bad", limit - 1, limit - 1)


async def test_the_last_step_may_use_the_last_request() -> None:
    model = ScriptedModel([call("add", a=1, b=2), reply("bad"), reply("bad"), reply("bad")])
    agent = Agent(model, tools=[add], middleware=[Again()], limits=UsageLimits(request_limit=2))
    result = await agent.run("hi")
    assert (result.status, result.usage.requests) == ("limit_reached", 2)


async def test_middleware_may_answer_when_no_request_is_left() -> None:
    model = ScriptedModel([reply("bad")] * 100)
    limits = UsageLimits(request_limit=3)
    result = await Agent(model, middleware=[Again(catches=True)], limits=limits).run("hi")
    assert (result.output, result.usage.requests) == ("gave up", 2)


async def test_without_a_request_left_a_failed_request_ends_the_run_with_its_own_error() -> None:
    class Stubborn(Middleware):
        async def model_request(self, request: ModelCall, call_next: NextModel) -> ModelResponse:
            for _ in range(100):
                try:
                    return await call_next(request)
                except ModelConnectionError:
                    pass
            raise AssertionError

    model = ScriptedModel([ModelConnectionError("lost")] * 100)
    with pytest.raises(ModelConnectionError, match="lost") as caught:
        await Agent(model, middleware=[Stubborn()], limits=UsageLimits(request_limit=4)).run("hi")
    assert caught.value.usage is not None and caught.value.usage.requests == 3


async def test_requests_sent_at_once_stay_within_the_limit() -> None:
    import asyncio

    class Race(Middleware):
        async def model_request(self, request: ModelCall, call_next: NextModel) -> ModelResponse:
            replies = await asyncio.gather(*(call_next(request) for _ in range(9)), return_exceptions=True)
            return next(each for each in replies if isinstance(each, ModelResponse))

    async def slow(messages: Any, parameters: Any) -> ModelResponse:
        await asyncio.sleep(0)
        return reply("here")

    result = await Agent(FunctionModel(slow), middleware=[Race()], limits=UsageLimits(request_limit=4)).run("hi")
    assert (result.output, result.usage.requests) == ("here", 3)


async def test_retries_of_an_inner_agent_count_in_the_budget_of_the_outer_one() -> None:
    inner_model = ScriptedModel([reply("bad")] * 100)
    inner = Agent(inner_model, name="inner", middleware=[Again()])
    outer = Agent(
        ScriptedModel([call("inner", task="x"), "done"]),
        tools=[inner.as_tool("Works.")],
        limits=UsageLimits(request_limit=6),
    )
    result = await outer.run("hi")
    # One request each stays reserved for the answers of the two runs.
    assert (result.output, result.usage.requests, len(inner_model.calls)) == ("done", 5, 3)


async def test_deltas_of_each_attempt_follow_the_event_of_its_request() -> None:
    agent = Agent(ScriptedModel(["bad", "good"]), middleware=[Again()])
    kinds: list[str] = []
    async with agent.run_stream("hi") as stream:
        async for event in stream:
            if isinstance(event, ModelRequestEvent):
                kinds.append(f"request {event.step}")
            elif isinstance(event, TextDeltaEvent):
                kinds.append(event.text)
    assert kinds == ["request 1", "bad", "request 1", "good"]


async def test_a_trace_of_retries_and_changes_is_replayed_as_it_was_sent() -> None:
    def answer(messages: Any, parameters: Any) -> ModelResponse:
        return reply("good" if user_texts(messages)[-1] == "again" else "bad")

    class Corrects(Middleware):
        async def model_request(self, request: ModelCall, call_next: NextModel) -> ModelResponse:
            response = await call_next(request)
            if response.text == "good":
                return response
            messages = (*request.messages, ModelRequest((UserPromptPart("again"),)))
            return await call_next(replace(request, messages=messages))

    events: list[AgentEvent] = []
    await Agent(FunctionModel(answer), middleware=[Corrects()], on_event=events.append).run("hi")
    assert await replay(events, FunctionModel(answer)) == (1, None)


async def test_planners_and_summaries_do_not_pass_middleware() -> None:
    seen: list[str] = []
    plan = '{"steps": [{"goal": "Answer.", "tool": "none"}]}'

    def answer(messages: Any, parameters: Any) -> ModelResponse:
        return reply(plan if parameters.output is not None else "done")

    model = FunctionModel(answer)
    result = await Agent(model, tools=[add], planner=ModelPlanner(), middleware=[Named("m", seen)]).run("hi")
    assert result.usage.requests > len([each for each in seen if each == "m asks"]) >= 1


# --- rules that hold -------------------------------------------------------------------------------------------


async def test_a_call_as_text_in_a_changed_reply_is_read_as_a_call() -> None:
    class Writes(Middleware):
        async def model_request(self, request: ModelCall, call_next: NextModel) -> ModelResponse:
            if request.context.step:
                return await call_next(request)
            return reply('{"name": "add", "arguments": {"a": 1, "b": 2}}')

    events: list[AgentEvent] = []
    agent = Agent(ScriptedModel(["three"]), tools=[add], middleware=[Writes()], on_event=events.append)
    result = await agent.run("add")
    assert (told(result), result.output) == (["3"], "three")
    assert [event.n_calls for event in events if isinstance(event, TextCallsEvent)] == [1]


@output_guardrail
async def no_codes(text: str, context: RunContext[Any]) -> Verdict:
    return Block("a code") if "1234" in text else Allow()


@output_guardrail(streaming=True)
def no_codes_so_far(text: str, context: RunContext[Any]) -> Verdict:
    return Block("a code") if "1234" in text else Allow()


@pytest.mark.parametrize("guardrail", [no_codes, no_codes_so_far], ids=["whole", "streaming"])
@pytest.mark.parametrize("sends", [True, False], ids=["changes", "answers"])
async def test_guardrails_check_the_reply_of_middleware(guardrail: Any, sends: bool) -> None:
    class Tells(Middleware):
        async def model_request(self, request: ModelCall, call_next: NextModel) -> ModelResponse:
            if sends:
                await call_next(request)
            return reply("it is 1234")

    agent = Agent(ScriptedModel(["hm"]), middleware=[Tells()], guardrails=[guardrail])
    result = await agent.run("hi")
    assert (result.status, "1234" in repr(result.messages)) == ("refused", False)


async def test_a_call_that_middleware_wrote_is_validated() -> None:
    class Calls(Middleware):
        async def model_request(self, request: ModelCall, call_next: NextModel) -> ModelResponse:
            if request.context.step:
                return await call_next(request)
            return ModelResponse((ToolCallPart("add", '{"a": "x"}'),))

    result = await Agent(ScriptedModel(["done"]), tools=[add], middleware=[Calls()]).run("hi")
    (part,) = result.messages[2].parts
    assert isinstance(part, RetryPromptPart) and "Invalid arguments" in part.content


# --- calls, in every arrangement -------------------------------------------------------------------------------


@dataclass
class Passing(Middleware):
    """Notes the calls that pass, and may change, repeat or answer them."""

    amount: int | None = None
    n: int = 1
    answer: str | None = None
    passed: list[str] = field(default_factory=list[str])

    async def tool_call(self, call: ToolCallPart, context: RunContext[Any], call_next: NextTool) -> ToolOutput:
        if call.tool_name != "pay":
            return await call_next(call)
        self.passed.append(call.arguments)
        if self.answer is not None:
            return ToolOutput(self.answer, self.answer)
        if self.amount is not None:
            call = replace(call, arguments=f'{{"amount": {self.amount}}}')
        for _ in range(self.n - 1):
            await call_next(call)
        return await call_next(call)


@pytest.fixture(params=ARRANGEMENTS, ids=lambda each: each.name)
def arrangement(request: pytest.FixtureRequest) -> Iterator[Arrangement]:
    if request.param.needs_code:
        pytest.importorskip("pydantic_monty")
    yield request.param


@pytest.fixture(params=["journal", "state"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "runs.db" if request.param == "journal" else None


@pytest.fixture
def through(monkeypatch: pytest.MonkeyPatch) -> Callable[[Middleware], None]:
    """Gives every agent of an arrangement a middleware."""
    plain = AgentClass.__init__

    def give(middleware: Middleware) -> None:
        def init(self: Any, *args: Any, **options: Any) -> None:
            plain(self, *args, **{"middleware": [middleware], **options})

        monkeypatch.setattr(AgentClass, "__init__", init)

    return give


async def test_each_call_passes_middleware_once_after_its_approval(
    arrangement: Arrangement, kept: Path | None, through: Callable[[Middleware], None]
) -> None:
    through(passing := Passing())
    world = World()
    build = partial(arrangement.build, [world.pay(asks=True)], [call("pay", amount=5)], kept)
    stopped = await build().run("pay 5")
    assert (stopped.status, passing.passed, world.paid) == ("needs_approval", [], [])
    result = await build().resume(stopped.run_id if kept else stopped.state, approvals(stopped.pending))
    assert (result.status, world.paid, len(passing.passed)) == ("completed", [5], 1)


async def test_an_answered_call_has_no_effect_and_its_result_is_kept(
    arrangement: Arrangement, kept: Path | None, through: Callable[[Middleware], None]
) -> None:
    through(Passing(answer="paid before"))
    world = World()
    agent = arrangement.build([world.pay()], [call("pay", amount=5)], kept)
    result = await agent.run("pay 5")
    assert (result.status, result.output, world.paid) == ("completed", "done", [])


async def test_changed_arguments_run_changed(
    arrangement: Arrangement, kept: Path | None, through: Callable[[Middleware], None]
) -> None:
    through(Passing(amount=7))
    world = World()
    result = await arrangement.build([world.pay()], [call("pay", amount=5)], kept).run("pay 5")
    assert (result.status, world.paid) == ("completed", [7])


async def test_an_approval_of_other_arguments_allows_no_changed_call(
    arrangement: Arrangement, kept: Path | None, through: Callable[[Middleware], None]
) -> None:
    through(Passing(amount=7))
    world = World()
    build = partial(arrangement.build, [world.pay(asks=True)], [call("pay", amount=5)], kept)
    stopped = await build().run("pay 5")
    with pytest.raises(UserError, match="requires an approval"):
        await build().resume(stopped.run_id if kept else stopped.state, approvals(stopped.pending))
    assert world.paid == []


async def test_an_answered_call_is_journalled_with_its_result(tmp_path: Path) -> None:
    """The second call dies; after it the first one's result is in the journal."""

    class Answers(Middleware):
        async def tool_call(self, call: ToolCallPart, context: RunContext[Any], call_next: NextTool) -> ToolOutput:
            if call.tool_call_id == "one":
                return ToolOutput("from the cache")
            return await call_next(call)

    world = World(dies_at=2)
    calls = [ToolCallPart("pay", f'{{"amount": {n}}}', name) for n, name in ((1, "one"), (2, "two"))]
    pay = replace(world.pay(), sequential=True)

    def agent() -> Agent[None, str]:
        return Agent(by_turns(calls, "done"), tools=[pay], middleware=[Answers()], checkpointer=tmp_path / "r.db")

    async with agent().iter("pay") as run:
        with pytest.raises(Killed):
            await run.finish()
    stopped = await agent().resume(run.state.run_id)
    assert [waiting.tool_call_id for waiting in stopped.pending] == ["two"]
    result = await agent().resume(run.state.run_id, [Settle("two", "paid 2")])
    assert (told(result), world.paid) == (["from the cache", "paid 2"], [2])


async def test_changed_arguments_are_validated_again() -> None:
    class Breaks(Middleware):
        async def tool_call(self, call: ToolCallPart, context: RunContext[Any], call_next: NextTool) -> ToolOutput:
            return await call_next(replace(call, arguments='{"a": "x", "b": 2}'))

    result = await Agent(by_turns(call("add", a=1, b=2), "done"), tools=[add], middleware=[Breaks()]).run("hi")
    (part,) = result.messages[2].parts
    assert isinstance(part, RetryPromptPart) and "Invalid arguments" in part.content


@tool_call_guardrail
async def at_most_six(checked: CheckedCall, context: RunContext[Any]) -> Verdict:
    return Block("too much") if checked.arguments.get("amount", 0) > 6 else Allow()


async def test_changed_arguments_pass_the_guardrails_again() -> None:
    world = World()
    agent = Agent(
        by_turns(call("pay", amount=5), "done"),
        tools=[world.pay()],
        middleware=[Passing(amount=7)],
        guardrails=[at_most_six],
    )
    result = await agent.run("pay")
    assert (told(result), world.paid) == (["The call was blocked: too much"], [])


async def test_only_the_arguments_of_a_call_may_be_changed() -> None:
    class Renames(Middleware):
        async def tool_call(self, call: ToolCallPart, context: RunContext[Any], call_next: NextTool) -> ToolOutput:
            return await call_next(replace(call, tool_name="other"))

    with pytest.raises(UserError, match="only `arguments` may be changed"):
        await Agent(by_turns(call("add", a=1, b=2)), tools=[add], middleware=[Renames()]).run("hi")


async def test_a_tool_that_fails_can_be_run_again() -> None:
    n_run = 0

    async def flaky() -> str:
        """Fails once."""
        nonlocal n_run
        n_run += 1
        if n_run == 1:
            raise OSError("lost")
        return "fine"

    class OnError(Middleware):
        async def tool_call(self, call: ToolCallPart, context: RunContext[Any], call_next: NextTool) -> ToolOutput:
            try:
                return await call_next(call)
            except OSError:
                return await call_next(call)

    events: list[AgentEvent] = []
    agent = Agent(by_turns(call("flaky"), "done"), tools=[flaky], middleware=[OnError()], on_event=events.append)
    assert told(await agent.run("hi")) == ["fine"]
    assert (n_run, len([event for event in events if isinstance(event, ToolCallEvent)])) == (2, 1)


@pytest.mark.parametrize("then", ["answers", "fails", "retries"])
async def test_a_call_that_asks_for_an_approval_waits_whatever_middleware_does(then: str) -> None:
    async def delete(context: RunContext[None]) -> str:
        """Deletes after an approval."""
        if not context.approved:
            raise ApprovalRequired("sure?")
        return "deleted"

    class Swallows(Middleware):
        async def tool_call(self, call: ToolCallPart, context: RunContext[Any], call_next: NextTool) -> ToolOutput:
            try:
                return await call_next(call)
            except Exception:
                if then == "fails":
                    raise ModelRetry("no") from None
                return ToolOutput("fine") if then == "answers" else await call_next(call)

    agent = Agent(by_turns(call("delete"), "done"), tools=[delete], middleware=[Swallows()])
    stopped = await agent.run("hi")
    assert (stopped.status, stopped.pending[0].reason) == ("needs_approval", "sure?")
    result = await agent.resume(stopped.state, approvals(stopped.pending))
    assert told(result) == ["deleted"]


async def test_the_timeout_of_a_tool_bounds_middleware() -> None:
    import anyio

    class Slow(Middleware):
        async def tool_call(self, call: ToolCallPart, context: RunContext[Any], call_next: NextTool) -> ToolOutput:
            await anyio.sleep_forever()
            raise AssertionError

    tool = replace(function_tool(add), timeout_s=0.01)
    result = await Agent(by_turns(call("add", a=1, b=2), "done"), tools=[tool], middleware=[Slow()]).run("hi")
    assert told(result)[0].startswith("Timed out")


async def test_after_a_hand_off_the_middleware_of_the_other_agent_applies() -> None:
    seen: list[str] = []
    worker = Agent(by_turns("done"), name="worker", middleware=[Named("worker's", seen)])
    front = Agent(
        by_turns(call("transfer_to_worker", task="Do it.")),
        handoffs=[worker],
        middleware=[Named("front's", seen)],
    )
    assert (await front.run("hi")).output == "done"
    assert [each for each in seen if each.endswith("asks")] == ["front's asks", "worker's asks"]


async def test_an_answered_hand_off_hands_over_with_the_text_as_the_task() -> None:
    class Transfers(Middleware):
        async def tool_call(self, call: ToolCallPart, context: RunContext[Any], call_next: NextTool) -> ToolOutput:
            return ToolOutput("Do it well.")

    worker = Agent(by_turns("x", "done"), name="worker")
    front = Agent(by_turns(call("transfer_to_worker", task="Do it.")), handoffs=[worker], middleware=[Transfers()])
    result = await front.run("hi")
    assert result.state.handed[-1].task == "Do it well."


async def test_a_resumed_run_goes_on_behind_middleware() -> None:
    keeper = InMemoryCheckpointer()
    world, seen = World(), list[str]()
    agent = Agent(
        by_turns(call("pay", amount=5), "done"),
        tools=[world.pay(asks=True)],
        middleware=[Named("m", seen)],
        checkpointer=keeper,
    )
    stopped = await agent.run("pay")
    result = await agent.resume(stopped.run_id, approvals(stopped.pending))
    assert (result.usage.requests, world.paid) == (2, [5])
    assert seen.count("m asks") == 2
    (part,) = result.messages[2].parts
    assert isinstance(part, ToolReturnPart) and part.content == "paid 5"


async def test_base_methods_add_nothing() -> None:
    seen: list[str] = []

    class OnlyTools(Middleware):
        async def tool_call(self, call: ToolCallPart, context: RunContext[Any], call_next: NextTool) -> ToolOutput:
            seen.append(call.tool_name)
            return await call_next(call)

    events: list[AgentEvent] = []
    agent = Agent(
        by_turns(call("add", a=1, b=2), "done"),
        tools=[add],
        middleware=[OnlyTools(), Middleware()],
        on_event=events.append,
    )
    assert (await agent.run("hi")).output == "done"
    assert seen == ["add"]
    answered = [event for event in events if isinstance(event, ModelResponseEvent)]
    assert [event.received for event in answered] == [None, None]
