"""A journal of an earlier format is brought up when it is opened: what its runs had, and how they go on."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from agentkit import Agent, tool
from agentkit.approvals.pending import Approve
from agentkit.cli.main import app
from agentkit.errors import CheckpointError
from agentkit.events import RewardEvent
from agentkit.messages import ModelMessage, ModelResponse, TextPart, ThinkingPart, ToolReturnPart
from agentkit.models.base import ModelRequestParameters
from agentkit.persistence import SQLiteCheckpointer, SQLiteSession
from agentkit.persistence.sqlite_format import FORMAT
from agentkit.run.resume import with_unknown
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
            assert file.execute("PRAGMA user_version").fetchone() == (FORMAT.version,)
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


# --- format 2: an agent as a tool kept its run in a journal of its own, and questions had no attempts -----------


@pytest.fixture
def journal_2(tmp_path: Path) -> Path:
    path = tmp_path / "runs.db"
    file = sqlite3.connect(path)
    file.executescript(Path(__file__).with_name("journal_v2.sql").read_text(encoding="utf-8"))
    assert file.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
    file.close()
    return path


def payer(journal: Path, *, inner: bool = False) -> tuple[Agent[None, str], list[str]]:
    """The agent that made the runs, and what its tools do from now on."""
    done: list[str] = []

    @tool(requires_approval=True)
    async def pay(amount: int) -> str:
        """Pay."""
        done.append(f"paid {amount}")
        return "paid"

    @tool
    async def note(amount: int) -> str:
        """Note."""
        done.append(f"noted {amount}")
        return f"noted {amount}"

    @tool
    async def free(amount: int) -> str:
        """Pay without asking."""
        done.append(f"paid {amount}")
        return "paid"

    def reply(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        return ModelResponse((TextPart("done"),))

    model = FunctionModel(reply)
    if not inner:
        return Agent(model, tools=[pay, note, free], name="payer", checkpointer=journal), done
    teller = Agent(model, tools=[pay, note], name="teller", checkpointer=journal)
    return Agent(model, tools=[teller.as_tool("Pays.")], name="payer", checkpointer=journal), done


async def test_of_format_2_a_call_that_waits_is_asked_about_anew_and_runs_once(journal_2: Path) -> None:
    agent, done = payer(journal_2)
    with sqlite3.connect(journal_2) as file:
        (head,) = file.execute("SELECT head FROM runs WHERE run_id = 'run_waiting'").fetchone()
    (old,) = json.loads(head)["pending"]
    stopped = await agent.resume("run_waiting", [Approve(old["tool_call_id"], old["digest"])])
    assert (stopped.status, done) == ("needs_approval", [])
    result = await agent.resume("run_waiting", [stopped.pending[0].approve()])
    assert (result.output, done) == ("done", ["paid 5"])


@pytest.mark.parametrize("run_id", ["run_approved", "run_in_flight"])
async def test_of_format_2_a_call_that_was_cut_off_is_asked_about_as_another_attempt(
    journal_2: Path, run_id: str
) -> None:
    agent, done = payer(journal_2)
    stopped = await agent.resume(run_id)
    (waiting,) = stopped.pending
    assert (waiting.kind, waiting.attempt, done) == ("unknown", 2, [])
    result = await agent.resume(run_id, [waiting.approve()])
    assert (result.output, done) == ("done", ["paid 5"])


async def test_of_format_2_an_inner_run_goes_on_in_the_outer_one(journal_2: Path) -> None:
    """What it had done is not done again, and its call asks for itself."""
    agent, done = payer(journal_2, inner=True)
    stopped = await agent.resume("run_outer")
    (waiting,) = stopped.pending
    assert (waiting.tool_name, waiting.arguments, done) == ("pay", '{"amount":5}', [])
    assert "run_outer.call_t" not in [run.run_id for run in await SQLiteCheckpointer(journal_2).list_runs()]
    result = await agent.resume("run_outer", [waiting.approve()])
    assert (result.output, done) == ("done", ["paid 5"])


async def test_of_format_2_the_file_has_the_tables_and_indexes_of_a_new_one(
    journal_2: Path, tmp_path: Path
) -> None:
    forms: list[dict[str, object]] = []
    for path in (journal_2, tmp_path / "new.db"):
        await SQLiteCheckpointer(path).list_runs()
        with sqlite3.connect(path) as file:
            assert file.execute("PRAGMA user_version").fetchone() == (FORMAT.version,)
            names = [name for (name,) in file.execute("SELECT name FROM sqlite_master ORDER BY name")]
            forms.append({name: file.execute(f"PRAGMA table_info({name})").fetchall() for name in names})
    assert forms[0] == forms[1]
    assert (await SQLiteSession(journal_2, "user 7").load()).messages


async def test_of_format_4_the_events_of_runs_are_kept_and_go_on(tmp_path: Path) -> None:
    path = tmp_path / "served.db"
    with sqlite3.connect(path) as file:
        file.executescript(Path(__file__).with_name("journal_v4.sql").read_text(encoding="utf-8"))
    file.close()
    keeper = SQLiteCheckpointer(path)
    before = await keeper.events("run_served")
    kinds = [json.loads(event.body)["event_kind"] for event in before]
    assert kinds == ["run_requested", "text_delta", "model_response"]
    assert [event.number for event in before] == [1, 2, 3] and before[0].event.event_kind == "run_requested"
    stored = await keeper.load("run_served")
    assert stored.state.messages[-1] == ModelResponse(
        (ThinkingPart("Hm."), TextPart("done")), model_name="m", finish_reason="stop"
    )
    assert await keeper.append_event("run_served", RewardEvent(1.0, "test")) == 4
    await keeper.delete("run_served")
    keeper.close()
    with sqlite3.connect(path) as file:
        assert file.execute("SELECT count(*) FROM events").fetchone() == (0,)
    file.close()
    assert schema_of(path) == await schema_of_a_new_file(tmp_path / "new.db")


def schema_of(path: Path) -> dict[str, str]:
    """Return the statements that created the tables and indexes of a file."""
    with sqlite3.connect(path) as file:
        rows = file.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    file.close()
    return {name: " ".join(str(sql).split()) for name, sql in rows}


async def schema_of_a_new_file(path: Path) -> dict[str, str]:
    """Return the same of a new journal."""
    keeper = SQLiteCheckpointer(path)
    await keeper.list_runs()
    keeper.close()
    return schema_of(path)
