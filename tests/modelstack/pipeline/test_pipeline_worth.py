"""Table of what each step was worth: differences with their intervals, and verdicts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelstack.pipeline.measuring import BITS, FOLDER, RIGHT_WITH_GRAMMAR, Evaluated, share
from modelstack.pipeline.steps import BY_NAME
from modelstack.pipeline.worth import ALIGN_FILE, ALONE, GUARDED, THROUGH, Worth, share_difference, worth_of_steps
from modelstack.posttrain.stages.record import Measurement


def evaluated(step: str, n_right: int, bits: tuple[float, ...]) -> Evaluated:
    n_bytes = tuple(100 for _ in bits)
    figure = Measurement(name=BITS, value=sum(bits) / sum(n_bytes), low=0, high=9, n=len(bits))
    right = share(RIGHT_WITH_GRAMMAR, n_right, 60)
    return Evaluated(key="", step=step, figures=(figure, right), samples=(), bits=bits, n_bytes=n_bytes)


def run_with(folder: Path, *several: Evaluated) -> Path:
    (folder / FOLDER).mkdir()
    for each in several:
        file = folder / FOLDER / f"{BY_NAME[each.step].folder}.json"
        file.write_text(each.model_dump_json(), encoding="utf-8")
    return folder


def row(found: list[Worth], step: str, figure: str) -> Worth:
    return next(each for each in found if (each.step, each.figure) == (step, figure))


def test_the_difference_of_shares_has_the_interval_of_newcombes_paper() -> None:
    # Newcombe (1998, Statistics in Medicine 17:873-890), table II, method 10: 56/70 - 48/80.
    found = share_difference(share("x", 48, 80), share("x", 56, 70))
    assert found == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    assert share_difference(Measurement(name="x", value=0.5, n=2), share("x", 1, 2)) is None


def test_a_step_is_compared_with_the_model_before_it_whichever_step_made_that(tmp_path: Path) -> None:
    path = run_with(tmp_path, evaluated("train", 0, (200.0,)), evaluated("reasoning", 30, (200.0,)))
    found = row(worth_of_steps(path), "reasoning", RIGHT_WITH_GRAMMAR)
    assert (found.compared, found.before, found.after) == ("train, reasoning", 0.0, 0.5)
    assert found.verdict == "better" and found.cases == "60 cases"


def test_bits_are_compared_by_document_so_a_small_loss_in_each_is_seen(tmp_path: Path) -> None:
    bits = tuple(100.0 + 10 * number for number in range(40))
    more = tuple(value + 1 for value in bits)
    path = run_with(tmp_path, evaluated("sft", 30, bits), evaluated("inference", 31, more))
    found = worth_of_steps(path)
    lost = row(found, "inference", BITS)
    assert lost.difference == pytest.approx((0.01, 0.01, 0.01))
    assert lost.verdict == "worse"
    assert row(found, "inference", RIGHT_WITH_GRAMMAR).verdict == ""


def test_small_trainings_are_compared_seed_by_seed(tmp_path: Path) -> None:
    file = tmp_path / BY_NAME["tokenizer"].folder / "comparison" / "comparison.json"
    file.parent.mkdir(parents=True)
    pair = {"names": "raw pages, kept pages", "before": [3.0, 3.2, 3.1], "after": [2.9, 3.1, 3.0], "steps": 9}
    file.write_text(
        json.dumps([pair, {**pair, "names": "one", "before": [3.0], "after": [2.0]}]), encoding="utf-8"
    )
    data, tokenizer = worth_of_steps(tmp_path)
    assert data.difference == pytest.approx((-0.1, -0.1, -0.1)) and data.cases == "3 seeds"
    assert data.verdict == "better"
    assert tokenizer.difference is None and tokenizer.verdict == "" and tokenizer.cases == "1 seed"


def test_the_guard_is_compared_with_the_model_alone(tmp_path: Path) -> None:
    file = tmp_path / BY_NAME["align"].folder / ALIGN_FILE
    file.parent.mkdir(parents=True)
    figures = [share(f"{THROUGH}, {ALONE}", 40, 48), share(f"{THROUGH}, {GUARDED}", 4, 48)]
    file.write_text(json.dumps([each.model_dump() for each in figures]), encoding="utf-8")
    (found,) = worth_of_steps(tmp_path)
    assert (found.figure, found.verdict, found.cases) == (THROUGH, "better", "48 requests")
