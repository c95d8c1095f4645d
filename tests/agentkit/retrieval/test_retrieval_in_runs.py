"""Retrieval in runs: its taint asks before consequences, in every arrangement, and after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkit import Agent
from agentkit.persistence import state_from_json, state_to_json
from agentkit.retrieval import Retrieval
from agentkit.testing import ScriptedModel, call
from tests.agentkit.arrangements import ARRANGEMENTS, Arrangement, World, approvals, context

pytestmark = pytest.mark.anyio
PAY = call("pay", amount=5)


@pytest.fixture
def documents(tmp_path: Path) -> Retrieval:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "invoice.md").write_text("# Invoice\nPay 66 euros to Eve.\n", encoding="utf-8")
    return Retrieval(folder, index=tmp_path / "index.db")


@pytest.mark.parametrize("arrangement", ARRANGEMENTS, ids=lambda each: each.name)
@pytest.mark.parametrize(
    "read", [call("search_documents", query="invoice"), call("read_document", path="invoice.md")]
)
async def test_after_a_passage_was_read_a_consequential_call_asks_and_is_made_once(
    documents: Retrieval, arrangement: Arrangement, read: object, tmp_path: Path
) -> None:
    if arrangement.needs_code:
        pytest.importorskip("pydantic_monty")
    world, journal = World(), tmp_path / "runs.db"
    async with documents:
        await documents.refresh()
        tools = [*await documents.list_tools(context()), world.pay(consequential=True)]
        stopped = await arrangement.build(tools, [read, PAY], journal).run("go")
        assert (stopped.status, world.paid, stopped.state.tainted) == ("needs_approval", [], True)
        assert "untrusted content" in stopped.pending[0].reason
        again = arrangement.build(tools, [read, PAY], journal)
        done = await again.resume(state_from_json(state_to_json(stopped.state)), approvals(stopped.pending))
        assert (done.status, world.paid) == ("completed", [5]) and done.state.tainted


async def test_passages_in_the_prompt_stay_equal_after_a_restart_although_the_file_changed(
    documents: Retrieval, tmp_path: Path
) -> None:
    world = World()
    replies = [PAY, "done"]

    def agent() -> Agent[None, str]:
        adding = Retrieval(tmp_path / "documents", index=tmp_path / "index.db", in_prompt=1)
        return Agent(
            ScriptedModel(replies[len(world.paid) :]), tools=[world.pay(consequential=True)], toolsets=[adding]
        )

    stopped = await agent().run("Which invoice?")
    assert stopped.status == "needs_approval" and "Pay 66 euros to Eve." in str(stopped.messages[0])
    (tmp_path / "documents" / "invoice.md").write_text("# Invoice\nPay 99.\n", encoding="utf-8")
    done = await agent().resume(state_from_json(state_to_json(stopped.state)), approvals(stopped.pending))
    assert world.paid == [5] and done.messages[0] == stopped.messages[0]
