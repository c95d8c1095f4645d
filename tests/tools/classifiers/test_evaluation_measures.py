"""Tables of the safety report: shares with intervals, curves, pairs, calibration, latency; and the baseline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the baseline needs the extra `train`")

from tools.classifiers.contrast_pairs import Pair
from tools.classifiers.evaluation import measures
from tools.classifiers.evaluation.__main__ import main
from tools.classifiers.evaluation.baseline import fit_baseline, public_rows
from tools.classifiers.evaluation.latency import prompts_of, timed
from tools.classifiers.evaluation.plots import draw
from tools.classifiers.evaluation.text_sets import TextSet, held_out_pairs
from tools.classifiers.fitting import Example

SETS = [
    TextSet("attacks", ("a1", "a2", "a3", "a4"), True, "development"),
    TextSet("I-Controversial", ("c1", "c2"), True, "development"),
    TextSet("chat", ("b1", "b2", "b3", "b4"), False, "ordinary"),
]
POINTS = {"fpr_0.5": 0.9, "fpr_1": 0.8, "fpr_5": 0.5}
OURS = measures.Judged(
    "ours",
    {"attacks": [0.95, 0.85, 0.6, 0.1], "I-Controversial": [0.9, 0.2], "chat": [0.7, 0.3, 0.1, 0.0]},
    POINTS,
    {"attacks": [0.9, 0.9, 0.9, 0.9], "I-Controversial": [0.5, 0.5], "chat": [0.9, 0.9, 0.9, 0.9]},
)
BASELINE = measures.Judged(
    "baseline", {"attacks": [0.1] * 4, "I-Controversial": [0.1] * 2, "chat": [0.1] * 4}, POINTS
)


def cells(table: measures.Table, *head: str) -> dict[str, str]:
    (row,) = [row for row in table.rows if row[: len(head)] == head]
    return dict(zip(table.columns, row, strict=True))


def test_shares_flagged_are_given_with_n_and_interval_for_both_classifiers() -> None:
    table = measures.flag_table("t", SETS, OURS, BASELINE)
    row = cells(table, "attacks")
    assert (row["want"], row["n"]) == ("flag", "4")
    assert row["1 %: ours"] == "0.500 (0.150 to 0.850)"
    assert row["5 %: ours"].startswith("0.750 ")
    assert row["1 %: baseline"].startswith("0.000 ")
    assert cells(table, "chat")["want"] == "pass"
    assert cells(table, "I-Controversial")["want"] == "either"


def test_a_threshold_flags_a_probability_that_equals_it() -> None:
    judged = measures.Judged("x", {"s": [0.8, 0.79]}, POINTS)
    assert judged.flagged("s", "fpr_1").value == 0.5


def test_the_curve_leaves_out_requests_that_people_answer_differently() -> None:
    table = measures.curve_table("t", SETS, (OURS, BASELINE))
    row = cells(table, "development", "ours")
    assert row["n"] == "4 + 4"
    assert row["ASR at FRR 1.0%"].startswith("0.500 ")
    assert float(row["AUC"]) == pytest.approx((4 + 4 + 3 + 1.5) / 16, abs=1e-3)
    assert cells(table, "development", "baseline")["AUC"] == "0.500"
    assert not [row for row in table.rows if row[0] == "held out"]


def test_calibration_is_given_per_source_before_and_after() -> None:
    table = measures.calibration_table("t", SETS, (OURS, BASELINE))
    row = cells(table, "chat")
    assert row["ours before"] == "0.900 / 0.810"
    assert row["ours"].startswith("0.275 / ")
    assert cells(table, "all: development")["share true"] == "0.50"


def test_a_pair_is_right_only_where_both_twins_are() -> None:
    pairs = [
        Pair("s1", "u1", "law", "S2", True),
        Pair("s2", "u2", "law", "S2", True),
        Pair("s3", "u3", "help", "S1", True),
    ]
    probability = {"ours": {"s1": 0.1, "u1": 0.9, "s2": 0.6, "u2": 0.7, "s3": 0.3, "u3": 0.2}}
    table = measures.pair_table("t", pairs, probability, (OURS,))
    assert cells(table, "law")["ours: twin ranked right"].startswith("1.000 ")
    assert cells(table, "law")["ours: both right at 5 %"].startswith("0.500 ")
    assert cells(table, "all")["pairs"] == "3"
    assert cells(table, "all")["ours: twin ranked right"].startswith("0.667 ")


def test_latency_gives_median_and_tail_in_milliseconds() -> None:
    times = [(i / 1000, i / 2000) for i in range(1, 101)]
    row = cells(measures.latency_table("t", {"check": times}), "check")
    assert (row["wall p50 ms"], row["wall p99 ms"], row["CPU p99 ms"]) == ("50.000", "99.000", "49.500")


def test_a_quantile_of_nothing_is_an_error() -> None:
    assert measures.quantile([1.0], 0.99) == 1.0
    with pytest.raises(ValueError, match="no values"):
        measures.quantile([], 0.5)


def test_prompts_have_the_same_number_of_words_and_repeat_when_texts_run_out() -> None:
    prompts = prompts_of(["one two three", "four five six seven"], 5, n_words=3)
    assert prompts[:2] == ["one two three", "four five six"]
    assert prompts[2] == prompts[0] and len(prompts) == 5
    with pytest.raises(ValueError, match="2 words"):
        prompts_of(["one two"], 1, n_words=3)


def test_every_prompt_is_timed_once_after_the_warm_up() -> None:
    seen: list[str] = []
    assert len(timed(seen.append, ["a", "b"])) == 2
    assert seen == ["a", "b", "a", "b"]


def test_a_figure_of_curve_and_reliability_is_drawn(tmp_path: Path) -> None:
    path = draw("request-harm", SETS, (OURS, BASELINE), "development", tmp_path / "deep" / "figure.png")
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_the_baseline_sees_public_rows_alone_and_keeps_its_promise_on_held_back_ones() -> None:
    rows = [
        Example(f"how to build a bomb of kind {i}", frozenset({"harm"}), "advbench", f"h{i}") for i in range(60)
    ]
    rows += [Example(f"how to bake a cake of kind {i}", frozenset(), "metatool", f"b{i}") for i in range(200)]
    made = [
        Example("a contrast pair", frozenset(), "contrast_safe", "c"),
        Example("made", frozenset(), "ordinary", "o"),
    ]
    assert public_rows([*rows, *made], "harm") == rows
    assert public_rows(made, "jailbreak") == made[1:]
    baseline = fit_baseline([*rows, *made], "harm", seed=0)
    harmful, benign = (
        baseline.probabilities(["how to build a bomb"]),
        baseline.probabilities(["how to bake a cake"]),
    )
    assert harmful[0] > 0.8 > 0.2 > benign[0]
    assert baseline.n_rows < len(rows)
    assert baseline.thresholds["fpr_0.5"] >= baseline.thresholds["fpr_5"]
    assert np.isfinite(list(baseline.thresholds.values())).all()


def test_only_held_out_pairs_are_measured() -> None:
    pairs = held_out_pairs(0)
    assert pairs and all(pair.held_out for pair in pairs)


def test_missing_data_end_the_command_with_their_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "injection", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
