"""The end of a fine-tuning: what was trained is written in every form, measured, and sealed as a stage.

Everything here is done again from the last checkpoint where a process is killed meanwhile; the record comes last.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from modelstack.architecture.decoder import CausalLM
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
from modelstack.sft.lora_config import LoraConfig
from modelstack.sft.merge_out import Merged, write_merged_folder
from modelstack.sft.prepare import Prepared
from modelstack.sft.recipe import SftResolved
from modelstack.sft.rendering import render
from modelstack.sft.served import served_after, served_before
from modelstack.sft.stage import ADAPTER, ADAPTER_GGUF, MODEL, Stage, seal
from modelstack.sft.stage_card import shown
from modelstack.sft.stage_record import Evaluation, Measurement, StageRecord
from modelstack.sft.validation_loss import measurement, validation_score
from modelstack.tokenizer.text_tokenizer import TextTokenizer
from modelstack.train.curves import CURVES_FILE, PLOT_FILE, write_curves
from modelstack.train.metrics import METRICS_FILE, read_metrics
from modelstack.train.step import TrainState

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
        parts = write_trained(
            assembled.model,
            resolved.lora,
            prepared.base.tokenizer,
            folder.path,
            name=resolved.recipe.name,
            base_sha256=resolved.base_sha256,
        )
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


def write_trained(
    model: CausalLM,
    lora: LoraConfig | None,
    tokenizer: TextTokenizer,
    folder: Path,
    *,
    name: str,
    base_sha256: str,
) -> list[str]:
    """Write the adapter or the model in every form that it has; return the names in the folder.

    Raises:
        UserError: What was trained has no form of a file.
    """
    if lora is None:
        write_merged_folder(Merged(model, tokenizer), folder / MODEL, dtype=model.lm_head.weight.dtype)
        return [MODEL]
    save_adapter(model, lora, folder / ADAPTER, base_sha256=base_sha256)
    if lora.dora:  # llama.cpp knows no such adapter: it is served merged
        return [ADAPTER]
    write_gguf_adapter(model, lora, folder / ADAPTER_GGUF, name=name, base_sha256=base_sha256)
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
    moved = moved_weights(resolved.lora)
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
        versions=versions() | machine_facts(next(assembled.model.parameters()).device),
    )


def moved_weights(lora: LoraConfig | None) -> str:
    """Return in words what is trained."""
    if lora is None:
        return "all weights"
    kind = ("DoRA" if lora.dora else "LoRA") + (
        " with rank-stabilised scaling" if lora.scaling == "rslora" else ""
    )
    return f"{kind} of rank {lora.rank} on {', '.join(lora.targets)}"


def _metrics(assembled: Assembled, folder: RunFolder) -> dict[str, float | int | str]:
    """Return what the card says of the training."""
    state = assembled.run.state
    metrics = training_metrics(state, assembled.model, assembled.loader.report()["n_tokens"], folder)
    if assembled.clock is not None and assembled.clock.is_over and state.step < assembled.run.config.n_steps:
        metrics["ended by"] = f"the clock, at step {state.step} of {assembled.run.config.n_steps}"
    return metrics


def training_metrics(
    state: TrainState, model: CausalLM, n_tokens: int, folder: RunFolder
) -> dict[str, float | int | str]:
    """Return what the card of any training says of it: steps, tokens, parameters, speed, the last loss."""
    steps = [record for record in read_metrics(folder.metrics).steps if not record.rejected]
    metrics: dict[str, float | int | str] = {
        "steps": state.step,
        "tokens": n_tokens,
        "tokens and padding": state.n_tokens,
        "trained parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    if steps:
        metrics["seconds of steps"] = round(sum(record.seconds for record in steps), 1)
        metrics["tokens per second, median"] = round(statistics.median(r.tokens_per_second for r in steps), 1)
        if (loss := steps[-1].losses["total"]) is not None:
            metrics["loss of the last step, weighted"] = loss
    return metrics


def versions() -> dict[str, str]:
    """Return those of the packages that bits and replies depend on."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # an extra that this run did without
    return found
