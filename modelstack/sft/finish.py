"""The end of a fine-tuning: what was trained is written in every form, measured, and sealed as a stage.

Everything here is done again from the last checkpoint where a process is killed meanwhile; the record comes last.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from modelstack.files import replacing
from modelstack.inference.llama_cpp import LlamaCppEngine
from modelstack.runs.folder import RunFolder
from modelstack.runs.prepare import Told
from modelstack.runs.progress import Display
from modelstack.runs.report import machine_facts
from modelstack.sft.adapter_files import save_adapter
from modelstack.sft.assemble import Assembled
from modelstack.sft.exact_calls import Question, ask, chosen, lines, measured
from modelstack.sft.gguf_adapter import write_gguf_adapter
from modelstack.sft.merge_out import Merged, write_merged_folder
from modelstack.sft.prepare import Prepared
from modelstack.sft.recipe import SftResolved
from modelstack.sft.rendering import render
from modelstack.sft.served import served_after, served_before
from modelstack.sft.stage import ADAPTER, ADAPTER_GGUF, MODEL, Stage, seal
from modelstack.sft.stage_card import shown
from modelstack.sft.stage_record import Evaluation, Measurement, StageRecord
from modelstack.sft.validation_loss import measurement, validation_score
from modelstack.train.curves import CURVES_FILE, PLOT_FILE, write_curves
from modelstack.train.metrics import METRICS_FILE, read_metrics

REPLIES_BEFORE, REPLIES_AFTER = "replies-before.jsonl", "replies-after.jsonl"
PACKAGES = ("agentkit", "torch", "safetensors", "llama-cpp-python", "llguidance")
"""Whose versions bits and replies depend on."""
_WORK = ".served."
"""Of folders with files that are needed for a measurement alone; what killed processes left is removed."""


def finish(
    resolved: SftResolved, prepared: Prepared, assembled: Assembled, folder: RunFolder, display: Display
) -> Stage:
    """Write, measure and seal.

    Args:
        resolved: The recipe.
        prepared: What was read and trained on.
        assembled: At its end.
        folder: Of the run.
        display: To show on.

    Raises:
        UserError: What was trained has no form of a file.
    """
    before, after = prepared.before, tuple[Measurement, ...]()
    with display.preparing() as told:
        told("writing what was trained")
        parts = _write(resolved, prepared, assembled, folder.path)
        if prepared.targets is not None:
            told("measuring on held-back examples")
            score = validation_score(assembled.model, prepared.targets, resolved.recipe.data.row_tokens)
            after = (measurement(score),)
        if resolved.recipe.evaluation.exact_replies:
            replied = _exact_replies(resolved, prepared, assembled, folder.path, told)
            before, after = (*before, *replied.before), (*after, *replied.after)
            parts += [REPLIES_BEFORE, REPLIES_AFTER]
    write_curves(folder.metrics, folder.path)
    parts += [METRICS_FILE, CURVES_FILE, PLOT_FILE]
    record = _record(resolved, prepared, assembled, Evaluation(before=before, after=after), folder)
    stage = seal(folder.path, record, parts)
    display.say(f"{folder.path}: {record.what}")
    earlier = {each.name: each for each in before}
    for each in after:
        display.say(f"  {each.name}: {shown(each)}, before {shown(earlier.get(each.name))}")
    return stage


def _write(resolved: SftResolved, prepared: Prepared, assembled: Assembled, folder: Path) -> list[str]:
    """Write the adapter or the model; return the names."""
    if resolved.lora is None:
        model = assembled.model
        write_merged_folder(
            Merged(model, prepared.base.tokenizer), folder / MODEL, dtype=model.lm_head.weight.dtype
        )
        return [MODEL]
    name, sha256 = resolved.recipe.name, resolved.base_sha256
    save_adapter(assembled.model, resolved.lora, folder / ADAPTER, base_sha256=sha256)
    if resolved.lora.dora:  # llama.cpp knows no such adapter: it is served merged
        return [ADAPTER]
    write_gguf_adapter(assembled.model, resolved.lora, folder / ADAPTER_GGUF, name=name, base_sha256=sha256)
    return [ADAPTER, ADAPTER_GGUF]


def _exact_replies(
    resolved: SftResolved, prepared: Prepared, assembled: Assembled, folder: Path, told: Told
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


def _record(
    resolved: SftResolved, prepared: Prepared, assembled: Assembled, evaluation: Evaluation, folder: RunFolder
) -> StageRecord:
    recipe, run, start = resolved.recipe, assembled.run, prepared.start
    moved = "all weights" if resolved.lora is None else _adapter(resolved)
    n_training = sum(file.n_examples for file in prepared.manifest.files if file.role == "training")
    return StageRecord(
        kind="sft",
        name=recipe.name,
        what=(
            f"Supervised fine-tuning of {start.parent.name}, {moved}: {run.state.step:,} steps of "
            f"{recipe.rows} rows of {recipe.data.row_tokens:,} tokens, from {n_training:,} examples."
        ),
        parents=(start.parent,),
        base_sha256=start.sha256,
        recipe=resolved.portable,
        recipe_sha256=resolved.fingerprint,
        seed=recipe.seed,
        data=prepared.manifest,
        evaluation=evaluation,
        metrics=_metrics(assembled, folder),
        versions=_versions() | machine_facts(next(assembled.model.parameters()).device),
    )


def _adapter(resolved: SftResolved) -> str:
    lora = resolved.lora
    assert lora is not None
    kind = ("DoRA" if lora.dora else "LoRA") + (
        " with rank-stabilised scaling" if lora.scaling == "rslora" else ""
    )
    return f"{kind} of rank {lora.rank} on {', '.join(lora.targets)}"


def _metrics(assembled: Assembled, folder: RunFolder) -> dict[str, float | int | str]:
    """Return what the card says of the training."""
    state, model = assembled.run.state, assembled.model
    steps = [record for record in read_metrics(folder.metrics).steps if not record.rejected]
    metrics: dict[str, float | int | str] = {
        "steps": state.step,
        "tokens": assembled.loader.report()["n_tokens"],
        "tokens and padding": state.n_tokens,
        "trained parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    if steps:
        metrics["seconds of steps"] = round(sum(record.seconds for record in steps), 1)
        metrics["tokens per second, median"] = round(statistics.median(r.tokens_per_second for r in steps), 1)
        if (loss := steps[-1].losses["total"]) is not None:
            metrics["loss of the last step, weighted"] = loss
    if assembled.clock is not None and assembled.clock.is_over and state.step < assembled.run.config.n_steps:
        metrics["ended by"] = f"the clock, at step {state.step} of {assembled.run.config.n_steps}"
    return metrics


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # an extra that this run did without
    return found
