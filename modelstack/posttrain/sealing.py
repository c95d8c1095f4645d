"""How every training ends: its weights in all their forms, and its record, sealed and told.

A training says in a sentence what it was, what it learnt from and what was measured; the rest of the record, and
the lines that are shown of it, follow from the run and are the same for all.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from modelstack.architecture.decoder import CausalLM
from modelstack.posttrain.driver import TuningPlace
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.lora.files import save_adapter
from modelstack.posttrain.lora.gguf import write_gguf_adapter
from modelstack.posttrain.lora.merge import Merged, write_merged_folder
from modelstack.posttrain.recipe import TuningResolved
from modelstack.posttrain.stages.card import shown
from modelstack.posttrain.stages.record import DataManifest, Evaluation, Kind, StageRecord
from modelstack.posttrain.stages.stage import ADAPTER, ADAPTER_GGUF, MODEL, Stage, seal
from modelstack.tokenizer.text_tokenizer import TextTokenizer
from modelstack.train.curves import CURVES_FILE, PLOT_FILE, write_curves
from modelstack.train.loop import Run
from modelstack.train.metrics import METRICS_FILE, read_metrics
from modelstack.train.run.report import machine_facts

PACKAGES = ("agentkit", "torch", "safetensors", "llama-cpp-python", "llguidance")
"""Whose versions bits and replies depend on."""


def seal_training(
    resolved: TuningResolved,
    run: Run,
    model: CausalLM,
    place: TuningPlace,
    *,
    kind: Kind,
    what: str,
    data: DataManifest,
    evaluation: Evaluation,
    n_tokens: int,
    parts: Iterable[str],
) -> Stage:
    """Make the folder of a training that is over its stage; say what it is and what was measured.

    Args:
        resolved: The recipe.
        run: At its end.
        model: Whose parameters the card counts.
        place: Whose folder becomes the stage.
        kind: Of the stage.
        what: One sentence: how it was trained.
        data: What it learnt from.
        evaluation: What was measured.
        n_tokens: Read, without padding.
        parts: Files and folders of the stage; those that all trainings have are added.
    """
    write_curves(place.folder.metrics, place.path)
    record = StageRecord(
        kind=kind,
        name=resolved.recipe.name,
        what=what,
        parents=resolved.parents,
        base_sha256=resolved.base_sha256,
        recipe=resolved.portable,
        recipe_sha256=resolved.fingerprint,
        seed=resolved.recipe.seed,
        data=data,
        evaluation=evaluation,
        metrics=_metrics(run, model, n_tokens, place),
        versions=_versions() | machine_facts(next(model.parameters()).device),
    )
    stage = seal(place.path, record, [*parts, METRICS_FILE, CURVES_FILE, PLOT_FILE])
    place.display.say(f"{place.path}: {what}")
    earlier = {each.name: each for each in evaluation.before}
    for each in evaluation.after:
        before = f", before {shown(earlier[each.name])}" if each.name in earlier else ""
        place.display.say(f"  {each.name}: {shown(each)}{before}")
    return stage


def write_trained(model: CausalLM, tokenizer: TextTokenizer, resolved: TuningResolved, folder: Path) -> list[str]:
    """Write the adapter or the model in every form that it has; return the names in the folder.

    Raises:
        UserError: What was trained has no form of a file.
    """
    lora, base_sha256 = resolved.lora, resolved.base_sha256
    if lora is None:
        write_merged_folder(Merged(model, tokenizer), folder / MODEL, dtype=model.lm_head.weight.dtype)
        return [MODEL]
    save_adapter(model, lora, folder / ADAPTER, base_sha256=base_sha256)
    if lora.dora:  # llama.cpp knows no such adapter: it is served merged
        return [ADAPTER]
    write_gguf_adapter(model, lora, folder / ADAPTER_GGUF, name=resolved.recipe.name, base_sha256=base_sha256)
    return [ADAPTER, ADAPTER_GGUF]


def moved_weights(lora: LoraConfig | None) -> str:
    """Return in words what is trained."""
    if lora is None:
        return "all weights"
    kind = ("DoRA" if lora.dora else "LoRA") + (
        " with rank-stabilised scaling" if lora.scaling == "rslora" else ""
    )
    return f"{kind} of rank {lora.rank} on {', '.join(lora.targets)}"


def _metrics(run: Run, model: CausalLM, n_tokens: int, place: TuningPlace) -> dict[str, float | int | str]:
    """Return what the card says of the training: steps, tokens, parameters, speed, the last loss."""
    state, n_steps = run.state, run.config.n_steps
    steps = [record for record in read_metrics(place.folder.metrics).steps if not record.rejected]
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
    if state.step < n_steps:  # of all that ends a run, the clock alone lets it be sealed
        metrics["ended by"] = f"the clock, at step {state.step} of {n_steps}"
    return metrics


def _versions() -> dict[str, str]:
    """Return those of the packages that bits and replies depend on."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # an extra that this run did without
    return found
