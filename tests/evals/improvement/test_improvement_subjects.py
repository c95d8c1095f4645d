"""Tasks of the measured subjects: their solutions are right on the real servers, and doing nothing is wrong."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentkit import Agent
from agentkit.improve import (
    BudgetLimits,
    ImprovementFolder,
    ImproveOptions,
    Pieces,
    Progress,
    Task,
    score_by_checks,
    without_world,
)
from agentkit.improve.budget import Ledger
from agentkit.improve.rollout import Outcome
from agentkit.improve.rollouts import Journal, Rollouts
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)
from agentkit.models.base import ModelRequestParameters
from agentkit.testing import FunctionModel, ScriptedModel
from agentkit.usage import RequestUsage
from evals.improvement import __main__ as measuring
from evals.improvement import society, workshop

SUBJECTS = measuring.SUBJECTS


def answered(task: Task, text: str) -> float:
    return score_by_checks(Outcome(task=task, status="completed", output=text)).value


def test_the_solutions_of_the_workshop_give_the_expected_answers(tmp_path: Path) -> None:
    workshop.build(tmp_path)
    with closing(sqlite3.connect(tmp_path / workshop.DATABASE)) as database:
        for task in workshop.tasks():
            [[value]] = database.execute(task.solution[0].arguments["sql"]).fetchall()
            assert answered(task, f"It is {value}.") == 1.0, task.prompt
            others = [v for (v,) in database.execute("select on_hand from stock_levels") if v != value]
            assert answered(task, f"It is {others[0]}.") == 0.0


def test_the_files_of_the_society_hold_the_expected_answers(tmp_path: Path) -> None:
    society.build(tmp_path)
    texts = {path.relative_to(tmp_path).as_posix(): path.read_text("utf-8") for path in tmp_path.rglob("*.md")}
    for task in society.tasks():
        own = task.solution[0].arguments["path"]
        assert [path for path, text in texts.items() if answered(task, text) == 1.0] == [own], task.prompt


@pytest.mark.parametrize("name", SUBJECTS)
def test_prompts_differ_and_groups_are_large_enough_to_be_split(name: str) -> None:
    tasks = SUBJECTS[name].tasks()
    assert len({task.prompt for task in tasks}) == len({task.id for task in tasks}) == len(tasks) >= 40
    assert min(Counter(task.group for task in tasks).values()) >= 10
    assert tasks == SUBJECTS[name].tasks(), "tasks are the same in each process"


def playing(tasks: Sequence[Task], *, needs: str = "", stopped_by: str = "\n") -> FunctionModel:
    """Return a model that solves tasks if the instructions contain one text and not another, else says nothing."""
    by_prompt = {task.prompt: task.solution[0] for task in tasks}

    def reply(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        first, last = messages[0], messages[-1]
        assert isinstance(first, ModelRequest) and isinstance(last, ModelRequest)
        system, asked = first.parts[0].text, last.parts[-1]
        if isinstance(asked, ToolReturnPart):
            return ModelResponse((TextPart(asked.text),), RequestUsage(1, 0, 1))
        if needs not in system or stopped_by in system:
            return ModelResponse((TextPart("Done."),), RequestUsage(2, 0, 2))
        call = by_prompt[asked.text]
        return ModelResponse((ToolCallPart(call.name, json.dumps(call.arguments)),), RequestUsage(1, 0, 1))

    return FunctionModel(reply, name="player")


@pytest.mark.anyio
@pytest.mark.parametrize("name", SUBJECTS)
async def test_a_solution_is_right_on_the_server_and_silence_is_wrong(name: Any, tmp_path: Path) -> None:
    SUBJECTS[name].build(tmp_path)
    task = SUBJECTS[name].tasks()[0]
    scores: list[float] = []
    for model in (playing([task]), ScriptedModel(["Done."])):
        agent = Agent(model, toolsets=[measuring.server(name, tmp_path)], taint_rule=False)
        journal = Journal(tmp_path / f"{model.name}.jsonl")
        rollouts = Rollouts(
            without_world(agent), score_by_checks, journal, Ledger(BudgetLimits(), 0), identity="x", timeout_s=60
        )
        [rollout] = await rollouts.of(Pieces(), [task])
        scores.append(rollout.score)
    assert scores == [1.0, 0.0]


@pytest.mark.anyio
@pytest.mark.parametrize("name", SUBJECTS)
async def test_demonstrations_ship_on_the_real_server_and_a_harmful_rule_is_refused_afterwards(
    name: Any, tmp_path: Path
) -> None:
    [rule] = measuring.HARMFUL.rules
    model = playing(SUBJECTS[name].tasks(), needs="Examples of requests", stopped_by=rule.text)
    options = ImproveOptions(budget=BudgetLimits(rollouts=100))
    shipped = await measuring.improved(name, model, tmp_path, options, None, Progress())
    assert shipped.pieces.demonstrations and shipped.verdict is not None and shipped.verdict.ships
    assert (shipped.verdict.current, shipped.verdict.candidate) == (0.0, 1.0)
    refused = await measuring.improved(name, model, tmp_path, options, measuring.HARMFUL, Progress())
    assert refused.verdict is not None and refused.verdict.gain == -1.0
    folder = ImprovementFolder(tmp_path)
    assert folder.index().accepted == shipped.number
