"""`agentkit eval` and `agentkit compare` as a user meets them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentkit.cli.main import app
from agentkit.testing import FunctionModel
from evals.harness import evaluation
from evals.harness.suite import SUITES, find_suite

Agentkit = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def agentkit(monkeypatch: pytest.MonkeyPatch, adder: FunctionModel) -> Agentkit:
    """Run `agentkit ARGUMENTS` with the adder as every model."""
    monkeypatch.setattr(evaluation, "find_model", lambda name, suite: adder)
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        result = CliRunner().invoke(app, arguments)
        return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)

    return run


def test_a_table_shows_n_score_interval_failures_seconds_and_tokens(agentkit: Agentkit, tmp_path: Path) -> None:
    done = agentkit("eval", "sums", "-o", "trouble=sum_0", "--limit", "4", "--log-dir", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    headings = ["group", "n", "score", "95_percent_interval", "failed", "s_case", "tokens_case"]
    assert done.stdout.splitlines()[1].split("\t")[: len(headings)] == headings
    assert "0.500" in done.stdout and "0.150 to 0.850" in done.stdout
    assert "sum_0 failed: OSError: no sums today: sum_0" in done.stderr
    assert "inspect view --log-dir" in done.stderr
    assert done.stderr.splitlines()[0].startswith("results in ")


def test_two_runs_compare(agentkit: Agentkit, tmp_path: Path) -> None:
    agentkit("eval", "sums", "--log-dir", str(tmp_path / "a"))
    agentkit("eval", "sums", "-o", "trouble=sum_0", "--log-dir", str(tmp_path / "b"))
    done = agentkit("compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert done.returncode == 0, done.stderr
    assert "-0.167" in done.stdout and "only_first" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eval", "summs"), "nearest: 'sums'"),
        (("eval", "sums", "-o", "n"), "write KEY=VALUE"),
        (("eval", "sums", "-o", "m=3"), "no option 'm'"),
        (("compare", "nowhere", "nowhere"), "summary.json is missing"),
    ],
)
def test_what_is_asked_wrongly_ends_in_one_line(
    agentkit: Agentkit, arguments: tuple[str, ...], message: str
) -> None:
    done = agentkit(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_list_names_every_suite_with_its_options(agentkit: Agentkit) -> None:
    done = agentkit("eval")
    assert done.returncode == 0, done.stderr
    for name in SUITES:
        assert name in done.stdout
        for key in find_suite(name).options:
            assert f"{key}=" in done.stdout
