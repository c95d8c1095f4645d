"""Output of `agentkit eval`, `compare` and `calibrate` as golden files, at 80 columns and in a pipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agentkit.cli.main import app
from agentkit.models.confidence import Decision
from agentkit.usage import RunUsage
from evals.case import Case, Run, Score
from evals.confidence import measures, plots
from evals.harness import evaluation
from evals.harness.evaluation import Evaluation
from evals.harness.results import Scored, summarise, write_results
from evals.harness.specification import Specification
from evals.harness.suite import Table
from tests.golden import UPDATE, Golden

FOLDER = Path(__file__).with_name("golden")
GROUPS = ("small talk", "counting", "impossible")


@pytest.fixture
def golden(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Golden:
    """Golden files, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Golden(app, "agentkit", FOLDER, update=bool(request.config.getoption(UPDATE)))


def made_scores(n_wrong: int) -> tuple[Scored, ...]:
    """Scores of 30 cases in three groups; one case failed and the first `n_wrong` others are wrong."""
    scored: list[Scored] = []
    for k in range(30):
        case = Case(f"case_{k}", "How much is it?", GROUPS[k % 3])
        error = "OSError: the server was gone before it answered" if k == 29 else None
        usage = RunUsage(2, 1, 1500 + k, 1400, 40)
        run = Run(case.id, "failed" if error else "completed", error=error, usage=usage, wall_s=2 + k / 10)
        numbers = {"calls": 1.0 + k % 2, "failed calls": float(k % 5 == 0)}
        value = 0.0 if error or k < n_wrong else 1.0
        scored.append(Scored(case, run, Score(value, numbers=numbers)))
    return tuple(scored)


def finished(folder: Path, n_wrong: int, model: str) -> Evaluation:
    """A finished evaluation with its files."""
    scored = made_scores(n_wrong)
    lines = summarise(scored)
    folder.mkdir(parents=True, exist_ok=True)
    record = {"identity": {"suite": "first-hour", "suite_version": 3, "model": model, "options": {}}}
    write_results(folder, record, scored, lines)
    failures = Table(
        "What failed",
        ("failure", "runs", "meaning"),
        (
            ("error", "1", "the run raised or ran out of time"),
            ("wrong answer", str(n_wrong), "the final state is right, the answer is not"),
        ),
    )
    specification = Specification(suite="first-hour", model=model)
    return Evaluation(specification, folder, scored, tuple(lines), (failures,), (), folder / "logs" / "x.eval")


def test_suites_are_listed_with_their_options(golden: Golden) -> None:
    golden.check("suites", "eval")


def test_a_report_has_groups_intervals_and_failures(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluated(of: Specification, folder: Path, *, on_start: Callable[[], None], **_: object) -> Evaluation:
        on_start()
        return finished(folder, 6, of.model)

    monkeypatch.setattr(evaluation, "evaluate", evaluated)
    command = "eval first-hour --model local:small --log-dir results"
    golden.check("eval", command, f"{command} --json")


def test_two_evaluations_are_compared_case_by_case(golden: Golden) -> None:
    finished(Path("small"), 9, "local:small")
    finished(Path("medium"), 3, "local:medium")
    golden.check("compare", "compare small medium", "compare small medium --json")


def test_a_calibration_shows_quality_and_coverage(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(Path("small"), 9, "local:small")
    decisions = [(f"case_{k}", Decision(0.5 + (k * 37 % 50) / 100, (0.2,), k % 4 != 0)) for k in range(400)]
    monkeypatch.setattr(measures, "read_decisions", lambda folder: (decisions, 3))
    monkeypatch.setattr(plots, "draw", lambda found, title, path: path)
    golden.check("calibrate", "calibrate small --out calibration.json")
