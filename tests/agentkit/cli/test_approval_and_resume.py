"""Calls that wait for a decision on the terminal, and runs that go on in another process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from agentkit.approvals.pending import Approve, Deny, PendingCall
from agentkit.cli import approval, run
from tests.agentkit.cli.conftest import Agentkit

Server = Callable[..., str]


@pytest.fixture
def at_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "can_ask", lambda: True)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The lines that the test server's tool `change` has written."""
    monkeypatch.setenv("HOME", str(tmp_path))
    changed = tmp_path / "changed"
    return lambda: changed.read_text().splitlines() if changed.exists() else []


def run_id_of(agentkit: Agentkit) -> str:
    return json.loads(agentkit("runs", "--json").stdout)[0]["run_id"]


def test_where_nobody_can_be_asked_the_run_stops_and_can_be_resumed(
    agentkit: Agentkit,
    server: Server,
    world: Callable[[], list[str]],
    at_terminal: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "can_ask", lambda: False)
    stopped = agentkit("run", "x", "--model", "test", "--mcp", server("change"))
    assert (stopped.returncode, stopped.stdout, world()) == (5, "", [])
    run_id = run_id_of(agentkit)
    assert f"continue with: agentkit resume {run_id}\n" in stopped.stderr
    assert f"{run_id}" in agentkit("runs", "--status", "needs_approval").stdout
    assert agentkit("resume", run_id[:10]).returncode == 5
    monkeypatch.setattr(run, "can_ask", lambda: True)
    done = agentkit("resume", run_id, stdin="once\n")
    assert (done.returncode, world()) == (0, ["hello"])
    again = agentkit("resume", run_id)
    assert (again.returncode, again.stdout, world()) == (0, done.stdout, ["hello"])
    agentkit("runs", "--delete", run_id)
    assert agentkit("runs").stdout == ""


def test_a_denial_reaches_the_model(
    agentkit: Agentkit, server: Server, world: Callable[[], list[str]], at_terminal: None
) -> None:
    done = agentkit("run", "x", "--model", "test", "--mcp", server("change"), stdin="what?\nd\nnot today\n")
    assert (done.returncode, world()) == (0, [])
    assert "Not allowed: not today" in done.stdout


def test_what_only_reads_is_not_asked_about_unless_all_is(agentkit: Agentkit, server: Server) -> None:
    read = ("run", "x", "--model", "test", "--mcp", server("echo"))
    assert agentkit(*read).returncode == 0
    assert agentkit(*read, "--ask", "all").returncode == 5


def test_nothing_is_asked_if_nobody_wants_it(
    agentkit: Agentkit, server: Server, world: Callable[[], list[str]]
) -> None:
    done = agentkit("run", "x", "--model", "test", "--mcp", server("change"), "--ask", "none")
    assert (done.returncode, world()) == (0, ["hello"])


def test_json_names_the_calls_that_wait(agentkit: Agentkit, server: Server) -> None:
    report = json.loads(agentkit("run", "x", "--model", "test", "--mcp", server("change"), "--json").stdout)
    assert report["status"] == "needs_approval"
    assert [(call["tool_name"], call["arguments"]) for call in report["pending"]] == [("change", "{}")]


def test_a_run_is_resumed_where_its_servers_are(
    agentkit: Agentkit, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agentkit("run", "x", "--model", "test", "--mcp", server("change"))
    run_id = run_id_of(agentkit)
    monkeypatch.chdir(tmp_path)
    elsewhere = agentkit("resume", run_id)
    assert elsewhere.returncode == 1 and "resume it there" in elsewhere.stderr
    assert "matches 0 runs" in agentkit("resume", "run_x").stderr


def test_without_a_journal_there_is_nothing_to_resume(agentkit: Agentkit, server: Server) -> None:
    stopped = agentkit("run", "x", "--model", "test", "--mcp", server("change"), "--no-journal")
    assert stopped.returncode == 5 and "agentkit resume" not in stopped.stderr
    assert agentkit("runs").stdout == ""


# --- the card ---------------------------------------------------------------------------------------------

PAY = PendingCall("pay", "c1", '{"amount":5,"to":"Ann"}', "digest", "its tool needs approval")
UNKNOWN = PendingCall("pay", "c1", '{"amount":5}', "digest", "its process ended", "unknown")


@pytest.mark.parametrize(
    ("call", "typed", "decision"),
    [
        (PAY, ["o"], Approve("c1", "digest")),
        (PAY, ["run"], Approve("c1", "digest", for_run=True)),
        (PAY, ["yes", "", "D", "too much"], Deny("c1", "too much")),
        (UNKNOWN, ["t", "paid"], UNKNOWN.settle("paid")),
        (UNKNOWN, ["r"], Approve("c1", "digest")),
        (UNKNOWN, ["l", ""], Deny("c1", "")),
    ],
)
def test_a_call_is_decided_by_what_is_typed(
    call: PendingCall, typed: list[str], decision: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: Iterator[str] = iter(typed)
    monkeypatch.setattr("builtins.input", lambda: next(lines))
    assert approval.decide([call], Console(quiet=True)) == [decision]
    assert list(lines) == []


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ('{"to":"Ann"}', '"to": "Ann"'),
        ('{"to":"\u202eAnn\u200b"}', '"to": "\\u202eAnn\\u200b"'),
        ('{"to":"\\u001b[2J"}', '"to": "\\u001b[2J"'),
        ('{"to":"[bold]Ann"}', '"to": "[bold]Ann"'),
        ("no json \x1b[2J", "'no json \\x1b[2J'"),
    ],
)
def test_a_card_shows_what_is_invisible(
    arguments: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is approved is what runs, so nothing of it may hide or act on the terminal."""
    monkeypatch.setattr("builtins.input", lambda: "o")
    call = PendingCall("pay", "c1", arguments, "digest", "because\x1b[2J")
    approval.decide([call], Console(width=100, markup=False, emoji=False, highlight=False))
    printed = capsys.readouterr().out
    assert shown in printed and "\x1b" not in printed
