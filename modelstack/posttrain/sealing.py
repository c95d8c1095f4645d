"""End of every training: writes the weights in all formats and the sealed record.

A method supplies a sentence, its data and its measurements; the rest of the record is derived from the run.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mcp_servers.distribution import NAME
from modelstack.architecture.decoder import CausalLM
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.lora.files import save_adapter
from modelstack.posttrain.lora.gguf import write_gguf_adapter
from modelstack.posttrain.lora.merge import Merged, write_merged_folder
from modelstack.posttrain.recipe import TuningResolved
from modelstack.posttrain.stages.card import shown
from modelstack.posttrain.stages.record import DataManifest, Evaluation, Kind, StageRecord
from modelstack.posttrain.stages.stage import ADAPTER, ADAPTER_GGUF, MODEL, Stage, seal
from modelstack.run_folder import RunFolder
from modelstack.tokenizer.text_tokenizer import TextTokenizer
from modelstack.train.curves import CURVES_FILE, PLOT_FILE, write_curves
from modelstack.train.loop import Run
from modelstack.train.metrics import METRICS_FILE, read_metrics
from modelstack.train.run.report import machine_facts

PACKAGES = (NAME, "torch", "safetensors", "llama-cpp-python", "llguidance")
"""Packages whose versions influence the bits of weights and replies."""


def seal_training(
    resolved: TuningResolved[Any],
    run: Run,
    model: CausalLM,
    folder: RunFolder,
    *,
    kind: Kind,
    what: str,
    data: DataManifest,
    evaluation: Evaluation,
    n_tokens: int,
    parts: Iterable[str],
    say: Callable[[str], object],
) -> Stage:
    """Turn the folder of a finished training into a stage, and show its measurements.

    Args:
        resolved: The recipe.
        run: The run after its last step.
        model: Model whose parameters the card counts.
        folder: Folder of the run, which becomes the folder of the stage.
        kind: Kind of the stage.
        what: One sentence: how the stage was trained.
        data: Files that were read.
        evaluation: Measurements before and after.
        n_tokens: Tokens read, without padding.
        parts: Files and folders of the stage, besides those that all trainings have.
        say: Receives the lines to show.
    """
    write_curves(folder.metrics, folder.path)
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
        metrics=_metrics(run, model, n_tokens, folder),
        versions=_versions() | machine_facts(next(model.parameters()).device),
    )
    stage = seal(folder.path, record, [*parts, METRICS_FILE, CURVES_FILE, PLOT_FILE])
    say(f"{folder.path}: {what}")
    earlier = {each.name: each for each in evaluation.before}
    for each in evaluation.after:
        before = f", before {shown(earlier[each.name])}" if each.name in earlier else ""
        say(f"  {each.name}: {shown(each)}{before}")
    return stage


def write_trained(
    model: CausalLM, tokenizer: TextTokenizer, resolved: TuningResolved[Any], folder: Path
) -> list[str]:
    """Write the adapter or the model in all its formats; return the names in the folder.

    Raises:
        UserError: The weights have no file format.
    """
    lora, base_sha256 = resolved.lora, resolved.base_sha256
    if lora is None:
        write_merged_folder(Merged(model, tokenizer), folder / MODEL, dtype=model.lm_head.weight.dtype)
        return [MODEL]
    save_adapter(model, lora, folder / ADAPTER, base_sha256=base_sha256)
    if lora.dora:  # llama.cpp cannot apply DoRA adapters: the merged model is served
        return [ADAPTER]
    write_gguf_adapter(model, lora, folder / ADAPTER_GGUF, name=resolved.recipe.name, base_sha256=base_sha256)
    return [ADAPTER, ADAPTER_GGUF]


def moved_weights(lora: LoraConfig | None) -> str:
    """Return a description of the trained weights."""
    if lora is None:
        return "all weights"
    kind = ("DoRA" if lora.dora else "LoRA") + (
        " with rank-stabilised scaling" if lora.scaling == "rslora" else ""
    )
    return f"{kind} of rank {lora.rank} on {', '.join(lora.targets)}"


def _metrics(run: Run, model: CausalLM, n_tokens: int, folder: RunFolder) -> dict[str, float | int | str]:
    """Return the training figures of the card: steps, tokens, parameters, speed, last loss."""
    state, n_steps = run.state, run.config.n_steps
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
    if state.step < n_steps:  # only a time limit ends a run early and still seals it
        metrics["ended by"] = f"the clock, at step {state.step} of {n_steps}"
    return metrics


def _versions() -> dict[str, str]:
    """Return the versions of `PACKAGES`."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # an optional package that is not installed
    return found
