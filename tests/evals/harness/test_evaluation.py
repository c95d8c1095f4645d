"""An evaluation through Inspect: nothing is lost, nothing counts twice, errors are failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.log import read_eval_log

from agentkit.errors import UserError
from agentkit.messages import ModelResponse
from agentkit.testing import FunctionModel
from evals.harness.evaluation import Evaluation, evaluate
from evals.harness.inspect_task import RUN_KEY
from evals.harness.journal import JOURNAL_FILE, Journal, read_journal
from evals.harness.results import RESULTS_FILE, read_rows
from evals.harness.specification import Specification

SUMS = Specification("sums", "function")


def values(done: Evaluation) -> dict[str, float]:
    return {s.run.case_id: s.score.value for s in done.scored}


def test_every_case_is_scored_and_summed_up_by_group(tmp_path: Path, adder: FunctionModel) -> None:
    done = evaluate(SUMS, tmp_path, model=adder)
    assert values(done) == {f"sum_{i}": float(i != 3) for i in range(6)}
    assert [(line.group, line.score.n, line.score.value) for line in done.lines] == [
        ("even", 3, 1.0),
        ("odd", 3, pytest.approx(2 / 3)),
        ("all", 6, pytest.approx(5 / 6)),
    ]
    assert [row["value"] for row in read_rows(tmp_path)] == list(values(done).values())
    assert done.lines[-1].numbers == {"length": pytest.approx(7 / 6)}


def test_a_row_with_line_ends_of_other_alphabets_is_one_row(tmp_path: Path) -> None:
    row = {"reply": "a\u0085b\u2028c"}
    (tmp_path / RESULTS_FILE).write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_rows(tmp_path) == [row]


def test_the_inspect_log_holds_conversation_score_and_run(tmp_path: Path, adder: FunctionModel) -> None:
    log = read_eval_log(str(evaluate(SUMS, tmp_path, model=adder).log))
    assert log.status == "success"
    assert log.samples is not None and len(log.samples) == 6
    sample = next(s for s in log.samples if s.id == "sum_3")
    assert [m.role for m in sample.messages] == ["user", "assistant"]
    assert sample.output.completion == "0"
    assert sample.scores is not None
    assert (sample.scores["sums"].value, sample.scores["sums"].answer) == (0.0, "0")
    assert json.loads(sample.store[RUN_KEY])["case_id"] == "sum_3"
    assert log.results is not None
    metrics = {name: m.value for s in log.results.scores for name, m in s.metrics.items()}
    assert metrics["mean"] == pytest.approx(5 / 6)
    assert metrics["odd"] == pytest.approx(2 / 3)


def test_errors_and_time_outs_are_failures_and_stay_in_the_mean(tmp_path: Path, adder: FunctionModel) -> None:
    trouble = replace(SUMS, options={"trouble": "sum_0,sum_1", "slow": "sum_2"})
    done = evaluate(trouble, tmp_path, model=adder)
    status = {s.run.case_id: s.run.status for s in done.scored}
    assert (status["sum_0"], status["sum_2"]) == ("failed", "timed_out")
    total = done.lines[-1]
    assert (total.n_failed, total.score.n, total.score.value) == (3, 6, pytest.approx(2 / 6))
    assert "no sums today: sum_0" in (done.scored[0].run.error or "")


def test_what_failed_is_run_again_only_when_asked(tmp_path: Path, adder: FunctionModel) -> None:
    calls: list[str] = []

    def flaky(messages: object, parameters: object) -> ModelResponse:
        calls.append("")
        raise OSError("down")

    evaluate(SUMS, tmp_path, model=FunctionModel(flaky))
    assert len(calls) == 6
    assert evaluate(SUMS, tmp_path, model=adder).lines[-1].n_failed == 6
    assert evaluate(SUMS, tmp_path, model=adder, retry_failed=True).lines[-1].n_failed == 0


def test_epochs_are_separate_runs_and_one_case(tmp_path: Path, adder: FunctionModel) -> None:
    done = evaluate(replace(SUMS, epochs=3), tmp_path, model=adder)
    assert len(done.scored) == 18
    assert done.lines[-1].score.n == 6
    assert {(s.run.case_id, s.run.epoch) for s in done.scored} == {
        (f"sum_{i}", epoch) for i in range(6) for epoch in (1, 2, 3)
    }


def test_a_limit_takes_from_every_group(tmp_path: Path, adder: FunctionModel) -> None:
    done = evaluate(replace(SUMS, options={"n": "100"}, limit=5), tmp_path, model=adder)
    assert [s.case.id for s in done.scored] == ["sum_0", "sum_1", "sum_2", "sum_3", "sum_4"]


def test_a_folder_of_another_evaluation_is_refused(tmp_path: Path, adder: FunctionModel) -> None:
    evaluate(SUMS, tmp_path, model=adder)
    with pytest.raises(UserError, match="another evaluation: seed was 0 and is now 1"):
        evaluate(replace(SUMS, seed=1), tmp_path, model=adder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"suite": "summs"}, "nearest: 'sums'"),
        ({"options": {"m": "1"}}, "no option 'm'"),
        ({"model": "none"}, "needs a model"),
    ],
)
def test_what_is_asked_wrongly_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(replace(SUMS, **change), tmp_path)


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from agentkit.messages import ModelResponse, TextPart
from agentkit.testing import FunctionModel
from evals.harness import suite
from evals.harness.evaluation import evaluate
from evals.harness.specification import Specification
suite.SUITES["sums"] = "harness_suites:SUMS"
FOUR = ModelResponse((TextPart("4"),))
options = {"n": "20", "kill_at": sys.argv[3], "kill_with": sys.argv[4], "tally": sys.argv[5]}
evaluate(Specification("sums", "function", options), Path(sys.argv[2]), model=FunctionModel(lambda m, p: FOUR))
"""


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_where_it_was(
    tmp_path: Path, adder: FunctionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tally = tmp_path / "run", tmp_path / "tally"
    arguments = [str(Path(__file__).parent), str(folder), "sum_7", "KILL", str(tally)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    with (folder / JOURNAL_FILE).open("ab") as journal:
        journal.write(b'{"case_id":"sum_7","status":"comp')  # as if it had died while writing
    monkeypatch.setattr(os, "kill", lambda *_: None)
    options = {"n": "20", "kill_at": "sum_7", "kill_with": "KILL", "tally": str(tally)}
    done = evaluate(Specification("sums", "function", options), folder, model=adder)

    solved = tally.read_text(encoding="utf-8").split()
    assert sorted(set(solved)) == sorted(f"sum_{i}" for i in range(20))
    assert [name for name in set(solved) if solved.count(name) > 1] == ["sum_7"]  # the one in flight
    assert [s.run.case_id for s in done.scored] == [f"sum_{i}" for i in range(20)]
    assert [s.run.output for s in done.scored[:7]] == ["4"] * 7  # from before the kill
    assert done.lines[-1].score.n == 20
    assert len(list((folder / "logs").glob("*.eval"))) == 1
    log = read_eval_log(str(done.log))
    assert log.samples is not None and sorted(str(s.id) for s in log.samples) == sorted(set(solved))


@pytest.mark.slow
def test_an_interrupt_keeps_what_is_done(tmp_path: Path) -> None:
    arguments = [str(Path(__file__).parent), str(tmp_path), "sum_7", "INT", str(tmp_path / "tally")]
    stopped = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, check=False
    )
    assert stopped.returncode == 130, stopped.stderr  # as shells have it: 128 + SIGINT
    assert "Traceback" not in stopped.stderr
    done = {case_id for case_id, _ in read_journal(tmp_path)}
    assert {f"sum_{i}" for i in range(7)} <= done
    assert len(done) < 20  # the signal is noticed within a case or two


def test_only_one_process_writes_a_journal(tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(UserError, match="another process"):
        Journal(tmp_path)


def test_a_journal_with_a_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / JOURNAL_FILE).write_text('{"case_id": 3}\n', encoding="utf-8")
    with pytest.raises(UserError, match="line 1 is not a run"):
        Journal(tmp_path)


@pytest.mark.slow
def test_a_local_models_replies_do_not_depend_on_the_cases_before(tmp_path: Path, smollm2_gguf: Path) -> None:
    """What a resumed evaluation relies on: a case means the same whatever ran before it in the process."""
    short = replace(SUMS, model=f"local:{smollm2_gguf}?grammar=none", max_tokens=24, case_timeout_s=120)
    every = evaluate(replace(short, options={"n": "5"}), tmp_path / "every")
    journal = (tmp_path / "every" / JOURNAL_FILE).read_text(encoding="utf-8").splitlines(keepends=True)
    other = tmp_path / "resumed"
    other.mkdir()
    (other / "run.json").write_text((tmp_path / "every" / "run.json").read_text(encoding="utf-8"))
    (other / JOURNAL_FILE).write_text("".join(journal[:1] + journal[2:3]), encoding="utf-8")  # two are missing
    resumed = evaluate(replace(short, options={"n": "5"}), other)
    assert [s.run.output for s in resumed.scored] == [s.run.output for s in every.scored]
    assert len({s.run.output for s in every.scored}) > 1
