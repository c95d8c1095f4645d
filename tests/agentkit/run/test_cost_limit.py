"""Costs of runs and limits in money: they end in a result, hold everywhere, and refuse what has no price."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agentkit import Agent, FallbackModel, ModelPrice, RunUsage, UsageLimits, UserError, tool
from agentkit.errors import AgentKitError, ModelConnectionError
from agentkit.events import AgentEvent, LimitReachedEvent, ModelResponseEvent, RunFinishedEvent, SideRequestEvent
from agentkit.history.compaction import Summary
from agentkit.messages import ModelMessage, ModelResponse
from agentkit.middleware import CallModelNext, Middleware, ModelCall
from agentkit.models.base import ModelRequestParameters, OnDelta
from agentkit.persistence.stored_state import state_from_json, state_to_json
from agentkit.planning import ModelPlanner
from agentkit.results import RunResult
from agentkit.testing import FunctionModel, TestModel, call
from agentkit.usage import RequestUsage
from tests.agentkit import arrangements
from tests.agentkit.arrangements import ARRANGEMENTS, Arrangement, World, approvals, by_turns
from tests.agentkit.hosted_models import OPENAI, OWN_SERVER, HostedModel, asked, said

pytestmark = pytest.mark.anyio

CENT = Decimal("0.01")
USAGE = RequestUsage(4_000, 0, 0)
"""Costs one cent with gpt-4o, at $2.50 per million tokens."""


class CentModel(FunctionModel):
    """The replies of another model, each for one cent of the price list; no server is asked."""

    def __init__(self, model: FunctionModel, name: str = "gpt-4o", base_url: str = OPENAI) -> None:
        super().__init__(model._function, name=name)  # pyright: ignore[reportPrivateUsage]
        self._base_url = base_url

    @property
    def base_url(self) -> str | None:
        return self._base_url

    @property
    def is_free(self) -> bool:
        return False

    async def request(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        *,
        on_delta: OnDelta | None = None,
    ) -> ModelResponse:
        response = await super().request(messages, parameters, on_delta=on_delta)
        return ModelResponse(response.parts, USAGE, self.name)


def cents(*replies: Any, **options: Any) -> CentModel:
    return CentModel(by_turns(*replies), **options)


@tool
async def look(n: int = 0) -> str:
    """Look."""
    return f"seen {n}"


LOOKS = [call("look", n=n) for n in range(20)]


async def test_a_result_has_the_cost_of_its_requests() -> None:
    events: list[AgentEvent] = []
    agent = Agent(cents(*LOOKS[:2], "done"), tools=[look], on_event=events.append)
    result = await agent.run("go")
    assert (result.usage.cost, result.usage.priced_requests) == (3 * CENT, 3)
    costs = [event.response.usage.cost for event in events if isinstance(event, ModelResponseEvent)]
    assert costs == [CENT] * 3
    (end,) = (event for event in events if isinstance(event, RunFinishedEvent))
    assert end.usage.cost == 3 * CENT and result.usage.cost_notice is None


async def test_a_history_is_not_paid_again() -> None:
    first = await Agent(cents("one")).run("go")
    second = await Agent(cents("one", "two")).run("go on", message_history=first.messages)
    assert second.usage.cost == CENT


async def test_a_free_model_costs_nothing_and_needs_no_price() -> None:
    result = await Agent(TestModel(), limits=UsageLimits(cost_limit=0.01)).run("go")
    assert (result.usage.cost, result.status) == (0, "completed")


async def test_a_cost_limit_ends_in_an_answer() -> None:
    events: list[AgentEvent] = []
    agent = Agent(cents(*LOOKS), tools=[look], limits=UsageLimits(cost_limit=0.03), on_event=events.append)
    result = await agent.run("go")
    assert (result.status, result.usage.requests, result.usage.cost) == ("limit_reached", 4, 4 * CENT)
    assert [event.limit for event in events if isinstance(event, LimitReachedEvent)] == ["cost_limit=0.03"]


async def test_below_the_limit_nothing_changes() -> None:
    result = await Agent(cents(LOOKS[0], "done"), tools=[look], limits=UsageLimits(cost_limit=1)).run("go")
    assert (result.status, result.output) == ("completed", "done")


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (0, "must be more than zero"),
        (-1, "must be zero or more"),
        ("cheap", "is a number, such as 0.25"),
        (True, "is a number, such as 0.25"),
        (float("nan"), "must be zero or more"),
    ],
)
def test_a_limit_that_is_no_amount_is_refused(limit: Any, message: str) -> None:
    with pytest.raises(UserError, match=r"UsageLimits\(cost_limit=.*" + message):
        UsageLimits(cost_limit=limit)


# -- without a price ------------------------------------------------------------------


async def test_without_a_price_the_cost_is_unknown_and_the_notice_names_the_model_and_the_fix() -> None:
    result = await Agent(cents(LOOKS[0], "done", name="own", base_url=OWN_SERVER), tools=[look]).run("go")
    assert (result.usage.cost, result.usage.known_cost, result.usage.unpriced_models) == (None, None, ("own",))
    notice = result.usage.cost_notice
    assert notice is not None and notice.startswith("The cost is not known: no price of 'own'.")
    assert "Agent(prices={'own': ModelPrice(input_per_million=..., output_per_million=...)})" in notice


async def test_a_partly_known_sum_does_not_pretend_to_be_complete() -> None:
    model = HostedModel(
        [asked(LOOKS[0], USAGE, "gpt-4o"), said("done", USAGE, "gpt-99")],
    )
    result = await Agent(model, tools=[look]).run("go")
    assert (result.usage.cost, result.usage.known_cost) == (None, CENT)
    assert result.usage.unpriced_models == ("gpt-99",)


async def test_with_a_limit_a_model_without_price_is_refused_before_the_first_request() -> None:
    model = HostedModel(["never"], "own", OWN_SERVER)
    agent = Agent(model, limits=UsageLimits(cost_limit=1))
    with pytest.raises(
        UserError, match=r"the price of model 'own' is not known.*Agent\(prices=\{'own': ModelPrice"
    ):
        await agent.run("go")
    assert not model.calls
    priced = {"own": ModelPrice(input_per_million=2.5, output_per_million=10)}
    result = await Agent(
        cents("done", name="own", base_url=OWN_SERVER), prices=priced, limits=UsageLimits(cost_limit=1)
    ).run("go")
    assert result.usage.cost == CENT


@pytest.mark.parametrize("where", ["fallback", "hand-off", "summary"])
async def test_every_model_that_a_run_may_ask_needs_a_price(where: str) -> None:
    own = HostedModel(["never"], "own", OWN_SERVER)
    limits = UsageLimits(cost_limit=1)
    if where == "fallback":
        agent = Agent(FallbackModel(cents("hi"), own), limits=limits)
    elif where == "hand-off":
        agent = Agent(cents("hi"), handoffs=[Agent(own, name="other")], limits=limits, name="front")
    else:
        agent = Agent(cents("hi"), compaction=Summary(max_tokens=100, keep_tokens=10, model=own), limits=limits)
    with pytest.raises(UserError, match="the price of model 'own' is not known"):
        await agent.run("go")


async def test_an_inner_agent_without_price_is_refused_before_its_first_request() -> None:
    own = HostedModel(["never"], "own", OWN_SERVER)
    inner = Agent(own).as_tool("Helps.", name="helper")
    agent = Agent(cents(call("helper", task="go"), "done"), tools=[inner], limits=UsageLimits(cost_limit=1))
    with pytest.raises(UserError, match="the price of model 'own' is not known") as caught:
        await agent.run("go")
    assert not own.calls
    assert caught.value.usage is not None and caught.value.usage.cost == CENT


async def test_a_reply_of_a_model_without_price_ends_the_run_with_an_answer() -> None:
    """The server answers with another model than the one that was asked for."""
    model = HostedModel([asked(LOOKS[0], USAGE, "gpt-99"), said("done", USAGE, "gpt-99")])
    result = await Agent(model, tools=[look], limits=UsageLimits(cost_limit=1)).run("go")
    assert (result.status, result.output) == ("limit_reached", "done")
    assert result.state.limit == "cost_limit=1 (no price of 'gpt-99')"


async def test_earlier_requests_of_unknown_cost_are_refused_when_a_run_goes_on(tmp_path: Path) -> None:
    world = World()
    own = cents(call("pay", amount=1), "done", name="own", base_url=OWN_SERVER)
    agent = Agent(own, tools=[world.pay(asks=True)], checkpointer=tmp_path / "runs.db")
    waiting = await agent.run("go")
    price = {"own": ModelPrice(2.5, 10)}
    priced = Agent(own, tools=[world.pay(asks=True)], checkpointer=tmp_path / "runs.db", prices=price)
    with pytest.raises(UserError, match="1 earlier requests whose cost is not known"):
        await priced.resume(waiting.run_id, approvals(waiting.pending), limits=UsageLimits(cost_limit=1))
    assert world.paid == []
    result = await priced.resume(waiting.run_id, approvals(waiting.pending))
    assert (result.usage.cost, result.usage.known_cost) == (None, CENT)


# -- requests outside the conversation ------------------------------------------------------------------


async def test_plans_and_summaries_cost_too() -> None:
    events: list[AgentEvent] = []
    plan = said('{"steps": [{"goal": "answer", "tool": "none"}]}', USAGE, "gpt-4o")
    model = HostedModel([plan, said("done", USAGE, "gpt-4o"), said("done", USAGE, "gpt-4o")])
    result = await Agent(model, planner=ModelPlanner(), on_event=events.append).run("go")
    (side,) = (event for event in events if isinstance(event, SideRequestEvent))
    assert side.response.usage.cost == CENT
    assert result.usage.cost == CENT * len(model.calls)


async def test_a_summary_is_paid_at_its_own_models_price() -> None:
    writer = HostedModel([said("a digest", RequestUsage(1_000_000, 0, 0), "gpt-4o-mini")] * 9, "gpt-4o-mini")
    long = [call("look", n=10**200 + n) for n in range(3)]
    agent = Agent(
        cents(*long, "done"), tools=[look], compaction=Summary(max_tokens=250, keep_tokens=60, model=writer)
    )
    result = await agent.run("go")
    n_summaries = len(writer.calls)
    n_others = result.usage.requests - n_summaries
    assert n_summaries and result.usage.cost == n_others * CENT + n_summaries * Decimal("0.15")


class AskTwice(Middleware):
    """Asks again whatever came, as one that checks its answers does; parameters are its own."""

    async def model_request(self, request: ModelCall, call_next: CallModelNext) -> ModelResponse:
        await call_next(request)
        return await call_next(ModelCall(request.messages, ModelRequestParameters(), request.context))


async def test_every_request_of_middleware_is_paid() -> None:
    price = {"own": ModelPrice(2.5, 10)}
    model = cents("done", name="own", base_url=OWN_SERVER)
    result = await Agent(model, middleware=[AskTwice()], prices=price).run("go")
    assert (result.usage.requests, result.usage.cost) == (2, 2 * CENT)


class AskAgain(Middleware):
    """Asks again when the model fails."""

    async def model_request(self, request: ModelCall, call_next: CallModelNext) -> ModelResponse:
        try:
            return await call_next(request)
        except ModelConnectionError:
            return await call_next(request)


async def test_a_request_that_failed_counts_and_leaves_the_cost_known() -> None:
    model = HostedModel([ModelConnectionError("gone"), said("done", USAGE, "gpt-4o")])
    result = await Agent(model, middleware=[AskAgain()]).run("go")
    assert (result.usage.requests, result.usage.cost) == (2, CENT)


# -- in every arrangement ------------------------------------------------------------------


@pytest.fixture
def cent_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every agent of an arrangement pay one cent for each request."""
    monkeypatch.setattr(arrangements, "by_turns", cents)


def built(arrangement: Arrangement, world: World, n_calls: int, journal: Path | None = None) -> Agent[None, str]:
    if arrangement.needs_code:
        pytest.importorskip("pydantic_monty", reason="needs the extra `code`")
    calls = [call("pay", amount=n) for n in range(n_calls)]
    return arrangement.build([world.pay(asks=journal is not None)], calls, journal)


def n_runs(arrangement: Arrangement) -> int:
    return 1 + arrangement.name.count("as a tool") + arrangement.name.count("of a tool")


@pytest.mark.usefixtures("cent_models")
@pytest.mark.parametrize("streams", [False, True], ids=["run", "stream"])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS, ids=lambda each: each.name)
async def test_a_cost_limit_holds_in_every_arrangement(arrangement: Arrangement, streams: bool) -> None:
    """Behind the turn that reaches the limit only the last answer of each run comes."""
    world, limits = World(), UsageLimits(cost_limit=2 * CENT)
    agent = built(arrangement, world, 9)
    result: RunResult[str] | None
    if streams:
        async with agent.run_stream("go", limits=limits) as stream:
            async for _ in stream:
                pass
            result = stream.result
    else:
        result = await agent.run("go", limits=limits)
    assert result is not None
    usage = result.usage
    assert usage.cost == CENT * usage.requests
    assert usage.requests <= 2 + n_runs(arrangement)
    if not arrangement.needs_code:  # one piece of code makes all nine calls for one request
        assert result.status == "limit_reached" and len(world.paid) <= 2


@pytest.mark.usefixtures("cent_models")
@pytest.mark.parametrize("arrangement", ARRANGEMENTS, ids=lambda each: each.name)
async def test_the_cost_is_that_of_all_requests_however_often_a_run_is_resumed(
    arrangement: Arrangement, tmp_path: Path
) -> None:
    world, journal = World(), tmp_path / "runs.db"
    result = await built(arrangement, world, 2, journal).run("go")
    n_resumed = 0
    while result.pending:
        n_resumed += 1
        assert result.usage.cost == CENT * result.usage.requests
        result = await built(arrangement, world, 2, journal).resume(result.run_id, approvals(result.pending))
    assert n_resumed == 2 and world.paid == [0, 1]
    assert result.usage.cost == CENT * result.usage.requests > 0


@pytest.mark.usefixtures("cent_models")
@pytest.mark.parametrize("arrangement", ARRANGEMENTS, ids=lambda each: each.name)
async def test_a_cost_limit_counts_what_was_spent_before_a_run_was_resumed(
    arrangement: Arrangement, tmp_path: Path
) -> None:
    world, journal, limits = World(), tmp_path / "runs.db", UsageLimits(cost_limit=2 * CENT)
    result = await built(arrangement, world, 9, journal).run("go", limits=limits)
    while result.pending:
        agent = built(arrangement, world, 9, journal)
        result = await agent.resume(result.run_id, approvals(result.pending), limits=limits)
    assert result.usage.requests <= 2 + n_runs(arrangement)


# -- stored ------------------------------------------------------------------


async def test_a_cost_is_stored_exactly() -> None:
    result = await Agent(cents(LOOKS[0], "done"), tools=[look]).run("go")
    stored = state_to_json(result.state)
    assert b'"known_cost":"0.02"' in stored
    read = state_from_json(stored)
    assert read == result.state and state_to_json(read) == stored
    assert read.usage.cost == 2 * CENT


@pytest.mark.parametrize("cost", ["NaN", "Infinity", 0.02, "0.020x", True])
async def test_a_stored_cost_that_is_no_amount_is_refused(cost: Any) -> None:
    result = await Agent(cents("done")).run("go")
    stored = json.loads(state_to_json(result.state))
    stored["usage"]["known_cost"] = cost
    with pytest.raises(AgentKitError, match="usage.known_cost"):
        state_from_json(json.dumps(stored))


async def test_a_state_of_a_version_without_costs_opens_and_its_cost_is_unknown() -> None:
    result = await Agent(TestModel()).run("go")
    stored = json.loads(state_to_json(result.state))
    old = ("requests", "tool_calls", "input_tokens", "cache_read_tokens", "output_tokens")
    stored["usage"] = {name: stored["usage"][name] for name in old}
    for message in stored["messages"]:
        if message["kind"] == "response":
            message["usage"] = {name: message["usage"][name] for name in old[2:]}
    read = state_from_json(json.dumps(stored))
    assert (read.usage.requests, read.usage.cost, read.usage.known_cost) == (1, None, None)
    assert "requests of an earlier version" in str(read.usage.cost_notice)


def test_a_usage_is_shown_without_zeros_and_told_in_json() -> None:
    usage = RunUsage(requests=2, input_tokens=5, priced_requests=1, known_cost=Decimal("0.0000001"))
    assert repr(usage) == "RunUsage(requests=2, input_tokens=5, priced_requests=1, known_cost=1E-7)"
    told = usage.as_json()
    assert (told["known_cost"], told["cost"], told["unpriced_models"]) == ("0.0000001", None, [])


def test_the_names_of_models_without_price_are_bounded() -> None:
    usage = RunUsage()
    for n in range(100):
        usage = usage.plus_request(RequestUsage(), f"model-{n}")
    assert usage.unpriced_models == tuple(f"model-{n}" for n in range(8))
    assert usage.minus(usage).requests == 0
