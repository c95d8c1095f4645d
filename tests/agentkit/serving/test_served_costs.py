"""Costs of served runs: in the view of a run, in its events, and in the figures for Prometheus."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkit import Agent, UsageLimits
from agentkit.testing import call
from agentkit.usage import RequestUsage
from tests.agentkit.arrangements import World
from tests.agentkit.hosted_models import OWN_SERVER, HostedModel, asked, said
from tests.agentkit.serving.served_agents import served

pytestmark = pytest.mark.anyio

USAGE = RequestUsage(4_000, 0, 0)
"""Costs one cent with gpt-4o."""


def figures_of(text: str) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


async def test_a_served_run_tells_its_cost(tmp_path: Path) -> None:
    model = HostedModel([said("done", USAGE, "gpt-4o")])
    async with served(Agent(model, name="clerk"), tmp_path / "runs.db") as client:
        run_id = await client.run("go")
        usage = (await client.end(run_id))["usage"]
        assert (usage["cost"], usage["known_cost"], usage["priced_requests"]) == ("0.01", "0.01", 1)
        end = (await client.events(run_id))[-1]
        assert (end["event_kind"], end["usage"]["known_cost"]) == ("run_finished", "0.01")
        figures = figures_of((await client.http.get("/metrics")).text)
        assert figures["agentkit_cost_dollars_total"] == 0.01
        assert figures["agentkit_model_requests_total"] == 1
        assert figures['agentkit_tokens_total{kind="input"}'] == 4_000
        assert figures["agentkit_unpriced_model_requests_total"] == 0


async def test_a_run_that_waits_for_a_decision_is_counted_once(tmp_path: Path) -> None:
    world = World()
    model = HostedModel([asked(call("pay", amount=1), USAGE, "gpt-4o"), said("done", USAGE, "gpt-4o")])
    agent = Agent(model, tools=[world.pay(asks=True)], name="clerk")
    async with served(agent, tmp_path / "runs.db") as client:
        run_id = await client.run("go")
        (waiting,) = (await client.end(run_id))["pending"]
        decision = {"tool_call_id": waiting["tool_call_id"], "decision": "approve", "digest": waiting["digest"]}
        await client.ask("POST", f"/runs/{run_id}/decisions", 202, json={"decisions": [decision]})
        view = await client.end(run_id)
        assert (view["status"], view["usage"]["cost"], world.paid) == ("completed", "0.02", [1])
        figures = figures_of((await client.http.get("/metrics")).text)
        assert figures["agentkit_cost_dollars_total"] == 0.02


async def test_requests_without_a_price_are_figures_of_their_own(tmp_path: Path) -> None:
    agent = Agent(HostedModel([said("done", USAGE, "own")], "own", OWN_SERVER), name="clerk")
    async with served(agent, tmp_path / "runs.db") as client:
        usage = (await client.end(await client.run("go")))["usage"]
        assert (usage["cost"], usage["unpriced_models"]) == (None, ["own"])
        figures = figures_of((await client.http.get("/metrics")).text)
        assert figures["agentkit_unpriced_model_requests_total"] == 1
        assert figures["agentkit_cost_dollars_total"] == 0


async def test_a_served_run_with_a_limit_and_no_price_fails_with_the_fix(tmp_path: Path) -> None:
    model = HostedModel(["never"], "own", OWN_SERVER)
    agent = Agent(model, name="clerk", limits=UsageLimits(cost_limit=1))
    async with served(agent, tmp_path / "runs.db") as client:
        view = await client.end(await client.run("go"))
        assert (view["status"], view["error"]["type"]) == ("failed", "UserError")
        assert "the price of model 'own' is not known" in view["error"]["message"] and not model.calls
