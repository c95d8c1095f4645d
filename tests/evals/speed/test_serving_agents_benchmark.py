"""Served agents are compared on the same checked work, and a peer that fails is named with its reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="needs uvicorn (extra `serve`)")
pytest.importorskip("ag_ui", reason="needs ag-ui-protocol (extra `ag-ui`)")

from evals.speed import serving_agents
from evals.speed.running import read_result
from evals.speed.serving_agents import DURABLE, IN_MEMORY, AgentServer, MeasuredServer, figures_of
from evals.speed.serving_agents_clients import Load, Said, check, cpu_s, said_by_adk, said_in_ag_ui
from evals.speed.serving_agents_worker import ARGUMENTS, PIECES, RESULT, TOOL

WHOLE = Said("".join(PIECES), [(TOOL, ARGUMENTS)], [RESULT], has_ended=True)


def sent(events: Sequence[dict[str, Any]]) -> bytes:
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()


AG_UI: list[dict[str, Any]] = [
    {"type": "RUN_STARTED"},
    {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": TOOL},
    {"type": "TOOL_CALL_ARGS", "toolCallId": "c", "delta": '{"a": 40,'},
    {"type": "TOOL_CALL_ARGS", "toolCallId": "c", "delta": ' "b": 2}'},
    {"type": "TOOL_CALL_RESULT", "toolCallId": "c", "content": "42"},
    *({"type": "TEXT_MESSAGE_CONTENT", "delta": piece} for piece in PIECES),
    {"type": "RUN_FINISHED"},
]


def by_adk(part: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"content": {"parts": [part]}, **fields}


ADK = [
    by_adk({"functionCall": {"name": TOOL, "args": ARGUMENTS}}),
    by_adk({"functionResponse": {"name": TOOL, "response": {"result": RESULT}}}),
    *(by_adk({"text": piece}, partial=True) for piece in PIECES),
    by_adk({"text": "".join(PIECES)}, partial=False),
]


def test_replies_of_both_protocols_are_read_alike() -> None:
    assert said_in_ag_ui(sent(AG_UI)) == said_by_adk(sent(ADK)) == WHOLE
    check(WHOLE)


@pytest.mark.parametrize("n", range(1, len(AG_UI)))
def test_a_reply_of_ag_ui_without_an_event_is_refused(n: int) -> None:
    with pytest.raises((RuntimeError, KeyError, ValueError)):
        check(said_in_ag_ui(sent([*AG_UI[:n], *AG_UI[n + 1 :]])))


@pytest.mark.parametrize("n", range(len(ADK)))
def test_a_reply_of_adk_without_an_event_is_refused(n: int) -> None:
    with pytest.raises(RuntimeError, match="it answered"):
        check(said_by_adk(sent([*ADK[:n], *ADK[n + 1 :]])))


def measured(*cpu_seconds: float) -> MeasuredServer:
    return MeasuredServer(1, 1, "1", [Load(each, [0.1] * 10) for each in cpu_seconds])


def test_both_of_ours_are_bounded_beside_each_peer() -> None:
    found = {DURABLE.name: measured(2.0, 4.0), IN_MEMORY.name: measured(1.0, 2.0)}
    found |= {"slow": measured(9.0, 18.0), "fast": measured(3.0, 6.0)}
    figures = figures_of(found)
    values = {figure.name.removeprefix("requests a CPU second: "): figure for figure in figures}
    assert {name: (round(figure.value, 6), figure.holds) for name, figure in values.items()} == {
        "agentkit, durable beside fast": (1.5, False),
        "agentkit, durable beside slow": (4.5, True),
        "agentkit, in memory beside fast": (3.0, True),
        "agentkit, in memory beside slow": (9.0, True),
    }


def test_ours_are_measured_and_a_peer_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unstarted = AgentServer("a peer", "no such server")
    monkeypatch.setattr(serving_agents, "PROGRAMS", (DURABLE, IN_MEMORY, unstarted))
    out = tmp_path / "result.json"
    options = ["--repeats", "1", "--requests", "6", "--clients", "3", "--result", str(out)]
    assert serving_agents.main(options) == 0
    result = read_result(out)
    (note,) = result.notes
    assert note.startswith("a peer not measured: it ended with 2")
    speeds, latencies = result.comparisons
    assert set(speeds.values) == set(latencies.values) == {DURABLE.name, IN_MEMORY.name}
    assert all(value > 0 for each in result.comparisons for value in each.values.values())


def test_the_memory_over_runs_is_told(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    assert serving_agents.main(["--memory", "8", "--clients", "2", "--result", str(out)]) == 0
    memory, growth = read_result(out).figures
    assert memory.name == "memory after 8 runs" and memory.value > 10 and growth.value == 0


def test_cpu_seconds_are_those_of_a_process_and_its_children() -> None:
    busy = "import time; until = time.process_time() + 0.3\nwhile time.process_time() < until: pass\n"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}]); print('done', flush=True)"
    command = [sys.executable, "-c", f"{child}; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == b"done\n"
        assert cpu_s(process.pid) > 0.25
        process.stdin.close()
    before = cpu_s(os.getpid())
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    assert cpu_s(os.getpid()) - before > 0.05
