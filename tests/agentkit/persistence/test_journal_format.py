"""A journal of format 1 is brought up when it is opened: what its runs had, and how they go on."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from agentkit import Agent
from agentkit.cli.main import app
from agentkit.errors import CheckpointError
from agentkit.messages import ModelResponse, TextPart, ToolReturnPart
from agentkit.persistence import SQLiteCheckpointer, SQLiteSession
from agentkit.persistence.sqlite_format import FORMAT_VERSION
from agentkit.resuming import with_unknown
from agentkit.testing import FunctionModel

pytestmark = pytest.mark.anyio

WRITTEN = Path(__file__).with_name("journal_v1.sql").read_text(encoding="utf-8")
RUNS = ["run_done", "run_waiting", "run_nested", "run_in_flight"]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "runs.db"
    file = sqlite3.connect(path)
    file.executescript(WRITTEN)
    assert file.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
    file.close()
    return path


def recorded(call_id: str) -> ToolReturnPart:
    return ToolReturnPart("record", call_id, f"recorded “{call_id}”", {"key": call_id})


def archivist(journal: Path) -> tuple[Agent[None, str], list[str]]:
    """The agent that made the runs, and what its tool records from now on."""
    keys: list[str] = []

    async def record(key: str) -> str:
        """Record a key."""
        keys.append(key)
        return f"recorded “{key}”"

    model = FunctionModel(lambda messages, parameters: ModelResponse((TextPart("done"),)))
    return Agent(model, tools=[record], name="archivist", checkpointer=journal), keys


async def test_runs_have_what_they_had(journal: Path) -> None:
    keeper = SQLiteCheckpointer(journal)
    assert [run.run_id for run in await keeper.list_runs(metadata={"user": "7"})] == RUNS
    runs = {run_id: await keeper.load(run_id) for run_id in RUNS}
    assert {run_id: run.in_flight for run_id, run in runs.items()} == {
        "run_in_flight": ("call_a",),
        "run_nested": ("call_outer", "call_outer.2"),
        "run_waiting": ("call_w",),
        "run_done": (),
    }
    assert {run_id: run.state.answers for run_id, run in runs.items()} == {
        "run_in_flight": (recorded("call_z"),),
        "run_nested": (recorded("call_outer.1"),),
        "run_waiting": (),
        "run_done": (),
    }
    assert [run.summary.status for run in runs.values()] == ["completed", "needs_approval", "running", "running"]
    assert (await SQLiteSession(journal, "user 7").load()).messages == runs["run_done"].state.messages


async def test_a_call_in_flight_is_asked_about_and_the_others_run(journal: Path) -> None:
    agent, keys = archivist(journal)
    stopped = await agent.resume("run_in_flight")
    (waiting,) = stopped.pending
    assert (waiting.tool_call_id, waiting.kind, keys) == ("call_a", "unknown", [])
    result = await agent.resume("run_in_flight", [waiting.settle("recorded “call_a”")])
    assert (result.output, keys) == ("done", ["call_m"])
    parts = [part for part in result.messages[2].parts if isinstance(part, ToolReturnPart)]
    assert [part.tool_call_id for part in parts] == ["call_z", "call_a", "call_m"]


async def test_nested_calls_of_unknown_outcome_stay_in_doubt(journal: Path) -> None:
    stored = await SQLiteCheckpointer(journal).load("run_nested")
    state = with_unknown(stored.state, stored.in_flight)
    assert (state.in_doubt, [call.tool_call_id for call in state.pending]) == (("call_outer.2",), ["call_outer"])


async def test_a_call_that_waited_goes_on_waiting(journal: Path) -> None:
    agent, keys = archivist(journal)
    stopped = await agent.resume("run_waiting")
    assert [call.kind for call in stopped.pending] == ["unknown"]
    result = await agent.resume("run_waiting", [stopped.pending[0].approve()])
    assert (result.output, keys) == ("done", ["call_w"])


async def test_the_file_has_the_tables_of_a_new_one_and_its_runs_can_be_deleted(
    journal: Path, tmp_path: Path
) -> None:
    await SQLiteCheckpointer(tmp_path / "new.db").list_runs()
    keeper = SQLiteCheckpointer(journal)
    for run_id in RUNS:
        await keeper.delete(run_id)
    forms: list[dict[str, list[tuple[object, ...]]]] = []
    for path in (journal, tmp_path / "new.db"):
        with sqlite3.connect(path) as file:
            assert file.execute("PRAGMA user_version").fetchone() == (FORMAT_VERSION,)
            names = [name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            forms.append({name: file.execute(f"PRAGMA table_info({name})").fetchall() for name in names})
    assert forms[0] == forms[1]
    with sqlite3.connect(journal) as file:
        assert file.execute("SELECT count(*) FROM answers").fetchone() == (0,)
        assert file.execute("SELECT count(*) FROM messages").fetchone() == (4,)  # the session's


async def test_a_program_of_format_1_that_has_the_file_open_can_start_no_call(journal: Path) -> None:
    """Nobody would look where it notes that; its statement fails, and with it its run, before the call."""
    old = sqlite3.connect(journal, isolation_level=None)
    assert old.execute("SELECT count(*) FROM calls").fetchone() == (6,)
    await SQLiteCheckpointer(journal).list_runs()
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        old.execute(
            "INSERT OR REPLACE INTO calls(run_id, tool_call_id, answer) "
            "SELECT run_id, 'call_m', NULL FROM runs WHERE run_id = 'run_in_flight' AND generation = 0"
        )
    old.close()


async def test_many_may_open_it_at_once(journal: Path) -> None:
    import anyio

    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(SQLiteCheckpointer(journal).load, "run_in_flight")
    assert (await SQLiteCheckpointer(journal).load("run_in_flight")).in_flight == ("call_a",)


async def test_a_file_that_cannot_be_brought_up_stays_as_it_was(journal: Path) -> None:
    """Its last statement fails: the earlier ones are undone."""
    with sqlite3.connect(journal) as file:
        file.execute("CREATE VIEW of_mine AS SELECT * FROM calls")
        file.execute("CREATE TABLE answers(mine)")
    before = journal.read_bytes()
    with pytest.raises(CheckpointError, match="answers already exists"):
        await SQLiteCheckpointer(journal).list_runs()
    assert journal.read_bytes() == before


def test_the_command_that_lists_runs_reads_it(journal: Path) -> None:
    from typer.testing import CliRunner

    shown = CliRunner().invoke(app, ["runs", "--journal", str(journal)])
    assert shown.exit_code == 0, shown.output
    assert all(run_id[:8] in shown.output for run_id in RUNS)


@pytest.mark.parametrize("started", ["not json", '{"call_a": 1}', "[1]", "null"])
async def test_a_list_of_started_calls_that_was_edited_is_refused(journal: Path, started: str) -> None:
    await SQLiteCheckpointer(journal).list_runs()
    with sqlite3.connect(journal) as file:
        file.execute("UPDATE runs SET started = ?", (started,))
    with pytest.raises(CheckpointError, match="run_in_flight"):
        await SQLiteCheckpointer(journal).load("run_in_flight")


async def test_a_run_of_it_goes_on_with_calls_at_once(journal: Path) -> None:
    """Starts and answers are noted as in a new file, beside what is left of the old one."""
    keeper = SQLiteCheckpointer(journal)
    stored, taken = await keeper.claim("run_in_flight")
    (late,) = [call for call in stored.state.open_calls if call.tool_call_id == "call_m"]
    await taken.call_started(late, durable=True)
    assert (await keeper.load("run_in_flight")).in_flight == ("call_a", "call_m")
    await taken.call_answered(recorded("call_m"))
    again = await keeper.load("run_in_flight")
    assert (again.in_flight, {part.tool_call_id for part in again.state.answers}) == (
        ("call_a",),
        {"call_z", "call_m"},
    )
