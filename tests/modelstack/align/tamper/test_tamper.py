"""The tamper report: refusals of a tiny model as it is, without its direction, and after a short fine-tuning."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch", reason="needs torch (extra `train`)")

from modelstack.align.guard_training.rows import GuardRow, Turn
from modelstack.align.guards.assess import assess_request
from modelstack.align.release.figures import read_results
from modelstack.align.tamper.plan import TamperPlan, compliance_rows
from modelstack.align.tamper.report import AS_IT_IS, drawn, tamper_results
from modelstack.cli import app
from modelstack.errors import UserError
from modelstack.posttrain.starting_point import starting_point
from tests.modelstack.align.release.releases import toy_adapter
from tests.modelstack.sft.toy_sft import write_base

SMALL = TamperPlan(n_direction=0, n_asked=3, steps=2, rows=2, rank=2, threads=1)


def rows(n: int = 8) -> list[GuardRow]:
    draw = random.Random(0)
    return [
        GuardRow(
            id=f"{unsafe}-{number}",
            turns=(Turn(role="user", content="".join(draw.choices("abcdefg", k=9))),),
            unsafe=unsafe,
            source="toy",
            license="CC0-1.0",
        )
        for unsafe in (True, False)
        for number in range(n)
    ]


def test_a_report_has_both_kinds_of_requests_in_each_state(tmp_path: Path) -> None:
    start = starting_point(write_base(tmp_path / "base"))
    found = tamper_results(start, rows(), SMALL, "0" * 64, lambda name, done, total: None)
    names = [(each.part, each.name, each.n) for each in found.figures]
    assert names == [
        (part, f"{kind} requests refused, {state}", 3)
        for part, state in (("refusals", AS_IT_IS), ("tamper", "after 2 LoRA steps on harmless rows"))
        for kind in ("harmful", "harmless")
    ]
    assert found.notes == {"tamper": ("The direction was not projected out: none was searched",)}
    assert [each.better for each in found.figures] == ["higher", "lower", "higher", "neither"]


def test_the_same_seed_draws_the_same_requests_and_few_are_refused() -> None:
    assert drawn(rows(), SMALL) == drawn(rows(), SMALL)
    assert drawn(rows(), SMALL) != drawn(rows(), SMALL.model_copy(update={"seed": 1}))
    with pytest.raises(UserError, match="2 harmful requests; 0 for the direction and 3 to answer are needed"):
        drawn(rows(2), SMALL)


def test_the_rows_of_the_fine_tuning_are_harmless() -> None:
    assert len(compliance_rows()) >= 20
    for row in compliance_rows():
        assert assess_request(row.messages[0].content).flagged_at == (), row.messages[0].content
        assert row.reply is not None and row.reply.startswith("Of course. ")


def test_the_command_measures_an_adapter_and_writes_results(tmp_path: Path) -> None:
    stage, _ = toy_adapter(tmp_path)
    (tmp_path / "rows.jsonl").write_text("".join(f"{row.model_dump_json()}\n" for row in rows()), encoding="utf-8")
    arguments = ["release", "tamper", str(stage.path), "--rows", str(tmp_path / "rows.jsonl")]
    options = ["--out", str(tmp_path / "r.json"), "--n", "0", "--replies", "2", "--steps", "1", "--threads", "1"]
    result = CliRunner().invoke(app, [*arguments, *options])
    assert result.exit_code == 0, result.output
    found = read_results(tmp_path / "r.json")
    assert found.weights_sha256 == stage.record.files["adapter.gguf"].sha256
    assert {each.part for each in found.figures} == {"refusals", "tamper"}
