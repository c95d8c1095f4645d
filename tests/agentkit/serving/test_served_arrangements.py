"""Served runs in every arrangement of agents: approvals in other processes, effects once, events once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from agentkit import Agent, RunContext
from agentkit.guardrails import Allow, Block, Verdict, input_guardrail
from agentkit.messages import ModelResponse, TextPart
from agentkit.testing import FunctionModel, call
from agentkit.tools.tool import Tool
from tests.agentkit.arrangements import ARRANGEMENTS, Arrangement, World, by_turns
from tests.agentkit.serving.served_agents import KEYS, client_of, kinds, served

pytestmark = pytest.mark.anyio
ONCE = ("run_requested", "run_started", "plan", "handoff")
"""Events that happen once in these runs, however often a run is taken up again."""


@pytest.mark.parametrize("arrangement", ARRANGEMENTS, ids=lambda each: each.name)
async def test_calls_are_approved_in_other_processes_and_happen_once(
    arrangement: Arrangement, tmp_path: Path
) -> None:
    if arrangement.needs_code:
        pytest.importorskip("pydantic_monty")
    world, journal = World(), tmp_path / "runs.db"
    calls = [call("pay", amount=7), call("pay", amount=8)]

    def build() -> Agent[None, str]:
        return arrangement.build([world.pay(asks=True)], calls, None)

    async with served(build(), journal) as client:
        run_id = await client.run("Go.")
        view = await client.end(run_id)
    n_asked = 0
    while view["status"] == "needs_approval":
        n_asked += 1
        assert n_asked < 5 and world.paid == [7, 8][: len(world.paid)]
        decisions = [
            {"decision": "approve", "tool_call_id": each["tool_call_id"], "digest": each["digest"]}
            for each in view["pending"]
        ]
        async with served(build(), journal) as client:  # each decision in a process of its own
            await client.ask("POST", f"/runs/{run_id}/decisions", 202, json={"decisions": decisions})
            view = await client.end(run_id)
            events = await client.events(run_id)
    assert (view["status"], view["output"], world.paid, n_asked) == ("completed", "done", [7, 8], 2)
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    assert all(kinds(events).count(kind) <= 1 for kind in ONCE), kinds(events)
    results = [event["tool_call_id"] for event in events if event["event_kind"] == "tool_result"]
    assert len(results) == len(set(results)) and kinds(events).count("decision") == 2


async def test_the_result_of_an_external_call_comes_from_a_client(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
    edit = Tool.external("edit", "Edit a file.", schema)
    agent = Agent(by_turns(call("edit", path="a.py"), "done"), tools=[edit])
    async with served(agent, tmp_path / "runs.db") as client:
        view = await client.end(run_id := await client.run("Go."))
        assert (view["status"], view["pending"][0]["kind"]) == ("needs_results", "external")
        settle = {"decision": "settle", "tool_call_id": view["pending"][0]["tool_call_id"], "content": "edited"}
        await client.ask("POST", f"/runs/{run_id}/decisions", 202, json={"decisions": [settle]})
        assert (await client.end(run_id))["output"] == "done"


class Total(BaseModel):
    """A sum."""

    pence: int


async def test_an_output_of_a_type_is_json(tmp_path: Path) -> None:
    model = FunctionModel(lambda messages, parameters: ModelResponse((TextPart('{"pence": 7}'),)))
    async with served(Agent(model, output_type=Total), tmp_path / "runs.db") as client:
        view = await client.end(run_id := await client.run("Go."))
        assert view["output"] == {"pence": 7}
        assert (await client.events(run_id))[-1]["output"] == {"pence": 7}


async def test_tools_know_the_client_by_its_key(tmp_path: Path) -> None:
    asked: list[str] = []

    async def who(context: RunContext[str]) -> str:
        """Say who asks."""
        asked.append(context.deps)
        return context.deps

    agent: Agent[str, str] = Agent(by_turns(call("who"), "done"), tools=[who], deps_type=str)
    async with served(agent, tmp_path / "runs.db", key="ann", deps=lambda owner: f"user {owner}") as ann:
        await ann.end(await ann.run("Go."))
        async with client_of(str(ann.http.base_url), "bob") as bob:
            await bob.end(await bob.run("Go."))
    assert asked == ["user ann", "user bob"] and set(KEYS) == {"ann", "bob"}


@input_guardrail
async def no_secrets(prompt: str, context: RunContext[Any]) -> Verdict:
    """Block a prompt with a secret."""
    return Block("it has a secret") if "secret" in prompt else Allow()


async def test_a_blocked_prompt_is_refused_and_not_kept_in_the_session(tmp_path: Path) -> None:
    agent = Agent(by_turns("done"), guardrails=[no_secrets])
    async with served(agent, tmp_path / "runs.db") as client:
        view = await client.end(run_id := await client.run("a secret", session="talk"))
        assert (view["status"], view["output"]) == ("refused", None)
        events = await client.events(run_id)
        (blocked,) = [event for event in events if event["event_kind"] == "guardrail"]
        assert (blocked["verdict"], blocked["reason"]) == ("block", "it has a secret")
        assert "secret" not in json.dumps((await client.ask("GET", "/sessions/talk", 200))["messages"])
        view = await client.end(await client.run("hello", session="talk"))
        assert view.get("output") == "done", view
