"""Costs on the command line: shown where usage is shown, limited with --cost-limit, kept for `resume`."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agentkit.cli.cards import cost_text
from agentkit.cli.options import AgentOptions
from agentkit.testing import call
from agentkit.usage import RequestUsage, RunUsage, dollars_text
from tests.agentkit.hosted_models import OWN_SERVER, HostedModel, asked, said

Run = Callable[..., Any]
USAGE = RequestUsage(4_000, 0, 0)
"""Costs one cent with gpt-4o."""


def answered_by(monkeypatch: pytest.MonkeyPatch, model: HostedModel) -> None:
    monkeypatch.setattr("agentkit.models.resolve.resolve_model", lambda _name, **_: model)


def test_the_cost_stands_in_the_line_of_usage(agentkit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    answered_by(monkeypatch, HostedModel([said("hi", USAGE, "gpt-4o")]))
    done = agentkit("run", "x", "--model", "test")
    assert done.returncode == 0 and "4,000 tokens in · 0 out · $0.0100 · " in done.stderr
    answered_by(monkeypatch, HostedModel([said("hi", USAGE, "gpt-4o")]))
    usage = json.loads(agentkit("run", "x", "--model", "test", "--json").stdout)["usage"]
    assert (usage["cost"], usage["known_cost"]) == ("0.01", "0.01")


def test_a_model_without_price_is_named(agentkit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    answered_by(monkeypatch, HostedModel([said("hi", USAGE, "own")], "own", OWN_SERVER))
    done = agentkit("run", "x", "--model", "test")
    assert done.returncode == 0 and "cost unknown (no price of 'own')" in " ".join(done.stderr.split())


def test_a_limit_ends_a_run_with_exit_status_3(
    agentkit: Run, server: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    echo = asked(call("echo"), USAGE, "gpt-4o")
    answered_by(monkeypatch, HostedModel([echo, said("done", USAGE, "gpt-4o")]))
    done = agentkit(
        "run", "x", "--model", "test", "--mcp", server("echo"), "--ask", "none", "--cost-limit", "0.01", "--json"
    )
    report = json.loads(done.stdout)
    assert (done.returncode, report["status"], report["output"]) == (3, "limit_reached", "done")
    assert report["usage"]["cost"] == "0.02"


def test_a_limit_refuses_a_model_without_price(agentkit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model = HostedModel(["never"], "own", OWN_SERVER)
    answered_by(monkeypatch, model)
    done = agentkit("run", "x", "--model", "test", "--cost-limit", "0.02")
    assert done.returncode == 1 and "the price of model 'own' is not known" in done.stderr and not model.calls


def test_a_chat_shows_its_cost_and_has_the_limit(agentkit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    answered_by(monkeypatch, HostedModel([said("hi", USAGE, "gpt-4o")] * 2))
    done = agentkit("chat", "--model", "test", "--cost-limit", "1", stdin="hello\nand?\n/usage\n/quit\n")
    assert done.returncode == 0 and "8,000 tokens in · 0 out · $0.0200" in done.stderr
    model = HostedModel(["never"], "own", OWN_SERVER)
    answered_by(monkeypatch, model)
    done = agentkit("chat", "--model", "test", "--cost-limit", "1", stdin="hello\n/quit\n")
    assert "the price of model 'own' is not known" in " ".join(done.stderr.split()) and not model.calls


def test_a_limit_is_kept_with_the_run() -> None:
    options = AgentOptions("test", cost_limit=0.25)
    assert AgentOptions.from_metadata(options.to_metadata(), Path("runs.db")).cost_limit == 0.25
    without = AgentOptions("test")
    assert AgentOptions.from_metadata(without.to_metadata(), Path("runs.db")).cost_limit is None


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "$0.00"),
        ("0.01", "$0.0100"),
        ("0.00123", "$0.0012"),
        ("0.0000013", "$0.0000013"),
        ("1.239", "$1.24"),
        ("12345.6", "$12,345.60"),
    ],
)
def test_amounts_are_read_easily(amount: str, text: str) -> None:
    assert dollars_text(Decimal(amount)) == text


@pytest.mark.parametrize(
    ("usage", "text"),
    [
        (RunUsage(requests=3), None),
        (RunUsage(requests=1, priced_requests=1, known_cost=Decimal(0)), None),
        (RunUsage(requests=1, priced_requests=1, known_cost=Decimal("0.5")), "$0.5000"),
        (
            RunUsage(requests=2, priced_requests=1, known_cost=Decimal("0.5"), unpriced_models=("a", "b\x1b[31m")),
            "more than $0.5000 (no price of 'a', ",
        ),
    ],
)
def test_a_cost_that_is_not_complete_says_so(usage: RunUsage, text: str | None) -> None:
    """A free model and a run of a version without costs are silent; names of servers are made harmless."""
    told = cost_text(usage)
    assert (
        told == text if text is None or told is None or len(usage.unpriced_models) == 0 else told.startswith(text)
    )
    assert told is None or "\x1b" not in told
