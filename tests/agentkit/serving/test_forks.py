"""Forks of runs, rewards, and traces over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentkit import Agent, RunContext
from agentkit.serving import app
from agentkit.testing import FunctionModel
from agentkit.tracing.reading import read_events, summarise
from tests.agentkit.serving.served_agents import KEYS, clerk, clerks_reply, client_of, kinds, listening, served

pytestmark = pytest.mark.anyio


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def conversation(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages of a run, without its last reply."""
    messages: list[dict[str, Any]] = []
    for event in events:
        if event["event_kind"] == "model_request":
            messages += event["messages"]
        elif event["event_kind"] == "model_response":
            messages.append(event["response"])
    return messages[:-1]


async def test_a_fork_goes_on_from_a_changed_message(journal: Path) -> None:
    world: list[str] = []
    async with served(clerk(world.append), journal) as client:
        messages = conversation(await client.events(await client.run("a b")))
        assert [message["kind"] for message in messages] == ["request", "response"] * 2 + ["request"]
        messages[0]["parts"][-1]["content"] = "a b c"
        forked = (await client.ask("POST", "/forks", 201, json={"messages": messages}))["run_id"]
        assert (await client.end(forked))["output"] == "done: a b c"
        assert world == ["a", "b", "c"]  # nothing of the first run is repeated
        asked, resumed, *_ = await client.events(forked)
        assert asked["prompt"] == "a b c" and len(asked["history"]) == 5 and resumed["step"] == 2
        whole = await client.ask("POST", "/forks", 201, json={"messages": messages[:1]})
        assert (await client.end(whole["run_id"]))["output"] == "done: a b c"


async def test_a_fork_with_results_of_tools_is_tainted(journal: Path) -> None:
    seen: list[bool] = []

    def note(context: RunContext[None]) -> str:
        """Note whether the run is tainted."""
        seen.append(context.tainted)
        return "noted"

    def reply(messages: Any, parameters: Any) -> Any:
        return clerks_reply(messages, parameters)

    agent: Agent[None, str] = Agent(FunctionModel(reply), tools=[note], name="clerk", taint_rule=False)
    call = {"part_kind": "tool-call", "tool_name": "fetch", "arguments": "{}", "tool_call_id": "one"}
    result = {"part_kind": "tool-return", "tool_name": "fetch", "tool_call_id": "one", "content": "x"}
    messages = [
        {"kind": "request", "parts": [{"part_kind": "user-prompt", "content": "x y"}]},
        {"kind": "response", "parts": [call]},
        {"kind": "request", "parts": [result]},
    ]
    async with served(agent, journal) as client:
        forked = (await client.ask("POST", "/forks", 201, json={"messages": messages}))["run_id"]
        await client.end(forked)
    stored = await app(agent, journal=journal).service.stored(forked, "local")
    assert stored[0].state.tainted


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda messages: messages[:2], "end with a message to the model"),
        (lambda messages: messages[2:], "words of the user"),
        (lambda messages: [*messages[:2], messages[0]], "has no result"),
        (lambda messages: [{"kind": "request", "parts": [{"part_kind": "image"}]}], "messages.0"),
        (lambda messages: [], "at least 1"),
        (lambda messages: "all of them", "list"),
    ],
)
async def test_a_conversation_that_no_model_can_answer_is_refused(journal: Path, change: Any, told: str) -> None:
    async with served(clerk(), journal) as client:
        messages = conversation(await client.events(await client.run("a")))
        response = await client.http.post("/forks", json={"messages": change(messages)})
        assert response.status_code in (400, 422) and told in response.json()["error"]["message"]
        assert len((await client.ask("GET", "/runs", 200))["runs"]) == 1


async def test_a_fork_is_made_once_for_an_idempotency_key(journal: Path) -> None:
    async with served(clerk(), journal) as client:
        messages = conversation(await client.events(await client.run("a")))
        headers = {"Idempotency-Key": "k"}
        made = [
            await client.ask("POST", "/forks", 201, json={"messages": messages}, headers=headers) for _ in "12"
        ]
        assert made[0] == made[1]
        messages[-1]["parts"][0]["content"] = "other"
        other = await client.ask("POST", "/forks", 409, json={"messages": messages}, headers=headers)
        assert other["error"]["code"] == "idempotency_conflict"


async def test_rewards_stand_behind_the_end_and_in_the_trace(journal: Path, tmp_path: Path) -> None:
    async with served(clerk(), journal) as client:
        run_id = await client.run("a")
        view = await client.end(run_id)
        for n in range(12):
            await client.ask("POST", f"/runs/{run_id}/rewards", 201, json={"reward": n / 10, "step": 1})
        assert await client.end(run_id) == {**view, "updated_at": (await client.end(run_id))["updated_at"]}
        events = await client.events(run_id)
        assert kinds(events)[-13:] == ["run_finished"] + ["reward"] * 12
        assert await client.events(run_id, after=len(events)) == []
        path = tmp_path / f"{run_id}.jsonl"
        path.write_bytes((await client.http.get(f"/runs/{run_id}/trace")).content)
        assert summarise(path).status == "completed"
        assert [event.event_kind for _, event in read_events(path)] == kinds(events)
        times = [json.loads(line)["time"] for line in path.read_text().splitlines()]
        assert times == sorted(times) and times[0] == events[0]["time"]


async def test_a_reward_is_for_an_ended_run_of_the_client(journal: Path) -> None:
    made = app(clerk(), journal=journal, keys=KEYS)
    async with listening(made) as url, client_of(url, "ann") as ann, client_of(url, "bob") as bob:
        waiting = await ann.run("shred")
        await ann.end(waiting)
        refused = await ann.ask("POST", f"/runs/{waiting}/rewards", 409, json={"reward": 1})
        assert refused["error"]["code"] == "not_ended"
        ended = await ann.run("a")
        await ann.end(ended)
        await bob.ask("POST", f"/runs/{ended}/rewards", 404, json={"reward": 1})
        await bob.ask("GET", f"/runs/{ended}/trace", 404)
        for wrong in ({"reward": "NaN"}, {}, {"reward": 1, "step": 0}):
            await ann.ask("POST", f"/runs/{ended}/rewards", 400, json=wrong)
