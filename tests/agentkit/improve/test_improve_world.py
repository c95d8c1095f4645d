"""Rollouts on a real MCP server: each has a fresh copy of the world, and its state is checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkit import Agent, UserError
from agentkit.improve import BudgetLimits, Checks, Pieces, Task, in_world, score_by_checks, world_servers
from agentkit.improve.budget import Ledger
from agentkit.improve.rollouts import Journal, Rollouts
from agentkit.testing import ScriptedModel, call

pytestmark = pytest.mark.anyio


async def test_each_rollout_has_a_world_of_its_own(tmp_path: Path) -> None:
    template = tmp_path / "template"
    template.mkdir()
    (template / "a.txt").write_text("one\n", encoding="utf-8")
    write = call("write_file", path="b.txt", text="two\n")
    agent = Agent(ScriptedModel([write, "Done.", write, "Done.", "Done."]), taint_rule=False)
    staging = in_world(agent, template, world_servers(["agentkit-mcp filesystem {world} --write"]))
    ledger = Ledger(BudgetLimits(), 0)
    rollouts = Rollouts(
        staging, score_by_checks, Journal(tmp_path / "j.jsonl"), ledger, identity="x", timeout_s=60
    )
    asked = Task(id="1", prompt="Write b.txt", checks=Checks(files={"b.txt": "two\n"}, calls=("write_file",)))
    unasked = Task(id="2", prompt="Look at a.txt", checks=Checks())
    undone = asked.model_copy(update={"id": "3", "prompt": "Write b.txt again"})
    right, changed, nothing = await rollouts.of(Pieces(), [asked, unasked, undone])
    assert right.score == 1.0, right.explanation
    assert changed.score == 0.0 and "'b.txt' was changed, which nobody asked for" in changed.explanation
    assert nothing.score == 0.0 and right.is_tainted
    assert [path.name for path in template.iterdir()] == ["a.txt"]


def test_a_world_is_a_folder_without_links_and_its_servers_name_it(tmp_path: Path) -> None:
    agent = Agent(ScriptedModel([]))
    with pytest.raises(UserError, match="is no folder"):
        in_world(agent, tmp_path / "none", lambda root: [])
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(UserError, match="has a link in it, 'link'"):
        in_world(agent, tmp_path, lambda root: [])
    with pytest.raises(UserError, match="names the world"):
        world_servers(["agentkit-mcp filesystem ."])
