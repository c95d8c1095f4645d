"""A run from its recipe to its report: prepare, assemble, resume, train, finish. It can be stopped and resumed.

Several processes, started by torchrun, execute the same code; rank 0 prepares, writes and displays. A run that is
asked to stop (`stopping`) saves a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console

from modelstack.decide.plan_file import Plan
from modelstack.errors import UserError
from modelstack.run_folder import RunFolder, claim
from modelstack.stability.agreement import Ranks
from modelstack.stability.run_events import EVENTS_FILE, EventLog
from modelstack.tokenizer.documents import sample_of
from modelstack.train.curves import CurvesHook
from modelstack.train.evaluation import Evaluation, evaluate, held_out
from modelstack.train.loop import Hook, train
from modelstack.train.metrics import JsonLines, Metrics, Sink, TensorBoard
from modelstack.train.parallel.mesh import Mesh, join_processes, make_mesh
from modelstack.train.process import set_up_process
from modelstack.train.run.assemble import Assembled, assemble, begin_from_branch
from modelstack.train.run.finish import finish
from modelstack.train.run.peak_memory import PeakMemory
from modelstack.train.run.prepare import Prepared, open_prepared, prepare
from modelstack.train.run.progress import Display
from modelstack.train.run.recipe import FREE, LAYOUT, Resolved
from modelstack.train.run.stopping import stop_asked
from modelstack.train.samples import Samples
from modelstack.train.utilisation import Utilisation, utilisation

PREPARING = timedelta(hours=12)
"""Maximum time that other ranks wait for rank 0 to tokenise the text."""


def launch(resolved: Resolved, path: Path, plan: Plan | None, console: Console) -> bool:
    """Start or resume a run; return True if it finished, False if it was asked to stop.

    Args:
        resolved: The recipe.
        path: Folder of the run.
        plan: The plan that the recipe follows, for the report.
        console: Console of rank 0.

    Raises:
        UserError: Parts of the recipe do not match, or the folder holds another run.
        TrainingStopped: The guard ended the run.
    """
    recipe = resolved.recipe
    set_up_process(recipe.threads)
    kind = recipe.device if recipe.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    folder = RunFolder(path)
    with _processes(resolved, kind) as mesh, ExitStack() as held:
        ranks = Ranks.of_run(PREPARING)
        device = mesh.device if mesh else torch.device(kind)
        display = Display(console if ranks.rank == 0 else Console(quiet=True))
        prepared = _prepared(resolved, folder, ranks, display, held)
        metrics = Metrics(_sinks(resolved, folder) if ranks.rank == 0 else [])

        def on_event(text: str) -> None:
            metrics.event(text)
            display.say(text)

        log = EventLog(folder.path / EVENTS_FILE) if ranks.rank == 0 else None
        assembled = assemble(resolved, prepared, folder, on_event, device=device, mesh=mesh, log=log)
        run = assembled.run
        metrics.utilisation = _utilisation(resolved, assembled)
        memory = PeakMemory(ranks, device, metrics, every=recipe.evaluation.every)
        run.hooks.update(_hooks(resolved, folder, prepared, metrics, is_first=ranks.rank == 0))
        run.hooks["memory"] = memory
        if assembled.supervisor.resume(run):
            display.say(f"resumed at step {run.state.step} of {resolved.steps}")
        elif recipe.branch:
            begin_from_branch(assembled, recipe.branch, resolved, mesh)
            display.say(f"branched from {recipe.branch.run} at step {run.state.step}")
        display.say(memory.started(run.state.step))
        with stop_asked() as stop, display.training(run):
            for report in train(run):
                display.after_step(run, report)
                if ranks.worst(int(stop.asked)):
                    break
        assembled.supervisor.close(run)
        metrics.close()
        if run.state.step < resolved.steps:
            display.say(f"stopped after step {run.state.step} of {resolved.steps}; run the same command to resume")
            return False
        finish(resolved, folder, prepared, assembled, plan, metrics.utilisation, display)
        return True


@contextmanager
def _processes(resolved: Resolved, kind: str) -> Iterator[Mesh | None]:
    """Yield the mesh of the processes that share the run; None for a single process."""
    if resolved.layout.n_devices == 1 and not dist.is_torchelastic_launched():
        yield None
        return
    joined = dist.is_initialized()
    join_processes(kind)
    try:
        yield make_mesh(resolved.layout, kind)
    finally:
        if not joined:
            dist.destroy_process_group()


def _prepared(resolved: Resolved, folder: RunFolder, ranks: Ranks, display: Display, held: ExitStack) -> Prepared:
    """Lock the folder and prepare missing data on rank 0; its errors end all ranks."""
    complaint = ""
    prepared: Prepared | None = None
    if ranks.rank == 0:
        try:
            held.enter_context(folder.held())
            for changed in claim(folder.recipe, resolved, resolved.fingerprint, free=FREE, layout=LAYOUT):
                display.say(f"{changed} changed since the start of the run: results agree up to rounding only")
            with display.preparing() as on_activity:
                prepared = prepare(resolved, folder, on_activity)
        except UserError as error:
            if ranks.group is None:
                raise
            complaint = str(error)
    first_complaint = ranks.texts(complaint)[0]
    if first_complaint:
        raise UserError(first_complaint)
    return prepared or open_prepared(resolved, folder)


def _sinks(resolved: Resolved, folder: RunFolder) -> list[Sink]:
    sinks: list[Sink] = [JsonLines(folder.metrics)]
    if resolved.recipe.evaluation.tensorboard:
        sinks.append(TensorBoard(folder.path / "tensorboard"))
    return sinks


def _utilisation(resolved: Resolved, assembled: Assembled) -> Utilisation:
    return utilisation(
        assembled.run.state.model,
        assembled.config,
        context=resolved.row_tokens,
        rows=resolved.rows_per_batch,
        precision="fp32" if resolved.precision == "fp32" else "bf16",
        n_devices=resolved.layout.n_devices,
    )


def _hooks(
    resolved: Resolved, folder: RunFolder, prepared: Prepared, metrics: Metrics, *, is_first: bool
) -> dict[str, Hook]:
    """Return the hooks of the run, in the order in which they are called."""
    recipe = resolved.recipe
    every = recipe.evaluation.every
    hooks: dict[str, Hook] = {"metrics": metrics}
    if resolved.layout.pp == 1:  # a single stage cannot evaluate; `finish` evaluates the whole model
        texts = [d.text for d in sample_of(prepared.held_out, int(recipe.evaluation.max_megabytes * 1e6))]
        documents = held_out(texts, prepared.tokenizer)
        score = partial(evaluate, documents=documents, row_tokens=resolved.row_tokens)
        hooks["evaluation"] = Evaluation(score, every=every, metrics=metrics)
    if resolved.layout.pp == 1 and resolved.layout.tp == 1:  # a single token cannot be split over tp
        hooks["samples"] = Samples(
            folder.samples, prepared.tokenizer, recipe.samples, every=every, metrics=metrics, writes=is_first
        )
    if is_first:
        hooks["curves"] = CurvesHook(folder.metrics, folder.path, every=every, metrics=metrics)
    return hooks
