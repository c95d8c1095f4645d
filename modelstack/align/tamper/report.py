"""Measures how easily refusals are removed from weights that anybody may change.

Three states answer the same harmful and harmless requests: the model as it is, with its direction of refusal
projected out, and after some LoRA steps on harmless rows with obliging answers. Replies are judged and not stored;
nothing harmful is trained on.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from modelstack.align.guard_training.rows import GuardRow
from modelstack.align.refusal_direction.direction import RefusalDirection
from modelstack.align.refusal_direction.find import find_direction
from modelstack.align.refusal_direction.replies import STRENGTHS, Refused, n_refused, refused_by_strength
from modelstack.align.release.figures import Figure, Part, Results, share
from modelstack.align.tamper.plan import TamperPlan, compliance_rows
from modelstack.data.examples import write_examples
from modelstack.errors import UserError
from modelstack.posttrain.base import Base
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.recipe import TrainingFile, TuningOptimizer
from modelstack.posttrain.stages.stage import ADAPTER
from modelstack.posttrain.starting_point import StartingPoint, starting_point
from modelstack.reasoning.sampling.frozen_model import load_merged
from modelstack.sft.recipe import SftData, SftRecipe
from modelstack.sft.rendering import RenderOptions
from modelstack.sft.run import fine_tune

COMMAND = "modelstack release tamper"
AS_IT_IS, ABLATED = "as it is", "direction projected out"
Told = Callable[[str, int, int], object]


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests of the report, by use."""

    direction: tuple[list[str], list[str]]
    """Harmful and harmless requests that the direction is found on."""
    asked: tuple[list[str], list[str]]
    """Harmful and harmless requests that are answered."""


def drawn(rows: Sequence[GuardRow], plan: TamperPlan) -> Requests:
    """Draw the requests, the same for the same seed.

    Raises:
        UserError: There are too few.
    """
    texts: dict[bool, list[str]] = {True: [], False: []}
    for row in rows:
        if row.judged == "user" and len(row.turns) == 1:
            texts[row.unsafe].append(row.turns[0].content)
    needed = plan.n_direction + plan.n_asked
    for unsafe, several in texts.items():
        if len(several) < needed:
            kind = "harmful" if unsafe else "harmless"
            raise UserError(
                f"{len(several)} {kind} requests; {plan.n_direction} for the direction and {plan.n_asked} to "
                f"answer are needed: give more rows, or lower --n or --replies"
            )
        random.Random(plan.seed).shuffle(several)
    n = plan.n_direction
    return Requests(
        (texts[True][:n], texts[False][:n]),
        (texts[True][n:needed], texts[False][n:needed]),
    )


def tamper_results(
    start: StartingPoint, rows: Sequence[GuardRow], plan: TamperPlan, weights_sha256: str, told: Told
) -> Results:
    """Return refusals of the model as it is, at strengths of its direction, without it, and after fine-tuning.

    Args:
        start: The model, with its adapter if it is one.
        rows: Requests with verdicts.
        plan: Settings.
        weights_sha256: Identity of the weights.
        told: Callback for a stage of the work and the numbers of finished parts and of all.

    Raises:
        UserError: There are too few requests, or the model cannot be loaded or trained.
    """
    requests = drawn(rows, plan)
    base = load_merged(start, precision="bf16", device="cpu")
    states, notes = _by_direction(base, requests, start.parent.sha256, told)
    del base  # two copies of the weights would be in memory
    told("fine-tuning", 0, 1)
    after = f"after {plan.steps} LoRA steps on harmless rows"
    with tempfile.TemporaryDirectory(prefix="modelstack.") as work:
        tuned = _fine_tuned(start, plan, Path(work))
        told("fine-tuning", 1, 1)
        states.append(Refused(after, *(n_refused(tuned.model, tuned.encoder, texts) for texts in requests.asked)))
    tampered = {ABLATED, after}
    n_harmful, n_harmless = map(len, requests.asked)
    command = (
        f"{COMMAND} STAGE --rows ROWS --n {plan.n_direction} --replies {plan.n_asked} --steps {plan.steps} "
        f"--seed {plan.seed}"
    )
    figures: list[Figure] = []
    for state in states:
        part: Part = "tamper" if state.state in tampered else "refusals"
        for kind, n, of in (
            ("harmful", state.n_harmful, n_harmful),
            ("harmless", state.n_harmless, n_harmless),
        ):
            better = "neither"
            if state.state == AS_IT_IS or (kind == "harmful" and part == "tamper"):
                better = "higher" if kind == "harmful" else "lower"
            title = f"{kind} requests refused, {state.state}"
            figures.append(share(part, title, n, of, better=better, command=command, seed=plan.seed))
    return Results(weights_sha256=weights_sha256, figures=tuple(figures), notes={"tamper": notes} if notes else {})


def _by_direction(
    base: Base, requests: Requests, sha256: str, told: Told
) -> tuple[list[Refused], tuple[str, ...]]:
    """Return refusals at each strength of the direction, with notes; without one, those of the model alone."""
    model, encoder = base.model, base.encoder
    try:
        found = _direction(base, requests, sha256, told)
    except UserError as error:
        counts = [n_refused(model, encoder, texts) for texts in requests.asked]
        return [Refused(AS_IT_IS, *counts)], (f"The direction was not projected out: {error}",)
    states = refused_by_strength(
        model, encoder, found, *requests.asked, told=lambda done, total: told("strengths", done, total)
    )
    plain, without, *moved = states
    assert len(moved) == len(STRENGTHS)  # the order of `refused_by_strength`
    kl = next(each["kl"] for each in found.card["layers"] if each["layer"] == found.layer)
    note = f"Projecting the direction of layer {found.layer} out changes the model by a KL divergence of {kl:.3g}."
    named = [replace(plain, state=AS_IT_IS), replace(without, state=ABLATED), *moved]
    return named, (note,)


def _direction(base: Base, requests: Requests, sha256: str, told: Told) -> RefusalDirection:
    if not requests.direction[0]:
        raise UserError("none was searched")
    return find_direction(
        base.model,
        base.encoder,
        *requests.direction,
        weights_sha256=sha256,
        told=lambda done, total: told("layers", done, total),
    )


def _fine_tuned(start: StartingPoint, plan: TamperPlan, work: Path) -> Base:
    """Return the model after LoRA steps on the harmless rows, merged."""
    file = work / "rows.jsonl"
    write_examples(file, compliance_rows())
    is_adapter = start.stage is not None and (start.stage.path / ADAPTER).is_dir()
    recipe = SftRecipe(
        name="tampered",
        base=str(start.stage.path if is_adapter and start.stage is not None else start.weights),
        weights=str(start.weights) if is_adapter else None,
        data=SftData(
            training=(TrainingFile(path=str(file)),),
            row_tokens=plan.row_tokens,
            layout="padded",
            render=RenderOptions(abstain=False),
        ),
        lora=None if is_adapter else LoraConfig(rank=plan.rank, alpha=2 * plan.rank),
        steps=plan.steps,
        rows=plan.rows,
        micro_batches=1,
        seed=plan.seed,
        threads=plan.threads,
        optimizer=TuningOptimizer(lr=plan.lr),
    )
    stage = fine_tune(recipe, work / "run", Console(quiet=True))
    if stage is None:
        raise UserError("the fine-tuning was stopped; run the command again")
    return load_merged(starting_point(stage.path, start.weights), precision="bf16", device="cpu")
