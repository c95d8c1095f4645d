"""Output of agentkit's commands as golden files, at 80 columns and in a pipe; see `tests.golden`."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agentkit import Agent
from agentkit.cli import approval, demo, doctor
from agentkit.cli import run as run_command
from agentkit.cli.doctor import Check
from agentkit.cli.main import app
from agentkit.messages import ModelResponse, TextPart, ToolCallPart
from agentkit.models import resolve
from agentkit.models.catalog.store import CACHE_VARIABLE
from agentkit.testing import ScriptedModel, call
from tests.agentkit.cli.golden_data import LONG_NOTE, write_traces
from tests.golden import IDS_AND_TIMES, UPDATE, Golden, commands_of

FOLDER = Path(__file__).with_name("golden")


@pytest.fixture
def golden(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Golden:
    """Golden files, in an empty folder and in UTC."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("AGENTKIT_TRACE_DIR", "traces")
    monkeypatch.setenv("AGENTKIT_JOURNAL", "runs.db")
    monkeypatch.setenv(CACHE_VARIABLE, "cache")
    time.tzset()
    return Golden(app, "agentkit", FOLDER, update=bool(request.config.getoption(UPDATE)))


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let every model's name mean a script, begun anew for each command."""

    def script(*replies: ModelResponse) -> None:
        monkeypatch.setattr(resolve, "resolve_model", lambda name: ScriptedModel(replies))

    return script


# -- traces and runs ----------------------------------------------------------------------------------------


def test_traces_are_listed_with_model_and_prompt_below_each_run(
    golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_traces(Path("traces"), monkeypatch)
    for hour, name in enumerate("abc"):  # listed by the time of the last change
        file = next(Path("traces").glob(f"run_*{name}{hour + 1}.jsonl"))
        os.utime(file, (hour, hour))
    golden.check("trace-list", "trace list", "trace list --limit 1 --json")


def test_a_trace_names_the_adapter_and_shows_a_waiting_call_whole(
    golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_traces(Path("traces"), monkeypatch)
    ids = ("run_00000000000000a1", "run_00000000000000b2", "run_00000000000000c3")
    golden.check("trace-show", *(f"trace show {run_id}" for run_id in ids))


def test_statistics_are_by_model_tool_and_guardrail(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    write_traces(Path("traces"), monkeypatch)
    golden.check("trace-stats", "trace stats", "trace stats --json")


def test_an_export_counts_what_it_left_out(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    write_traces(Path("traces"), monkeypatch)
    golden.check("trace-export-dataset", "trace export-dataset out.jsonl")


def test_nothing_to_list_is_said(golden: Golden) -> None:
    golden.check("nothing-yet", "trace list", "trace stats", "runs")


def test_stored_runs_are_listed_with_their_tasks(golden: Golden) -> None:
    for text in ("What must be done before Monday?", LONG_NOTE):
        agent = Agent(ScriptedModel([ModelResponse((TextPart("Nothing."),))]), checkpointer="runs.db")
        agent.run_sync(text, metadata={"task": text})
    golden.check("runs", "runs", "runs --limit 1 --json", replace=IDS_AND_TIMES)


# -- run, chat, approvals -----------------------------------------------------------------------------------


def test_a_run_prints_calls_results_and_usage(
    golden: Golden, scripted: Callable[..., None], server: Callable[..., str]
) -> None:
    long = ToolCallPart("echo", f'{{"text":"{LONG_NOTE.strip()}"}}', "1", 0.97, (("change", 0.02),))
    scripted(ModelResponse((long,)), ModelResponse((TextPart("The oven must be cleaned."),), p_answer=0.93))
    command = (
        "run",
        "What must be done?",
        "--model",
        "test",
        "--mcp",
        server("echo"),
        "--no-trace",
        "--no-journal",
    )
    golden.check("run", command, replace=[*IDS_AND_TIMES, *_hidden(server("echo"))])


def test_free_text_has_no_probability(golden: Golden, scripted: Callable[..., None]) -> None:
    scripted(ModelResponse((TextPart("Good morning."),)))
    golden.check(
        "run-text", "run - --model test --no-trace --no-journal", typed="Good morning\n", replace=IDS_AND_TIMES
    )


def test_an_approval_shows_every_argument_whole(
    golden: Golden, scripted: Callable[..., None], server: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_command, "can_ask", lambda: True)
    monkeypatch.setattr(approval, "input", lambda: print(file=sys.stderr) or "deny", raising=False)
    asked = ToolCallPart("change", f'{{"text":"{LONG_NOTE.strip()}"}}', "1", 0.97)
    scripted(ModelResponse((asked,)), ModelResponse((TextPart("Nothing was changed."),)))
    command = ("run", "Note it.", "--model", "test", "--mcp", server("change"), "--no-trace", "--no-journal")
    golden.check("approval", command, replace=[*IDS_AND_TIMES, *_hidden(server("change"))], piped=False)


def test_without_a_terminal_a_run_says_what_waits_and_how_to_go_on(
    golden: Golden, scripted: Callable[..., None], server: Callable[..., str]
) -> None:
    asked = ToolCallPart("change", f'{{"text":"{LONG_NOTE.strip()}"}}', "1", 0.97)
    scripted(ModelResponse((asked,)))
    command = ("run", "Note it.", "--model", "test", "--mcp", server("change"), "--no-trace")
    golden.check("run-waiting", command, replace=[*IDS_AND_TIMES, *_hidden(server("change"))])


def test_a_chat_begins_with_model_tools_and_places(
    golden: Golden, scripted: Callable[..., None], server: Callable[..., str]
) -> None:
    scripted(ModelResponse((TextPart("Good morning."),)))
    command = ("chat", "--model", "test", "--mcp", server("echo", "change"))
    typed = "Good morning\n/tools\n/usage\n/help\n/nothing\n"
    golden.check(
        "chat",
        command,
        ("chat", "--model", "test", "--continue"),
        typed=typed,
        replace=[*IDS_AND_TIMES, *_hidden(server("echo", "change"))],
    )


# -- servers and models -------------------------------------------------------------------------------------


def test_a_servers_tools_are_listed_pinned_and_verified(golden: Golden, server: Callable[..., str]) -> None:
    one, two = server("echo"), server("echo", "change")
    golden.check(
        "mcp",
        ("mcp", "list", two),
        ("mcp", "list", one, "--json"),
        ("mcp", "call", one, "echo", '{"text":"hi"}'),
        ("mcp", "call", one, "echo", '{"text":"hi"}', "--json"),
        ("mcp", "verify", one),
        ("mcp", "pin", one, "--yes", "--key", "shop"),
        ("mcp", "verify", one, "--key", "shop", "--json"),
        replace=[*_hidden(two, "TWO"), *_hidden(one, "ONE"), (r"[\w/.]*cli_server(\.py)?", "cli_server")],
    )


def test_models_are_listed_and_verified(golden: Golden) -> None:
    golden.check("models", "models list", "models list --json", "models verify", "models verify --json")


def test_the_doctor_names_what_is_missing_and_the_fix(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [
        Check("python", "ok", "3.11.7 at /usr/bin/python3"),
        Check("pydantic", "broken", "2.1, wanted >=2.10,<3", "pip install --upgrade agentkit"),
        Check("llama-cpp-python", "missing", "not installed", "pip install it (it compiles for some minutes)"),
        Check("prompt cache", "ok", "/home/ada/.cache/agentkit/prompts, 38 prompts, 455 MB of at most 1074 MB"),
        Check("journal", "ok", "/home/ada/.local/state/agentkit/runs.db"),
        Check("sessions", "ok", "/home/ada/.local/state/agentkit/runs.db"),
        Check("traces", "ok", "/home/ada/.local/state/agentkit/traces, not written yet"),
        Check("pins", "missing", "/srv/pins cannot be written", "set AGENTKIT_PINS_DIR to another folder"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda: checks)
    golden.check("doctor", "doctor", "doctor --json")


def test_the_demo_shows_each_task_with_its_verdict(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    price = "write_file", {"path": "croissant.txt", "text": "1.40"}
    replies = [
        call("read_text_file", path="todo.md"),
        ModelResponse((TextPart("It has 9 lines."),)),
        call("describe_table", table="orders"),
        ModelResponse((TextPart("id, customer_id, day, product"),)),
        ModelResponse((TextPart("356 degrees."),)),
        call("read_text_file", path="prices.csv"),
        call(price[0], **price[1]),
        ModelResponse((TextPart("Written: 1.40."),)),
    ]
    monkeypatch.setattr(demo, "usable_model", lambda name, output: (name, None))
    monkeypatch.setattr(resolve, "resolve_model", lambda name: ScriptedModel(replies))
    golden.check("demo", "demo", replace=IDS_AND_TIMES)


# -- help ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", commands_of(app), ids=" ".join)
def test_help_is_plain_text(golden: Golden, words: tuple[str, ...]) -> None:
    golden.check("help/" + ("-".join(words) or "agentkit"), (*words, "--help"), piped=False)


def _hidden(server: str, name: str = "SERVER") -> list[tuple[str, str]]:
    """Return the replacement of a server's command line, which names this machine's paths."""
    return [(re.escape(shlex.quote(server)), name), (re.escape(server), name)]
