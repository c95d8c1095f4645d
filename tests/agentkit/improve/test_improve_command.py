"""`agentkit improve` from a file of tasks to an accepted version and back."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from agentkit import Agent, RewardEvent
from agentkit.errors import UserError
from agentkit.improve import cli
from agentkit.improve.tasks import SplitShares, split_tasks
from agentkit.testing import FunctionModel
from agentkit.tracing.jsonl import add_reward
from modelstack.data.examples import check_example, read_examples
from tests.agentkit.improve.shop_agent import follow_the_prompt, lookup, remove, shop_tasks

AGENT = """
from tests.agentkit.improve.shop_agent import shop_agent
agent = shop_agent()
def half(outcome): return 0.5
def has_number(outcome): return float('no item' not in outcome.answer)
"""


def run(*words: str) -> Result:
    app = typer.Typer()
    cli.register(app)
    app.command("other")(lambda: None)
    result = CliRunner().invoke(app, ["improve", *words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "improve_cli_app.py").write_text(AGENT, encoding="utf-8")
    lines = [task.model_dump_json() for task in shop_tasks()]
    (tmp_path / "tasks.jsonl").write_text("\n".join(lines), encoding="utf-8")
    yield tmp_path
    sys.modules.pop("improve_cli_app", None)


RUN = ("run", "improve_cli_app.py:agent", "--tasks", "tasks.jsonl", "--out", "better", "budget.rollouts=100")


def test_run_show_and_roll_back(place: Path) -> None:
    ran = run(*RUN)
    assert ran.exit_code == 0 and "shipped: version 1" in ran.stdout
    assert 'table="produce_v2"' in ran.stdout and "held-back tasks" in ran.stdout
    shown = json.loads(run("show", "better", "--json").stdout)
    assert shown["accepted"] == 1 and shown["version"]["verdict"]["gain"] == 1.0
    assert "shipped" in run("show", "better").stdout
    assert "the agent as declared" in run("rollback", "better").stdout
    assert "the agent is as declared" in run("show", "better").stdout
    assert "+0.000" not in run("show", "better", "--version", "1").stdout
    assert "version 1" in run("rollback", "better", "--to", "1").stdout


def test_examples_for_an_adapter_come_from_training_tasks_alone(place: Path) -> None:
    ran = run(
        "examples", "improve_cli_app.py:agent", "-t", "tasks.jsonl", "-o", "examples.jsonl", "--license", "own"
    )
    assert "12 examples of 12 training tasks" in ran.stdout
    train = split_tasks(shop_tasks(), SplitShares(), seed=0).train
    found = list(read_examples(place / "examples.jsonl"))
    assert {each.id for each in found} == {task.id for task in train}
    for each in found:
        check_example(each)
    assert found[0].messages[0].role == "system" and found[0].calls[0].name == "lookup"


def test_traces_alone_make_a_version_that_waits_and_yes_ships_it(place: Path) -> None:
    seller = Agent(
        FunctionModel(follow_the_prompt, name="follower"),
        tools=[lookup, remove],
        instructions='Look in table="produce_v2".',
        trace=place / "traces",
    )
    for number in range(40):
        result = seller.run_sync(f"What does item {number} cost in produce_v2?")
        add_reward(place / "traces" / f"{result.run_id}.jsonl", RewardEvent(1.0, "person"))
    words = ("run", "improve_cli_app.py:agent", "--traces", "traces", "budget.rollouts=100")
    right = ("--scorer", "improve_cli_app.py:has_number")
    waiting = run(*words, *right, "--out", "a")
    assert "40 traces used, left out: none" in waiting.stderr
    assert "version 1 waits for a review" in waiting.stdout and 'table="produce_v2"' in waiting.stdout
    assert json.loads(run("show", "a", "--json").stdout)["accepted"] == 0
    assert "shipped: version 1" in run(*words, *right, "--out", "b", "--yes").stdout
    assert "accepted: version 1" in run("accept", "a").stdout


def test_the_gate_alone_compares_a_model(place: Path) -> None:
    with pytest.raises(UserError, match="nothing-like-this"):
        run(
            "gate",
            "improve_cli_app.py:agent",
            "--tasks",
            "tasks.jsonl",
            "-o",
            "better",
            "-m",
            "local:nothing-like-this",
        )


def test_a_scorer_is_named_and_its_absence_reported(place: Path) -> None:
    ran = run(*RUN, "--scorer", "improve_cli_app.py:half", "search.rounds=1")
    assert "no candidate was better" in ran.stdout
    with pytest.raises(UserError, match="has no 'third'"):
        run(*RUN, "--scorer", "improve_cli_app.py:third")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "improve_cli_app.py:agent", "-o", "x"), "nothing to learn from"),
        ((*RUN, "--world", "."), "belong together"),
        ((*RUN, "budget.rollout=3"), "rollouts"),
        ((*RUN, "search.operators=['jump']"), "unknown operators"),
        (("show", "none"), "has no improvement.json"),
        (("rollback", "none"), "has no improvement.json"),
    ],
)
def test_mistakes_are_named(place: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        run(*words)


def test_keys_are_listed(place: Path) -> None:
    assert "max_cost_increase" in run("run", "--keys").stdout
