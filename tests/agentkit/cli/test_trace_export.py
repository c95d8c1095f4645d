"""`agentkit trace export-dataset`: what it prints, what it writes, how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentkit import Agent, UsageLimits
from agentkit.messages import ModelResponse, TextPart
from agentkit.testing import ScriptedModel, call
from modelstack.data.examples import read_examples

Run = Callable[..., Any]


def double(n: int) -> int:
    """Double a number."""
    return 2 * n


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """Runs in the default folder: one good, the same again by another model, one that reached its limit."""
    folder = tmp_path / "traces"
    script = [call("double", n="x"), call("double", n=4), "Eight."]
    for name in ("small", "large"):
        Agent(ScriptedModel(script, name=name), tools=[double], trace=folder).run_sync("Twice four?")
    cut_short, limits = ScriptedModel([call("double", n=1), "9"]), UsageLimits(request_limit=2)
    Agent(cut_short, trace=folder, tools=[double], limits=limits).run_sync("Go.")
    return folder


def table(printed: str) -> dict[str, int]:
    header, *rows = [line.split("\t") for line in printed.splitlines()]
    assert header == ["counted", "number"]
    return {name: int(count) for name, count in rows}


def test_a_table_says_what_became_of_every_run_and_reply(agentkit: Run, traces: Path, tmp_path: Path) -> None:
    out = tmp_path / "examples.jsonl"
    done = agentkit("trace", "export-dataset", str(out))
    assert done.returncode == 0 and done.stderr == ""
    assert table(done.stdout) == {
        "runs read": 3,
        "left out: limit_reached": 1,
        "replies in the other runs": 6,
        "left out: call that was sent back to be corrected": 2,
        "left out: same context and reply as an earlier one": 2,
        "examples written": 2,
        "answer": 1,
        "call": 1,
    }
    assert len(list(read_examples(out))) == 2


def test_options_choose_runs_and_replies(agentkit: Run, traces: Path, tmp_path: Path) -> None:
    out = tmp_path / "examples.jsonl.zst"
    options = ("--model", "large", "--since", "2020-01-01", "--last-only", "--license", "MIT")
    done = agentkit("trace", "export-dataset", str(out), *options, "--trace-dir", str(traces))
    assert done.returncode == 0
    (example,) = read_examples(out)
    assert (example.reply, example.license) == ("Eight.", "MIT")
    newest = json.loads(agentkit("trace", "list", "--limit", "1", "--json").stdout)[0]["run_id"]
    assert table(agentkit("trace", "export-dataset", str(out), newest[:12]).stdout)["runs read"] == 1
    late = agentkit("trace", "export-dataset", str(out), "--since", "2999-01-01T10:00:00")
    assert late.returncode == 1 and "none of the 3 runs is as chosen" in late.stderr


def test_nothing_to_write_is_exit_status_1_and_the_table_says_why(agentkit: Run, tmp_path: Path) -> None:
    cut = ModelResponse((TextPart("Eig"),), finish_reason="length")
    Agent(ScriptedModel([cut]), trace=tmp_path / "traces").run_sync("Go.")
    (tmp_path / "traces" / "run_bad.jsonl").write_text("\x1b[31mnot json\n")
    done = agentkit("trace", "export-dataset", str(tmp_path / "x.jsonl"))
    assert done.returncode == 1 and table(done.stdout)["examples written"] == 0
    assert "run_bad.jsonl" in done.stderr and "was not written" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert not (tmp_path / "x.jsonl").exists()


def test_a_run_id_in_the_place_of_the_file_is_an_error(agentkit: Run, traces: Path) -> None:
    done = agentkit("trace", "export-dataset", next(traces.iterdir()).stem)
    assert done.returncode == 1 and "first comes the file to write" in done.stderr


def test_help_says_how_to_choose_and_that_secrets_come_along(agentkit: Run) -> None:
    shown = " ".join(agentkit("trace", "export-dataset", "--help").stdout.split())
    for expected in (
        "Choose runs by RUN_ID, --model and --since",
        "any secret in them",
        "nothing leaves this machine",
    ):
        assert expected in shown
    assert "--include-failed" not in shown
