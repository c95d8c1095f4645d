"""A run is performed by one process at a time: claims, leases, and what makes a lease stale."""

from __future__ import annotations

import gc
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from agentkit import Agent
from agentkit.errors import CheckpointError, UserError
from agentkit.messages import ModelRequest, UserPromptPart
from agentkit.persistence import Checkpointer, InMemoryCheckpointer, SQLiteCheckpointer
from agentkit.persistence.leases import LEASE_S, is_gone, renew_all
from agentkit.run.state import RunState
from agentkit.testing import call
from tests.agentkit.arrangements import Killed, World, approvals, by_turns

pytestmark = pytest.mark.anyio

PAYER = """
import asyncio, sys
from agentkit import Agent, tool
from agentkit.persistence import SQLiteCheckpointer
from agentkit.testing import call
from tests.agentkit.arrangements import by_turns

journal, run_id, digest, call_id = sys.argv[1:]

@tool(requires_approval=True)
async def pay(amount: int) -> str:
    with open(journal + ".paid", "a") as file:
        file.write("paid\\n")
    print("paying", flush=True)
    await asyncio.sleep(600)
    return "paid"

async def main():
    from agentkit.approvals.pending import Approve
    agent = Agent(by_turns(call("pay", amount=5), "done"), tools=[pay], name="payer", checkpointer=journal)
    await agent.resume(run_id, [Approve(call_id, digest)])

asyncio.run(main())
"""
"""A process that resumes a run and stays inside of its tool."""


def payer(world: World, journal: Path | Checkpointer) -> Agent[None, str]:
    model = by_turns(call("pay", amount=5), "done")
    return Agent(model, tools=[world.pay(asks=True)], name="payer", checkpointer=journal)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
async def test_of_processes_that_resume_one_run_one_has_it_until_it_is_killed(tmp_path: Path) -> None:
    journal, world = tmp_path / "runs.db", World()
    stopped = await payer(world, journal).run("go")
    (waiting,) = stopped.pending
    arguments = (str(journal), stopped.run_id, waiting.digest, waiting.tool_call_id)
    with subprocess.Popen([sys.executable, "-c", PAYER, *arguments], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "paying\n"
        for decisions in ([], approvals(stopped.pending)):
            with pytest.raises(CheckpointError, match=f"going on in process {first.pid}"):
                await payer(world, journal).resume(stopped.run_id, decisions)
        first.send_signal(signal.SIGKILL)
        first.wait()
    asked = await payer(world, journal).resume(stopped.run_id, approvals(stopped.pending))
    assert (asked.status, asked.pending[0].kind, world.paid) == ("needs_approval", "unknown", [])
    result = await payer(world, journal).resume(stopped.run_id, [asked.pending[0].settle("paid")])
    assert (result.output, world.paid) == ("done", [])
    assert Path(f"{journal}.paid").read_text(encoding="utf-8") == "paid\n"


@pytest.fixture(params=["file", "memory"])
def keeper(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpointer:
    return SQLiteCheckpointer(tmp_path / "runs.db") if request.param == "file" else InMemoryCheckpointer()


async def test_of_tasks_that_resume_one_run_one_does(keeper: Checkpointer) -> None:
    world, outcomes = World(), list[str]()
    stopped = await payer(world, keeper).run("go")

    async def resume() -> None:
        try:
            result = await payer(world, keeper).resume(stopped.run_id, approvals(stopped.pending))
        except (CheckpointError, UserError) as error:  # it goes on elsewhere, or has ended already
            outcomes.append(type(error).__name__)
        else:
            outcomes.append(result.status)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(resume)
    assert (outcomes.count("completed"), world.paid) == (1, [5])


async def test_of_connections_that_claim_a_run_at_once_one_gets_it(tmp_path: Path) -> None:
    state, held = RunState(messages=(ModelRequest((UserPromptPart("x"),)),)), list[object]()
    await (await SQLiteCheckpointer(tmp_path / "runs.db").create(state)).release()

    async def claim() -> None:
        try:
            held.append(await SQLiteCheckpointer(tmp_path / "runs.db").claim(state.run_id))
        except CheckpointError as error:
            assert "is going on in" in str(error)

    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(claim)
    assert len(held) == 1


@pytest.mark.parametrize("how", ["completed", "waits", "fails", "is cut off", "is left"])
async def test_a_run_that_does_not_go_on_can_be_claimed_at_once(keeper: Checkpointer, how: str) -> None:
    world = World()

    def fails(text: str) -> str:
        raise RuntimeError(text)

    calls = {"completed": [], "waits": [call("pay", amount=5)], "fails": [call("fails", text="x")]}
    agent = Agent(
        by_turns(*calls.get(how, [call("free", amount=5)]), "done"),
        tools=[world.pay(asks=True), world.pay().renamed("free"), fails],
        checkpointer=keeper,
    )
    world.dies_at = 5 if how == "is cut off" else None
    async with agent.iter("go") as run:
        if how == "is left":
            await run.advance()
        else:
            try:
                await run.finish()
            except (Exception, Killed):
                assert how in ("fails", "is cut off")
    await keeper.claim(run.state.run_id)


async def test_a_claim_is_given_back_where_its_decisions_are_refused(keeper: Checkpointer) -> None:
    stopped = await payer(World(), keeper).run("go")
    for _ in range(2):
        with pytest.raises(UserError, match="has not run"):
            await payer(World(), keeper).resume(stopped.run_id, [stopped.pending[0].settle("x")])


async def test_a_run_that_was_forgotten_can_be_claimed(keeper: Checkpointer) -> None:
    state = RunState(messages=(ModelRequest((UserPromptPart("x"),)),))
    journal = await keeper.create(state)
    with pytest.raises(CheckpointError, match="is going on in"):
        await keeper.claim(state.run_id)
    del journal
    gc.collect()
    await keeper.claim(state.run_id)


def lease(path: Path) -> tuple[str | None, float | None]:
    with sqlite3.connect(path) as file:
        return file.execute("SELECT owner, lease_until FROM runs").fetchone()


async def test_a_lease_names_one_life_of_one_process(tmp_path: Path) -> None:
    path, state = tmp_path / "runs.db", RunState(messages=(ModelRequest((UserPromptPart("x"),)),))
    journal = await SQLiteCheckpointer(path).create(state)
    owner, _ = lease(path)
    assert owner is not None and not is_gone(owner)
    machine, pid, born, token = json.loads(owner)
    assert pid == os.getpid()
    assert is_gone(json.dumps([machine, pid, str(int(born) - 1), token])), "an earlier process had this id"
    assert is_gone(json.dumps([machine, pid, born, "0" * 16])), "no journal of this process has this lease"
    assert not is_gone(json.dumps(["elsewhere", pid, born, token])), "other machines' processes are not visible"
    await journal.release()
    assert is_gone(owner)


async def test_a_lease_is_renewed_while_its_run_goes_on_and_stale_once_its_time_is_over(tmp_path: Path) -> None:
    path, state = tmp_path / "runs.db", RunState(messages=(ModelRequest((UserPromptPart("x"),)),))
    journal = await SQLiteCheckpointer(path).create(state)
    owner, until = lease(path)
    assert owner is not None and until is not None and not is_gone(owner)
    with sqlite3.connect(path) as file:
        file.execute("UPDATE runs SET lease_until = lease_until - ?", (LEASE_S / 2,))
    renew_all()
    renewed = lease(path)[1]
    assert renewed is not None and renewed >= until
    with sqlite3.connect(path) as file:
        file.execute("UPDATE runs SET lease_until = 0")
    _, other = await SQLiteCheckpointer(path).claim(state.run_id)
    renew_all()
    assert lease(path)[0] != owner
    with pytest.raises(CheckpointError, match="resumed elsewhere"):
        await journal.save(state, "running")
    await other.save(state, "completed")
    assert lease(path) == (None, None)


async def test_a_lease_of_another_machine_can_only_run_out(tmp_path: Path) -> None:
    path, state = tmp_path / "runs.db", RunState(messages=(ModelRequest((UserPromptPart("x"),)),))
    journal = await SQLiteCheckpointer(path).create(state)
    elsewhere = json.dumps(["another machine", 1, "", "token"])
    with sqlite3.connect(path) as file:
        file.execute("UPDATE runs SET owner = ?", (elsewhere,))
    del journal
    with pytest.raises(CheckpointError, match="process 1 of another machine"):
        await SQLiteCheckpointer(path).claim(state.run_id)
    with sqlite3.connect(path) as file:
        file.execute("UPDATE runs SET lease_until = 0")
    await SQLiteCheckpointer(path).claim(state.run_id)


@pytest.mark.parametrize("owner", ["not json", "[]", "{}", "[1, 2, 3, 4, 5]", '["x", 1e999, "", ""]'])
async def test_an_owner_that_cannot_be_read_counts_until_its_time_is_over(tmp_path: Path, owner: str) -> None:
    path, state = tmp_path / "runs.db", RunState(messages=(ModelRequest((UserPromptPart("x"),)),))
    await SQLiteCheckpointer(path).create(state)
    with sqlite3.connect(path) as file:
        file.execute("UPDATE runs SET owner = ?", (owner,))
    with pytest.raises(CheckpointError, match="is going on in"):
        await SQLiteCheckpointer(path).claim(state.run_id)


async def test_a_process_number_that_was_given_again_is_another_process(tmp_path: Path) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("no /proc, so no start times")
    path, state = tmp_path / "runs.db", RunState(messages=(ModelRequest((UserPromptPart("x"),)),))
    journal = await SQLiteCheckpointer(path).create(state)
    owner = lease(path)[0]
    assert owner is not None
    machine, _, _, token = json.loads(owner)
    with sqlite3.connect(path) as file:
        file.execute("UPDATE runs SET owner = ?", (json.dumps([machine, os.getppid(), "1", token]),))
    await SQLiteCheckpointer(path).claim(state.run_id)
    del journal


async def test_an_inner_run_is_resumed_through_its_run(tmp_path: Path) -> None:
    keeper, state = SQLiteCheckpointer(tmp_path / "runs.db"), RunState()
    journal = await keeper.create(state)
    await journal.inner_run("c1", RunState(run_id=f"{state.run_id}.c1"))
    with pytest.raises(CheckpointError, match=f"part of run '{state.run_id}'"):
        await keeper.claim(f"{state.run_id}.c1")
