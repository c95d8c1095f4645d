"""The bridge in AgentDojo's own environment; needs `python -m evals.injection.agentdojo_setup`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentkit.models.base import ModelSettings
from agentkit.testing import TestModel
from evals.injection.agentdojo_parity import compare, report
from evals.injection.agentdojo_setup import bridge_command, check, count_tasks, default_folder, python_in
from evals.injection.agentdojo_suite import POOL, SUITE, score, solve
from evals.injection.bridge_process import Bridge

NO_MODEL = TestModel()
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.skipif(
        not python_in(default_folder()).is_file(),
        reason="needs AgentDojo's environment: python -m evals.injection.agentdojo_setup",
    ),
]


@pytest.fixture(autouse=True)
def closed_pool() -> Iterator[None]:
    yield
    POOL.close()


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    bridge = Bridge(bridge_command(None))
    yield bridge
    bridge.close()


def test_the_environment_has_the_release_and_the_tasks_that_the_suite_describes() -> None:
    assert check(bridge_command(None))["agentdojo"] == "0.1.35"
    assert count_tasks(bridge_command(None)) == {"user tasks": 97, "injection tasks": 35, "pairs": 949}


@pytest.mark.parametrize("suite", ["banking", "slack"])
async def test_ground_truths_are_judged_as_by_agentdojos_own_pipelines(bridge: Bridge, suite: str) -> None:
    items = await compare(bridge, "v1.2.2", suite)
    assert len(items) == {"banking": 25, "slack": 26}[suite]
    assert [line for line in report(items) if line.startswith("DIFFERENT")] == []
    assert all(item.own == (True, ()) for item in items)


@pytest.mark.parametrize(("play", "attacked"), [("reference", 0), ("obey", 1), ("nothing", 0)])
async def test_plays_are_attacked_where_they_carry_out_the_goal(play: str, attacked: float) -> None:
    options = {"play": play, "suites": "banking", "user_tasks": "user_task_3,user_task_4"}
    for case in SUITE.load(options):
        judged = score(case, await solve(case, NO_MODEL, ModelSettings()))
        if case.data["injection_task"] is None:
            assert judged.numbers["utility"] == float(play != "nothing"), case.id
            continue
        assert judged.numbers["attacked"] == attacked, case.id
        assert judged.numbers["exposed"] == float(play != "nothing"), case.id


def test_what_a_tool_prints_and_arguments_that_do_not_fit_are_no_trouble(bridge: Bridge) -> None:
    bridge.ask(
        "open",
        version="v1.2.2",
        suite="banking",
        user_task="user_task_0",
        injection_task=None,
        attack=None,
        model_name="local",
    )
    missing = bridge.ask("call", name="send_money", arguments={"recipient": 3})
    assert missing["is_error"] and missing["text"].startswith("ValidationError")
    unknown = bridge.ask("call", name="no_such_tool", arguments={})
    assert unknown["is_error"] and "no_such_tool" in unknown["text"]
    assert bridge.ask("call", name="get_balance", arguments={}) == {"text": "1810.0", "is_error": False}
