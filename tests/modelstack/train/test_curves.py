"""Curves: the numbers of a run's plots, from its metrics alone."""

import math
from pathlib import Path
from typing import Any

import pytest

from modelstack.stability.guard import Guard, GuardConfig
from modelstack.stability.run_checkpoints import LocalStore
from modelstack.stability.supervisor import GuardedRun, SupervisorConfig
from modelstack.train.curves import Curves, CurvesHook, curves_of, draw, smoothed, write_curves
from modelstack.train.loop import Run, train
from modelstack.train.metrics import EvaluationRecord, JsonLines, Measured, Metrics, StepRecord, read_metrics
from modelstack.train.step import StepReport
from tests.modelstack.train.toy_runs import toy_run

PNG = b"\x89PNG\r\n\x1a\n"


def step(n: int, loss: float, rejected: str = "") -> StepRecord:
    return StepRecord(
        step=n,
        n_tokens=n,
        losses={"total": loss},
        gradient_norm=loss,
        learning_rates={"matrix": 0.1 * n, "head": 1.0},
        seconds=1.0,
        tokens_per_second=1.0,
        rejected=rejected,
    )


def test_rejected_steps_are_marked_and_are_not_in_the_loss() -> None:
    curves = curves_of(
        Measured(steps=(step(0, 4.0), step(1, math.nan, "loss is nan"), step(2, 3.0))), {"gzip": 3.1}
    )
    assert curves.loss == ((1, 4.0), (3, 3.0))
    assert curves.gradient_norm == ((1, 4.0), (3, 3.0))
    assert curves.rejected == (2,)
    assert curves.learning_rates == {
        "matrix": ((1, 0.0), (2, 0.1), (3, 0.2)),
        "head": ((1, 1.0), (2, 1.0), (3, 1.0)),
    }
    assert curves.baselines == {"gzip": 3.1}


def test_the_average_has_no_bias_towards_its_start() -> None:
    assert [value for _, value in smoothed(((1, 5.0), (2, 5.0), (3, 5.0)))] == pytest.approx([5.0] * 3)
    # Two values: the newer has weight 1 - s, the older s (1 - s), over their sum.
    assert smoothed(((1, 1.0), (2, 4.0)), 0.5)[1][1] == pytest.approx((0.25 * 1 + 0.5 * 4) / 0.75)


def test_held_out_points_carry_their_interval() -> None:
    evaluation = EvaluationRecord(
        step=9,
        n_tokens=1,
        loss=1.0,
        bits_per_byte=2.0,
        low=1.8,
        high=2.3,
        n_documents=1,
        n_bytes=1,
        n_scored_tokens=1,
        seconds=1.0,
    )
    unknown = evaluation.model_copy(update={"bits_per_byte": None})
    assert curves_of(Measured(evaluations=(evaluation, unknown)), {}).held_out == ((10, 2.0, 1.8, 2.3),)


class Damage:
    """A hook that spoils the weights after a step, once."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, run: Run, report: StepReport) -> None:
        if report.step == self.step:
            for parameter in run.state.model.parameters():
                parameter.data.fill_(math.nan)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def test_a_guards_roll_back_is_a_line_of_the_plot(tmp_path: Path) -> None:
    run = toy_run(12)
    metrics = Metrics([JsonLines(tmp_path / "metrics.jsonl")])
    guard = Guard(GuardConfig(skips_in_a_row=2))
    run.supervisor = GuardedRun(guard, LocalStore(tmp_path), SupervisorConfig(save_every=2), metrics.event)
    run.hooks = {"metrics": metrics, "damage": Damage(4)}
    assert [bool(report.rejected) for report in train(run)] == [n in (5, 6) for n in range(12)]
    metrics.close()
    curves = curves_of(read_metrics(tmp_path / "metrics.jsonl"), {})
    assert (curves.rejected, curves.roll_backs) == ((6, 7), (7,))


def test_the_hook_draws_a_picture_and_its_numbers(tmp_path: Path) -> None:
    run = toy_run(4)
    metrics = Metrics([JsonLines(tmp_path / "metrics.jsonl")])
    hook = CurvesHook(tmp_path / "metrics.jsonl", tmp_path, every=3, metrics=metrics, baselines={"gzip": 3.0})
    run.hooks = {"metrics": metrics, "curves": hook}
    list(train(run))
    metrics.close()
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)
    measured = read_metrics(tmp_path / "metrics.jsonl")
    assert [(record.step, record.cause) for record in measured.spent] == [(2, "curves"), (3, "curves")]
    stored = Curves.model_validate_json((tmp_path / "curves.json").read_text())
    assert stored == curves_of(measured, {"gzip": 3.0})
    assert len(stored.loss) == 4


def test_a_run_without_a_sound_step_is_drawn_too(tmp_path: Path) -> None:
    metrics = Metrics([JsonLines(tmp_path / "metrics.jsonl")])
    metrics.add(step(0, math.nan, "loss is nan"))
    metrics.close()
    _, picture = write_curves(tmp_path / "metrics.jsonl", tmp_path / "plots")
    assert picture.read_bytes().startswith(PNG)


def test_all_marks_are_drawn(tmp_path: Path) -> None:
    curves = Curves(
        loss=((1, 4.0), (2, 3.0)),
        smoothed=((1, 4.0), (2, 3.5)),
        held_out=((2, 2.0, 1.8, 2.3),),
        gradient_norm=((1, 1.0), (2, 2.0)),
        learning_rates={"matrix": ((1, 0.1), (2, 0.2))},
        rejected=(2, 3),
        roll_backs=(3,),
        baselines={"gzip": 3.0, "5-gram": 2.5},
    )
    assert draw(curves, tmp_path / "a.png").read_bytes().startswith(PNG)


def test_the_same_numbers_are_drawn_once_unless_the_picture_is_missing(tmp_path: Path) -> None:
    metrics = Metrics([JsonLines(tmp_path / "metrics.jsonl")])
    metrics.add(step(0, 4.0))
    _, picture = write_curves(tmp_path / "metrics.jsonl", tmp_path)
    picture.write_bytes(b"kept")
    write_curves(tmp_path / "metrics.jsonl", tmp_path)
    assert picture.read_bytes() == b"kept"
    metrics.add(step(1, 3.0))
    metrics.close()
    for change in (lambda: None, picture.unlink):
        change()
        write_curves(tmp_path / "metrics.jsonl", tmp_path)
        assert picture.read_bytes().startswith(PNG)
