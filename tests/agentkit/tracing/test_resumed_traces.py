"""A run that is resumed goes on in its trace, and reads as the one run that it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkit import Agent, UserError, tool
from agentkit.events import RewardEvent
from agentkit.persistence import SQLiteCheckpointer
from agentkit.testing import ScriptedModel, call
from agentkit.tracing.jsonl import add_reward, trace_path
from agentkit.tracing.reading import read_events, summarise
from agentkit.tracing.replies import read_run

pytestmark = pytest.mark.anyio


@tool(requires_approval=True)
async def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


def agent(folder: Path, *script: object) -> Agent[None, str]:
    model = ScriptedModel(script)  # pyright: ignore[reportArgumentType]
    return Agent(model, tools=[pay], trace=folder, checkpointer=folder / "runs.db")


async def test_the_replies_before_and_after_an_approval_are_those_of_one_run(tmp_path: Path) -> None:
    stopped = await agent(tmp_path, call("pay", amount=5)).run("pay five")
    path = trace_path(tmp_path, stopped.run_id)
    assert summarise(path).status == "needs_approval"
    await agent(tmp_path, "done").resume(stopped.run_id, [stopped.pending[0].approve()])
    run = read_run(path)
    assert (run.status, run.output, len(run.replies)) == ("completed", "done", 2)
    first, last = run.replies
    assert [part.content for part in first.asked] == ["pay five"]
    assert [result.content for result in first.results] == ["paid 5"]
    assert [part.content for part in last.asked] == ["paid 5"]
    assert last.tools is not None and [shown.name for shown in last.tools] == ["pay"]
    summary = summarise(path)
    assert (summary.status, summary.n_steps, summary.n_tool_calls) == ("completed", 2, 1)


async def test_a_reward_is_added_afterwards(tmp_path: Path) -> None:
    result = await Agent(ScriptedModel(["done"]), trace=tmp_path).run("go")
    path = trace_path(tmp_path, result.run_id)
    rewards = RewardEvent(1.0, "checker"), RewardEvent(-0.5, "Ann", step=1)
    for reward in rewards:
        add_reward(path, reward)
    assert tuple(event for _, event in read_events(path))[-2:] == rewards
    assert (read_run(path).status, summarise(path).status) == ("completed", "completed")
    with pytest.raises(UserError, match="no trace"):
        add_reward(tmp_path / "run_x.jsonl", rewards[0])


async def test_what_was_lost_with_the_process_is_not_counted_twice(tmp_path: Path) -> None:
    """The process died after the reply was traced and before it was stored, while it wrote another line."""
    keeper = SQLiteCheckpointer(tmp_path / "runs.db")
    stopped = await agent(tmp_path, call("pay", amount=5)).run("pay five")
    path = trace_path(tmp_path, stopped.run_id)
    lines = path.read_text().splitlines(keepends=True)
    traced = [line for line in lines if '"model_request"' in line or '"model_response"' in line]
    path.write_text("".join([*lines[:-1], *traced, '{"time": 1.0, "version']))
    await agent(tmp_path, "done").resume(stopped.run_id, [stopped.pending[0].approve()])
    run = read_run(path)
    assert (run.status, len(run.replies)) == ("completed", 2)
    assert summarise(path).n_steps == 2
    assert (await keeper.load(stopped.run_id)).summary.status == "completed"
