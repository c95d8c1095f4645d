"""A run's report: its figures are those of the records, its comparisons the plan's and the baselines'."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from modelstack.decide.outcome import compare
from modelstack.decide.plan_file import PlanRequest
from modelstack.decide.planner import plan
from modelstack.tokenizer.documents import is_held_out
from modelstack.train.evaluation import evaluate, held_out
from modelstack.train.loop import train
from modelstack.train.metrics import (
    EvaluationRecord,
    EventRecord,
    JsonLines,
    Measured,
    Metrics,
    SpentRecord,
    StartRecord,
    StepRecord,
)
from modelstack.train.run.baselines import Baseline
from modelstack.train.run.peak_memory import peak_memory
from modelstack.train.run.report import (
    DataFile,
    HeldOutResult,
    RunFacts,
    Speed,
    data_files,
    held_out_result,
    machine_facts,
    outcome_of,
    page,
    speed_of,
    time_by_cause,
    write_report,
)
from modelstack.train.utilisation import Peak, Utilisation
from tests.modelstack.train.toy_runs import TEXTS, toy_model, toy_run, toy_tokenizer

RESULT = HeldOutResult(
    bits_per_byte=1.5,
    low=1.4,
    high=1.6,
    loss=3.25,
    n_documents=40,
    n_bytes=90_000,
    n_tokens=30_000,
    fingerprint="f0",
)


def baseline(name: str, bits: float) -> Baseline:
    return Baseline(
        name=name, what="counts", bits_per_byte=bits, low=bits - 0.1, high=bits + 0.1, n_bytes=9, seconds=2
    )


def facts(**changes: Any) -> RunFacts:
    values: dict[str, Any] = {
        "name": "nano",
        "recipe": 'name = "nano"\nsteps = 3',
        "recipe_sha256": "abc123",
        "steps": 3,
        "model": {"layers": "6", "precision": "bf16"},
        "n_parameters": 1_000_000,
        "n_active": 1_000_000,
        "seeds": {"run": 7},
        "machine": {"processor": "x86_64, 2 cores"},
        "data": (
            DataFile(
                name="prose.jsonl",
                sha256="d1",
                n_documents=12,
                n_bytes=3456,
                n_held_out=2,
                licences={"CC0-1.0": 10, "MIT": 2},
            ),
        ),
        "held_out": RESULT,
        "baselines": (baseline("gzip", 3.0), baseline("5-gram", 2.25)),
        "speed": Speed(flops_per_token=2e6, plain_flops_per_token=3e6, peak_flops=9e10, peak_source="measured"),
        "peak_memory_bytes": 2_000_000_000,
    }
    return RunFacts(**values | changes)


def step(n: int, time: float, seconds: float, mfu: float, rejected: str = "") -> StepRecord:
    return StepRecord(
        step=n,
        time=time,
        n_tokens=100 * (n + 1),
        losses={"total": 4.0 - n},
        gradient_norm=1.0,
        learning_rates={"matrix": 1e-3},
        seconds=seconds,
        tokens_per_second=100 / seconds,
        mfu=mfu,
        rejected=rejected,
    )


def measured() -> Measured:
    evaluation = EvaluationRecord(
        step=1,
        time=1016.0,
        n_tokens=200,
        loss=3.0,
        bits_per_byte=2.0,
        low=1.9,
        high=2.1,
        n_documents=2,
        n_bytes=10,
        n_scored_tokens=4,
        seconds=3.0,
    )
    return Measured(
        steps=(step(0, 1005.0, 4.0, 0.3), step(1, 1010.0, 2.0, 0.6, "loss is nan"), step(2, 1060.0, 4.0, 0.5)),
        evaluations=(evaluation,),
        spent=(SpentRecord(step=1, time=1018.0, cause="samples", seconds=2.0),),
        events=(EventRecord(step=1, time=1018.0, text="step 1 skipped: loss | is nan"),),
        starts=(
            StartRecord(step=0, time=1000.0, began=1000.0),
            StartRecord(step=2, time=1050.0, began=1000.0, lost_steps=4, lost_seconds=12.0, down_seconds=20.0),
        ),
    )


def rows_of(text: str) -> dict[str, list[str]]:
    """Return the cells of all tables by their first cell."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0]: row[1:] for row in cells}


def test_the_time_on_the_clock_is_told_by_cause_and_adds_up() -> None:
    assert time_by_cause(measured()) == {
        "steps": 8.0,
        "rejected steps": 2.0,
        "evaluation": 3.0,
        "samples": 2.0,
        "steps taken again": 12.0,
        "nothing ran": 20.0,
        "data, checkpoints, the rest": 60.0 - 47.0,
    }
    assert time_by_cause(Measured()) == {}


def test_the_figures_of_the_page_are_those_of_the_records() -> None:
    rows = rows_of(page(facts(), measured()))
    assert rows["held-out bits per byte"] == ["**1.5000** (1.4000 to 1.6000, 95 %)"]
    assert rows["measured on"] == ["90,000 bytes of 40 documents"]
    assert rows["trained on"] == ["300 tokens in 3 steps"]
    assert rows["loss of the last step"] == ["2.0000"]
    assert rows["throughput"] == ["25 tokens per second (median of steps)"]
    # (0.3 * 4 + 0.6 * 2 + 0.5 * 4) / 10; the plain formula counts 3/2 of the FLOPs.
    assert rows["utilisation (MFU)"] == ["44.0% (66.0% by 6 N + 12 L d T)"]
    assert rows["of a peak of"] == ["90.0 GFLOP/s a device: measured"]
    assert rows["rejected steps"] == ["2.0", "3.3%"]
    assert rows["all"][0] == "60.0"
    assert rows["prose.jsonl"] == ["12", "2", "3,456", "CC0-1.0 (10), MIT (2)", "`d1`"]
    assert rows["processor"] == ["x86_64, 2 cores"]


def test_simpler_models_stand_in_order_beside_the_model() -> None:
    text = page(facts(), measured())
    assert rows_of(text)["gzip"] == ["3.0000", "2.9000 to 3.1000", "2.00x", "counts; 2.0 s"]
    assert text.index("| 5-gram |") < text.index("| gzip |")
    assert "no better" not in text
    assert "no better than the baseline '5-gram'" in page(
        facts(baselines=(baseline("5-gram", 1.4), baseline("gzip", 3.0))), measured()
    )


def test_an_interrupted_run_says_so_and_has_a_report_all_the_same() -> None:
    text = page(facts(held_out=None, baselines=(), speed=None, steps=1000), measured())
    assert "> **Note.** The run is not finished: 3 of 1,000 steps." in text
    assert "## Baselines" not in text
    assert "not finished" not in page(facts(), measured())
    assert "0 of 3 steps" in page(facts(held_out=None), Measured())


def test_events_cannot_break_their_table_and_losses_are_counted() -> None:
    text = page(facts(), measured())
    assert "| 1 | step 1 skipped: loss \\| is nan |" in text
    assert "1 steps rejected, 0 roll-backs; the run was started 2 times, and took 4 steps again." in text


def test_the_newest_samples_are_shown() -> None:
    samples = "# Samples\n\n## After 1 steps, 9 tokens\n\n    old\n\n## After 3 steps, 27 tokens\n\n    ## new\n"
    text = page(facts(), measured(), samples)
    assert "## Samples\n\n### After 3 steps, 27 tokens\n\n    ## new\n" in text
    assert "old" not in text.split("## Samples")[1]


def test_a_plan_is_compared_with_what_the_run_measured() -> None:
    decided = plan(PlanRequest(budget_flops=1e15))
    outcome = outcome_of(facts(), measured())
    assert (outcome.n_parameters, outcome.n_tokens, outcome.loss) == (1_000_000, 300, 3.25)
    assert outcome.hours == pytest.approx((60 - 20) / 3600)
    assert outcome.utilisation == pytest.approx(0.44)
    rows = rows_of(page(facts(), measured(), plan=decided).split("## Plan and outcome")[1].split("## ")[0])
    for row in compare(decided, outcome):
        assert rows[row.name] == [f"{row.planned:.4g}", f"{row.measured:.4g}", f"{row.ratio:.3f}"]


def test_files_are_described_by_their_hash_their_split_and_their_licences(tmp_path: Path) -> None:
    path = tmp_path / "prose.jsonl"
    texts = [f"text {n} é" for n in range(30)]
    records = [{"text": text, "license": "MIT"} if n % 3 else {"text": text} for n, text in enumerate(texts)]
    path.write_text("\n".join(map(json.dumps, records)) + "\n")
    (found,) = data_files([path], 0.2)
    assert found == DataFile(
        name="prose.jsonl",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        n_documents=30,
        n_bytes=sum(len(text.encode()) for text in texts),
        n_held_out=sum(is_held_out(text, 0.2) for text in texts),
        licences={"MIT": 20, "not stated": 10},
    )


def test_machine_and_memory_are_told_without_names() -> None:
    told = machine_facts(torch.device("cpu"))
    assert set(told) == {"processor", "system"}
    assert f"torch {torch.__version__}" in told["system"]
    assert 50e6 < peak_memory(torch.device("cpu")) < 1e12


def test_a_report_of_a_real_run_is_written_with_its_curves(tmp_path: Path) -> None:
    utilisation = Utilisation(1e6, Peak(1e9, "given"))
    metrics = Metrics([JsonLines(tmp_path / "metrics.jsonl")], utilisation)
    run = toy_run(3)
    run.hooks = {"metrics": metrics}
    list(train(run))
    metrics.close()
    documents = held_out(TEXTS, toy_tokenizer())
    score = evaluate(toy_model(), documents, 32)
    given = facts(held_out=held_out_result(score, documents), speed=speed_of(utilisation, 2e6))
    path = write_report(given, tmp_path, metrics_file=tmp_path / "metrics.jsonl")
    assert f"**{score.bits_per_byte:.4f}**" in path.read_text()
    assert documents.fingerprint in path.read_text()
    assert RunFacts.model_validate_json((tmp_path / "report.json").read_text()) == given
    curves = json.loads((tmp_path / "curves.json").read_text())
    assert curves["baselines"] == {"gzip": 3.0, "5-gram": 2.25}
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert math.isclose(given.held_out.loss, score.loss)  # pyright: ignore[reportOptionalMemberAccess]
