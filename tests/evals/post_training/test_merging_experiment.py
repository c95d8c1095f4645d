"""Two skills merged: right answers are right to the verifiers, and the experiment goes on where it was stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from evals.post_training.merging import experiment
from evals.post_training.merging.experiment import STAGES, Sizes, run
from evals.post_training.merging.report import PICTURE, REPORT, write_report
from evals.post_training.merging.skills import SKILLS, TRAINING, Skill, held_back, skill_tasks, write_skill
from modelstack.data.examples import read_examples
from modelstack.errors import UserError
from modelstack.posttrain.stages.stage import open_stage
from modelstack.reasoning.tasks.verifier_choice import verifier_of
from modelstack.reasoning.verifiers.rewards import Completion
from tests.modelstack.sft.toy_sft import write_base

TINY = Sizes(n_training=6, n_held_back=3, epochs=1.0, rank=2)


@pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.name)
def test_what_is_learnt_is_right_and_is_not_asked(skill: Skill, tmp_path: Path) -> None:
    write_skill(skill, tmp_path, n_training=20, n_held_back=5, seed=3)
    asked = held_back(skill, tmp_path)
    learnt = list(read_examples(tmp_path / TRAINING))
    assert not {task.messages[-1].content for task in asked} & {each.messages[-1].content for each in learnt}
    verifier = verifier_of(skill.verifier)
    for line, task in zip(skill_tasks(skill, "held-back", 5, 3), asked, strict=True):
        assert verifier.score(task.item, Completion(skill.answer(line))).value == 1
        assert verifier.score(task.item, Completion(skill.answer(line) + "0")).value == 0


@pytest.mark.usefixtures("pictures_drawn_once")
def test_the_experiment_goes_on_and_is_held_to_its_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, out, console = write_base(tmp_path / "base"), tmp_path / "out", Console(quiet=True)
    measured = run(base, out, TINY, 0, console)
    assert [(each.name, each.kind) for each in measured[:3]] == [
        ("base", "base"),
        ("sums", "parent"),
        ("json", "parent"),
    ]
    assert [each.name for each in measured[3:]] == list(experiment.METHODS)
    assert {each.rewards["sums"].n for each in measured} == {3}
    child = open_stage(out / STAGES / "ties")
    assert [parent.name for parent in child.record.parents] == ["sums", "json"]
    monkeypatch.setattr(experiment, "served_reward", None)  # nothing is measured again
    assert run(base, out, TINY, 0, console) == measured
    report = write_report(measured, out / STAGES, out, "command", 0)
    assert "| ties | child |" in report and "dare" in report.split("```")[1]
    assert (out / PICTURE).is_file() and (out / REPORT).read_text(encoding="utf-8") == report
    with pytest.raises(UserError, match="holds another experiment"):
        run(base, out, TINY, 1, console)
