"""Traces written and read back."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import anyio
import pytest

from agentkit import Agent, UserError
from agentkit.events import AgentEvent, ModelRequestEvent, ModelResponseEvent, RunFinishedEvent, RunStartedEvent
from agentkit.testing import ScriptedModel, call
from agentkit.tracing.jsonl import JsonlTrace, default_trace_directory, read_trace, trace_path
from agentkit.tracing.reading import read_events, summarise, trace_files


def double(n: int) -> int:
    """Double a number."""
    return 2 * n


@pytest.fixture
def events() -> list[AgentEvent]:
    return []


@pytest.fixture
def trace(tmp_path: Path, events: list[AgentEvent]) -> Path:
    model = ScriptedModel([call("double", n=4), "Eight."])
    agent = Agent(model, tools=[double], trace=tmp_path / "traces", on_event=events.append)
    return tmp_path / "traces" / f"{agent.run_sync('What is twice four?').run_id}.jsonl"


def test_the_events_come_back_as_they_were(trace: Path, events: list[AgentEvent]) -> None:
    written = [event for event in events if not event.event_kind.endswith("_delta")]
    assert [event for _, event in read_events(trace)] == written
    times = [at for at, _ in read_events(trace)]
    assert times == sorted(times)


def test_a_run_is_summed_up(trace: Path) -> None:
    run = summarise(trace)
    assert (run.run_id, run.prompt, run.status) == (trace.stem, "What is twice four?", "completed")
    assert (run.n_steps, run.n_tool_calls, run.model_name) == (2, 1, "scripted")


@pytest.mark.anyio
async def test_a_run_that_was_cancelled_is_summed_up_as_stopped(tmp_path: Path) -> None:
    async def wait() -> None:
        """Never end."""
        scope.cancel()
        await anyio.sleep_forever()

    agent = Agent(ScriptedModel([call("wait")]), tools=[wait], trace=tmp_path)
    with anyio.CancelScope() as scope:
        await agent.run("Wait.")
    assert [summarise(path).status for path in trace_files(tmp_path)] == ["stopped"]


def test_only_its_owner_can_read_a_trace(trace: Path) -> None:
    assert stat.S_IMODE(trace.stat().st_mode) == 0o600
    assert stat.S_IMODE(trace.parent.stat().st_mode) == 0o700


def test_a_line_that_a_crash_cut_off_is_skipped(trace: Path) -> None:
    whole = list(read_events(trace))
    with trace.open("a", encoding="utf-8") as file:
        file.write('{"time": 1, "event_')
    assert list(read_events(trace)) == whole
    assert len(list(read_trace(trace))) == len(whole)


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        "{}",
        '{"version":1,"time":1,"event_kind":"unheard_of"}',
        '{"version":1,"time":"x","event_kind":"run_started"}',
        '{"version":1,"time":1,"event_kind":"run_started","run_id":7}',
        "[" * 100_000,
    ],
)
def test_a_line_that_is_no_event_is_named(trace: Path, line: str) -> None:
    with trace.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    n_lines = len(trace.read_text(encoding="utf-8").splitlines())
    with pytest.raises(UserError, match=rf"line {n_lines} is not an event of a trace"):
        list(read_events(trace))


def test_a_trace_of_another_version_is_refused(trace: Path) -> None:
    first = json.loads(trace.read_text(encoding="utf-8").splitlines()[0])
    trace.write_text(json.dumps({**first, "version": 99}) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="trace version 99; this program reads 1"):
        list(read_events(trace))


def test_the_newest_trace_comes_first(tmp_path: Path) -> None:
    import os

    for number, name in enumerate(("run_b", "run_c", "run_a")):
        path = tmp_path / f"{name}.jsonl"
        path.touch()
        os.utime(path, (number, number))
    assert [path.stem for path in trace_files(tmp_path)] == ["run_a", "run_c", "run_b"]


def test_an_id_must_name_one_run(trace: Path) -> None:
    assert trace_path(trace.parent, trace.stem[:6]) == trace
    (trace.parent / "run_0.jsonl").touch()
    (trace.parent / "run_00.jsonl").touch()
    with pytest.raises(UserError, match="matches 0 traces"):
        trace_path(trace.parent, "../run_0")
    with pytest.raises(UserError, match="matches [23] traces"):
        trace_path(trace.parent, "run_")


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    sink = JsonlTrace(tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written"):
        sink(RunStartedEvent("run_1", None, "m", ()))


def test_the_default_directory_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTKIT_TRACE_DIR", "~/traces")
    assert default_trace_directory() == Path.home() / "traces"
    monkeypatch.delenv("AGENTKIT_TRACE_DIR")
    assert default_trace_directory().name == "traces"


def test_every_kind_of_event_of_a_run_is_in_its_trace(trace: Path) -> None:
    kinds = {type(event) for _, event in read_events(trace)}
    assert {RunStartedEvent, ModelRequestEvent, ModelResponseEvent, RunFinishedEvent} <= kinds
