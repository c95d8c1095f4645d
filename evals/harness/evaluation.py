"""Runs one evaluation from its specification to its tables; an interrupted evaluation is resumed.

All files are in one folder: `run.json` (the specification), `runs.jsonl` (the journal), `logs/` (the Inspect log),
`scores.jsonl`, `scores.csv`, `summary.json`, and plots. Running the same specification in the same folder resumes
it.
"""

from __future__ import annotations

import gc
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentkit.errors import UserError
from agentkit.models.base import Model
from evals.case import Case, Run
from evals.harness.journal import Journal
from evals.harness.performing import perform
from evals.harness.results import Line, Scored, replace_file, summarise, write_results
from evals.harness.specification import SPECIFICATION_FILE, Specification, check_identity, describe, select
from evals.harness.suite import Suite, Table, find_suite, judge

LOG_FOLDER = "logs"
ProgressCallback = Callable[[int, int, Run], None]
"""Called after each case with the number of finished runs, the total number of runs, and the run."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A finished evaluation."""

    specification: Specification
    folder: Path
    scored: tuple[Scored, ...]
    lines: tuple[Line, ...]
    tables: tuple[Table, ...]
    plots: tuple[Path, ...]
    log: Path
    """The Inspect log."""


def evaluate(
    specification: Specification,
    folder: Path,
    *,
    model: Model | None = None,
    max_parallel: int = 1,
    retry_failed: bool = False,
    on_start: Callable[[], None] | None = None,
    on_progress: ProgressCallback | None = None,
) -> Evaluation:
    """Run an evaluation, or the unfinished part of it, and write its results.

    Blocks until the evaluation is finished; must not be called inside an event loop.

    Args:
        specification: What to evaluate.
        folder: Folder of the evaluation's files; created if missing.
        model: Model object to evaluate; None resolves `specification.model`.
        max_parallel: Maximum number of cases at the same time; a model in this process still takes one request at
            a time.
        retry_failed: Run cases again that failed or timed out before.
        on_start: Called once before the first case, when the specification is valid and the folder is ready.
        on_progress: Called after each case.

    Raises:
        UserError: the specification is not valid, a file is missing, or the folder holds another evaluation.
    """
    suite = find_suite(specification.suite)
    cases = select(suite.load(specification.options), specification.limit)
    model = model or find_model(specification.model, suite)
    record = describe(specification, suite.version, cases)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / SPECIFICATION_FILE).exists():
        check_identity(folder, record)
    else:
        replace_file(folder / SPECIFICATION_FILE, json.dumps(record, indent=1) + "\n")
    with Journal(folder) as journal:
        if on_start is not None:
            on_start()
        performer = _Performer(suite, specification, model, journal, len(cases), retry_failed, on_progress)
        log = _run_inspect(suite, cases, performer, folder / LOG_FOLDER, specification, max_parallel)
        scored = score_all(suite, cases, journal.runs.get, specification.epochs)
    lines = summarise(scored, seed=specification.seed)
    write_results(folder, record, scored, lines)
    triples = [(s.case, s.run, s.score) for s in scored]
    return Evaluation(
        specification=specification,
        folder=folder,
        scored=tuple(scored),
        lines=tuple(lines),
        tables=tuple(suite.tables(triples)) if suite.tables is not None else (),
        plots=tuple(suite.plots(triples, folder)) if suite.plots is not None else (),
        log=log,
    )


def score_all(
    suite: Suite, cases: Sequence[Case], find: Callable[[tuple[str, int]], Run | None], epochs: int
) -> list[Scored]:
    """Score every case in every epoch.

    A case without a run counts as failed, so that the mean covers all cases.
    """
    scored: list[Scored] = []
    for case in cases:
        for epoch in range(1, epochs + 1):
            run = find((case.id, epoch)) or Run(case.id, "failed", error="no run was recorded", epoch=epoch)
            scored.append(Scored(case, run, judge(suite, case, run)))
    return scored


def find_model(name: str, suite: Suite) -> Model:
    """Resolve the model string of an evaluation.

    Raises:
        UserError: the string is not valid, or is `none` although the suite needs a model.
    """
    if name.startswith("inspect:"):
        from evals.harness.inspect_model import InspectModel

        return InspectModel(name.removeprefix("inspect:"))
    if name == "none":
        if suite.needs_model:
            raise UserError(f"suite {suite.name!r} needs a model, for example `--model local`.")
        from agentkit.testing import TestModel

        return TestModel()
    from agentkit.models.resolve import resolve_model, split_local, with_local_option

    if split_local(name) is not None:
        # Other conversations in a shared cache change the last bits of attention's sums. With one conversation at
        # a time, a case's reply does not depend on earlier cases, so a resumed evaluation equals an uninterrupted
        # one.
        name = with_local_option(name, "conversations", "1")
    return resolve_model(name)


def default_folder(specification: Specification) -> Path:
    """Return the path of a new folder below `eval-logs`, named by time, suite and model."""
    stamp = time.strftime("%Y-%m-%dT%H-%M-%S")
    model = "".join(c if c.isalnum() or c in "-." else "-" for c in specification.model)[-60:].strip("-")
    return Path("eval-logs") / f"{stamp}-{specification.suite}-{model}"


class _Performer:
    """Takes the run of a case from the journal, or performs the case and records it."""

    def __init__(
        self,
        suite: Suite,
        specification: Specification,
        model: Model,
        journal: Journal,
        n_cases: int,
        retry_failed: bool,
        on_progress: ProgressCallback | None,
    ) -> None:
        self._suite = suite
        self._specification = specification
        self._model = model
        self._journal = journal
        self._n_runs = n_cases * specification.epochs
        self._retry_failed = retry_failed
        self._on_progress = on_progress
        self._done = 0

    async def __call__(self, case: Case, epoch: int) -> Run:
        run = self._journal.runs.get((case.id, epoch))
        if run is None or (self._retry_failed and run.status in ("failed", "timed_out")):
            timeout_s = self._specification.case_timeout_s or self._suite.case_timeout_s
            settings = self._specification.settings(epoch)
            run = await perform(case, self._suite.solve, self._model, settings, epoch=epoch, timeout_s=timeout_s)
            self._journal.add(run)
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(self._done, self._n_runs, run)
        return run


def _run_inspect(
    suite: Suite,
    cases: Sequence[Case],
    performer: _Performer,
    log_folder: Path,
    specification: Specification,
    max_parallel: int,
) -> Path:
    """Run the task under Inspect and return the path of its log; older logs in the folder are deleted."""
    import inspect_ai

    from evals.harness.inspect_task import MODEL_KEY, inspect_task

    task = inspect_task(suite, cases, performer, epochs=specification.epochs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        logs = inspect_ai.eval(
            task,
            model="none",
            display="none",
            log_dir=str(log_folder),
            log_format="eval",
            log_realtime=False,
            max_samples=max_parallel,
            log_level="warning",
            metadata={MODEL_KEY: specification.model, "options": specification.options},
            tags=[specification.model],
        )
        gc.collect()  # inspect-ai leaves some streams unclosed; collecting here keeps the warnings in this block
    if not logs or logs[0].status == "cancelled":
        raise KeyboardInterrupt
    log = logs[0]
    if log.status != "success":
        reason = log.error.message if log.error is not None else "no reason given"
        raise UserError(f"inspect-ai ended with status {log.status!r}: {reason}")
    path = Path(log.location.removeprefix("file://"))
    for older in log_folder.glob("*.eval"):
        if older.name != path.name:
            older.unlink()
    return path
