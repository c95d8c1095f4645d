"""Long conversations: both keepers against the kit, and runs that go on with one."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from agentkit import Agent, UserError, tool
from agentkit.errors import CheckpointError
from agentkit.messages import ModelRequest, ModelResponse, UserPromptPart
from agentkit.persistence import InMemorySession, SQLiteCheckpointer, SQLiteSession
from agentkit.testing import ScriptedModel, call, check_session

pytestmark = pytest.mark.anyio


async def test_the_keeper_in_memory_conforms() -> None:
    await check_session(InMemorySession)


async def test_the_keeper_in_a_file_conforms(tmp_path: Path) -> None:
    names = iter(map(str, range(100)))
    await check_session(lambda: SQLiteSession(tmp_path / "runs.db", next(names)))


async def test_a_conversation_goes_on_over_runs_and_processes(tmp_path: Path) -> None:
    def session() -> SQLiteSession:
        return SQLiteSession(tmp_path / "runs.db", "user 7")

    first = ScriptedModel(["Hello Ann."])
    await Agent(first, instructions="Be kind.").run("I am Ann.", session=session())
    second = ScriptedModel(["Ann."])
    result = await Agent(second, instructions="Be kind.").run("Who am I?", session=session())
    assert [type(message) for message in second.calls[0].messages] == [ModelRequest, ModelResponse, ModelRequest]
    assert (await session().load()).messages == result.messages


async def test_runs_and_sessions_of_one_file_store_a_message_once(tmp_path: Path) -> None:
    keeper = SQLiteCheckpointer(tmp_path / "runs.db")
    session = SQLiteSession(keeper.database, "s")
    agent = Agent(ScriptedModel(["1", "2", "3"]), checkpointer=keeper)
    for prompt in "abc":
        await agent.run(prompt, session=session)
    with sqlite3.connect(tmp_path / "runs.db") as file:
        assert file.execute("SELECT count(*) FROM messages").fetchone() == (6,)
    for run in await keeper.list_runs():
        await keeper.delete(run.run_id)
    assert len((await session.load()).messages) == 6


async def test_deleted_text_is_in_the_file_until_its_last_run_or_session_is_deleted(tmp_path: Path) -> None:
    keeper = SQLiteCheckpointer(tmp_path / "runs.db")
    kept, session = SQLiteSession(keeper.database, "kept"), SQLiteSession(keeper.database, "deleted")
    agent = Agent(ScriptedModel(["1", "2"]), checkpointer=keeper)
    await agent.run("harmless", session=kept)
    result = await agent.run("my diagnosis", session=session)

    def n_copies() -> int:
        keeper.database.close()  # the last connection moves its log into the file
        return (tmp_path / "runs.db").read_bytes().count(b"my diagnosis")

    assert n_copies() == 1
    await session.delete()
    assert n_copies() == 1, "the run has it"
    assert (await keeper.load(result.run_id)).state.messages == result.messages
    await keeper.delete(result.run_id)
    assert n_copies() == 0
    assert len((await kept.load()).messages) == 2


async def test_of_two_runs_from_one_place_the_second_is_refused_and_loses_nothing() -> None:
    session = InMemorySession()
    other = Agent(ScriptedModel(["other"]))

    async def meanwhile() -> str:
        """Let another run be faster."""
        await other.run("quick", session=session)
        return "ok"

    with pytest.raises(CheckpointError, match="has gone on") as caught:
        await Agent(ScriptedModel([call("meanwhile"), "slow"]), tools=[meanwhile]).run("x", session=session)
    assert len(caught.value.messages) == 4
    assert len((await session.load()).messages) == 2


async def test_a_run_that_waits_adds_to_its_session_when_it_ends(tmp_path: Path) -> None:
    @tool(requires_approval=True)
    async def pay() -> str:
        """Pay."""
        return "paid"

    session = SQLiteSession(tmp_path / "runs.db", "s")
    agent = Agent(ScriptedModel([call("pay"), "done"]), tools=[pay], checkpointer=tmp_path / "runs.db")
    stopped = await agent.run("pay", session=session)
    assert (await session.load()).messages == ()
    done = await agent.resume(stopped.run_id, [stopped.pending[0].approve()], session=session)
    assert (await session.load()).messages == done.messages
    again = await agent.resume(stopped.run_id, session=session)
    assert (again.output, (await session.load()).messages) == ("done", done.messages)
    await Agent(ScriptedModel(["hi"])).run("hello", session=await session.fork("other", n_messages=0))
    other = SQLiteSession(tmp_path / "runs.db", "s", branch="other")
    with pytest.raises(CheckpointError, match="is not the one"):
        await agent.resume(stopped.run_id, session=other)


async def test_a_run_that_is_resumed_synchronously_adds_to_its_session_too() -> None:
    @tool(requires_approval=True)
    async def pay() -> str:
        """Pay."""
        return "paid"

    session = InMemorySession()
    agent = Agent(ScriptedModel([call("pay"), "done"]), tools=[pay])
    stopped = await agent.run("pay", session=session)
    done = agent.resume_sync(stopped.state, [stopped.pending[0].approve()], session=session)
    assert (await session.load()).messages == done.messages


async def test_history_and_session_are_not_both_given() -> None:
    history = (ModelRequest((UserPromptPart("x"),)),)
    with pytest.raises(UserError, match="leave one"):
        await Agent(ScriptedModel(["-"])).run("x", message_history=history, session=InMemorySession())
