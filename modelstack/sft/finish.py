"""The end of a fine-tuning: what was trained is written, measured as it is served, and sealed as a stage.

Everything here is done again from the last checkpoint where a process is killed meanwhile; the record comes last.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from modelstack.files import replacing
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.posttrain.driver import TuningPlace
from modelstack.posttrain.sealing import moved_weights, seal_training, write_trained
from modelstack.posttrain.stages.record import Evaluation, Measurement
from modelstack.posttrain.stages.stage import Stage
from modelstack.sft.assemble import Assembled
from modelstack.sft.prepare import Prepared
from modelstack.sft.prior.exact_calls import Question, ask, chosen, lines, measured
from modelstack.sft.recipe import SftResolved
from modelstack.sft.rendering import render
from modelstack.sft.served import served_after, served_before
from modelstack.sft.validation_loss import measurement, validation_score
from modelstack.train.run.prepare import OnActivity

REPLIES_BEFORE, REPLIES_AFTER = "replies-before.jsonl", "replies-after.jsonl"
_WORK = ".served."
"""Of folders with files that are needed for a measurement alone; what killed processes left is removed."""


def finish(resolved: SftResolved, prepared: Prepared, assembled: Assembled, place: TuningPlace) -> Stage:
    """Write, measure and seal.

    Args:
        resolved: The recipe.
        prepared: What was read and trained on.
        assembled: At its end.
        place: Where it was trained.

    Raises:
        UserError: What was trained has no form of a file.
    """
    recipe = resolved.recipe
    before, after = prepared.before, tuple[Measurement, ...]()
    with place.display.preparing() as told:
        told("writing what was trained")
        parts = write_trained(assembled.model, prepared.base.tokenizer, resolved, place.path)
        if prepared.targets is not None:
            told("measuring on held-back examples")
            score = validation_score(assembled.model, prepared.targets, recipe.data.row_tokens)
            after = (measurement(score),)
        if recipe.evaluation.exact_replies:
            replied = _exact_replies(resolved, prepared, assembled, place.path, told)
            before, after = (*before, *replied.before), (*after, *replied.after)
            parts += [REPLIES_BEFORE, REPLIES_AFTER]
    n_training = sum(file.n_examples for file in prepared.manifest.files if file.role == "training")
    n_steps = assembled.run.state.step
    return seal_training(
        resolved,
        assembled.run,
        assembled.model,
        place,
        kind="sft",
        what=(
            f"Supervised fine-tuning of {resolved.parent.name}, {moved_weights(resolved.lora)}: {n_steps:,} steps "
            f"of {recipe.rows} rows of {recipe.data.row_tokens:,} tokens, from {n_training:,} examples."
        ),
        data=prepared.manifest,
        evaluation=Evaluation(before=before, after=after),
        n_tokens=assembled.loader.report()["n_tokens"],
        parts=parts,
    )


def _exact_replies(
    resolved: SftResolved, prepared: Prepared, assembled: Assembled, folder: Path, told: OnActivity
) -> Evaluation:
    """Ask base and stage the same held-back examples, both as llama.cpp serves them."""
    settings, encoder = resolved.recipe.evaluation, prepared.base.encoder
    examples = chosen(prepared.validation, settings.exact_replies, resolved.recipe.seed)
    options = resolved.recipe.data.render
    questions = [Question.of(one, render(one, encoder, options)) for one in examples]
    for left in folder.glob(f"{_WORK}*"):
        shutil.rmtree(left)
    found: list[tuple[Measurement, ...]] = []
    with tempfile.TemporaryDirectory(prefix=_WORK, dir=folder) as work:
        before = served_before(prepared.start, Path(work))
        after = served_after(resolved, prepared, assembled.model, folder, Path(work))
        for served, name in ((before, REPLIES_BEFORE), (after, REPLIES_AFTER)):
            threads = settings.threads
            with LlamaCppEngine(
                served.model, lora_path=served.adapter, n_threads=threads, n_threads_prefill=threads
            ) as engine:
                answered = ask(engine, questions, abstain=options.abstain, told=told)
            with replacing(folder / name) as temporary:
                temporary.write_text("".join(lines(answered)), encoding="utf-8")
            found.append(measured(answered))
    return Evaluation(before=found[0], after=found[1])
