"""An evaluation from its specification to its tables: started, killed, continued, and summed up.

Everything lies in one folder: `run.json` (what it is), `runs.jsonl` (the journal), `logs/` (the Inspect log),
`scores.jsonl`, `scores.csv`, `summary.json`, and plots. The same specification in the same folder continues.
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
"""Told after each case how many are done, of how many, and the run."""


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
    on_progress: ProgressCallback | None = None,
) -> Evaluation:
    """Run an evaluation, or what is left of it, and write its results. Blocks; not for use inside an event loop.

    Args:
        specification: What to evaluate.
        folder: Where its files are; made if it is not there.
        model: The model, where it is an object rather than what `specification.model` names.
        max_parallel: Cases side by side; a model in this process takes turns anyway.
        retry_failed: Run again what failed or timed out before.
        on_progress: Told of every case.

    Raises:
        UserError: the specification is wrong, a file is missing, or the folder holds another evaluation.
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
    """Score every case in every epoch; one without a run counts as failed, so nothing drops out of a mean."""
    scored: list[Scored] = []
    for case in cases:
        for epoch in range(1, epochs + 1):
            run = find((case.id, epoch)) or Run(case.id, "failed", error="there is no run of it", epoch=epoch)
            scored.append(Scored(case, run, judge(suite, case, run)))
    return scored


def find_model(name: str, suite: Suite) -> Model:
    """Return the model that an evaluation names.

    Raises:
        UserError: the name is not understood, or is `none` where the suite needs a model.
    """
    if name.startswith("inspect:"):
        from evals.harness.inspect_model import InspectModel

        return InspectModel(name.removeprefix("inspect:"))
    if name == "none":
        if suite.needs_model:
            raise UserError(f"suite {suite.name!r} needs a model: --model local, for one.")
        from agentkit.testing import TestModel

        return TestModel()
    from agentkit.models.resolve import resolve_model, split_local, with_local_option

    if split_local(name) is not None:
        # What other conversations hold in a shared cache moves the last bits of attention's sums: with one at a
        # time a case's reply is the same after any other case, so a resumed evaluation is the uninterrupted one.
        name = with_local_option(name, "conversations", "1")
    return resolve_model(name)


def default_folder(specification: Specification) -> Path:
    """Return a new folder's name below `eval-logs`: time, suite, model."""
    stamp = time.strftime("%Y-%m-%dT%H-%M-%S")
    model = "".join(c if c.isalnum() or c in "-." else "-" for c in specification.model)[-60:].strip("-")
    return Path("eval-logs") / f"{stamp}-{specification.suite}-{model}"


class _Performer:
    """Takes a case's run from the journal, or performs it and writes it there."""

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
    """Run the task under Inspect and return its log, the only one that stays in the folder."""
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
        gc.collect()  # inspect-ai leaves some streams unclosed; they are found here rather than anywhere later
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
