"""Tables, plots, warnings and ratios of benchmark records, from figures that were not measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="needs matplotlib (extra `evals`)")

from agentkit.errors import UserError
from evals.speed.comparing import against_earlier, differences, read_records
from evals.speed.machine import Load, Machine
from evals.speed.plots import draw_all, number, spread
from evals.speed.report import conditions_table, report_markdown, tables_of, warnings_of
from evals.speed.results import BenchmarkResult, Comparison, Curves, Figure
from evals.speed.running import Record

MACHINE = Machine("a CPU", 2, "performance", 16.0, "Linux", "3.11.7", {"numpy": "2.0"}, "abc")
QUIET = Load("2026-01-01T00:00:00+00:00", (0.1, 0.1, 0.1), 0.01)
RESULT = BenchmarkResult(
    figures=(
        Figure("time", 3.0, "ms", 2.5, 3.5, bound=2.0),
        Figure("share", 0.7, "", bound=0.5, bound_kind="at least"),
    ),
    comparisons=(Comparison("time", "ms", "agentkit", {"agentkit": 3.0, "peer": 6.0}),),
    curves=(Curves("growth", "steps", "time (ms)", (1.0, 2.0), {"agentkit": (1.0, 1.0), "peer": (2.0, 90.0)}),),
    parameters={"seed": "7"},
)


def record(result: BenchmarkResult | None = RESULT, **changes: Any) -> Record:
    made = Record(
        benchmark="fake", status="bound broken", arguments=(), quick=False, result=result, machine=MACHINE,
        before=QUIET, after=QUIET, wall_s=1.0, exit_code=1, environment={}, tail=("last line",),
    )  # fmt: skip
    return replace(made, **changes)


def test_tables_hold_values_intervals_bounds_and_ratios() -> None:
    figures, comparison = tables_of(record())
    assert figures.rows == (
        ("time", "3 (2.5 to 3.5) ms", "at most 2", "BROKEN"),
        ("share", "0.7", "at least 0.5", "ok"),
    )
    assert comparison.rows == (("agentkit", "3", "1"), ("peer", "6", "2"))


def test_the_conditions_name_machine_load_and_commit() -> None:
    (row,) = conditions_table([record(after=replace(QUIET, average=(1.5, 0.2, 0.1)))]).rows
    assert row[1] == "a CPU, 2 cores, 16 GiB, governor performance, Linux"
    assert row[2] == "Python 3.11.7; numpy 2.0"
    assert row[3:5] == ("seed 7", "0.1 to 1.5")
    assert row[7:] == ("abc", QUIET.time)
    hidden = record(machine=replace(MACHINE, governor=None))
    assert "governor not readable" in conditions_table([hidden]).rows[0][1]


def test_warnings_name_what_makes_figures_doubtful() -> None:
    assert warnings_of([record()], {}) == []
    busy = record(after=replace(QUIET, busy_share=0.6))
    assert ["60%" in line for line in warnings_of([busy], {})] == [True]
    other = record(quick=True, machine=replace(MACHINE, commit="def"))
    short, commits = warnings_of([record(), other], {})
    assert "short runs" in short
    assert "different commits" in commits


def test_a_failed_benchmark_has_its_last_lines_and_no_plots(tmp_path: Path) -> None:
    failed = record(None, status="failed")
    assert tables_of(failed) == []
    assert draw_all([failed], tmp_path) == {}
    assert "## fake failed\n\nExit code 1. The last lines:\n\n```text\nlast line\n```" in report_markdown(
        [failed], {}, {}, tmp_path
    )


def test_an_earlier_record_gives_ratios_of_what_both_have() -> None:
    before = BenchmarkResult(
        figures=(Figure("time", 2.0, "ms"), Figure("share", 70.0, "%"), Figure("gone", 1.0, "ms")),
        comparisons=(Comparison("time", "ms", "agentkit", {"agentkit": 2.0, "peer": 0.0}),),
    )
    table = against_earlier(record(), record(before))
    assert table.title == "fake: against 2026-01-01, abc"
    assert table.rows == (
        ("time", "2 ms", "3 ms", "1.50"),
        ("time: agentkit", "2 ms", "3 ms", "1.50"),
        ("time: peer", "0 ms", "6 ms", ""),
    )
    assert against_earlier(record(None), record()).rows == ()


def test_what_differs_besides_the_code_is_named() -> None:
    assert differences(record(), record()) == []
    other = replace(MACHINE, cpu="another CPU", packages={"numpy": "2.1", "pydantic": "2"}, commit="def")
    before = record(replace(RESULT, parameters={"seed": "8"}), machine=other, quick=True)
    assert differences(before, record()) == ["cpu", "numpy", "pydantic", "one is a short run", "seed"]
    (warning,) = warnings_of([record()], {"fake": replace(before, quick=False)})
    assert warning == "Warning: fake was measured under other conditions before: cpu, numpy, pydantic, seed."


def test_a_folder_without_records_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="holds no results of benchmarks"):
        read_records(tmp_path)
    with pytest.raises(UserError, match=r"missing\.json holds no results"):
        read_records(tmp_path / "missing.json")


def test_plots_are_drawn_anew_and_have_ink(tmp_path: Path) -> None:
    from matplotlib.image import imread

    (tmp_path / "fake-old-title.png").write_bytes(b"")
    far = replace(RESULT, comparisons=(Comparison("far", "ms", "agentkit", {"agentkit": 0.01, "peer": 6.0}),))
    paths = draw_all([record(far)], tmp_path)["fake"]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert [path.name for path in paths] == ["fake-far.png", "fake-growth-along-steps.png"]
    for path in paths:
        image = imread(path)
        assert image.shape[1] == 8 * 150
        assert 0.005 < (image[..., :3].min(axis=-1) < 0.9).mean() < 0.5


def test_numbers_are_written_as_people_write_them() -> None:
    shown = [number(value) for value in (0, 0.00425, 0.305, 1.07, 24.48, 121.9, 3696, 2.5e9)]
    assert shown == ["0", "0.00425", "0.305", "1.07", "24.5", "122", "3,696", "2.5e+09"]


def test_labels_that_would_cover_each_other_move_apart_around_their_middle() -> None:
    moved = spread({"a": 0.50, "b": 0.52, "c": 0.9}, 0.06)
    assert moved == {"a": pytest.approx(0.48), "b": pytest.approx(0.54), "c": pytest.approx(0.9)}
    heights = spread(dict.fromkeys("abcd", 0.5), 0.1)
    assert sorted(heights.values()) == pytest.approx([0.35, 0.45, 0.55, 0.65])
