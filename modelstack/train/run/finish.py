"""The end of a run: evaluate the model on all held-out text, save it for transformers, and write a report."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from modelstack.architecture.checkpoint import save_checkpoint
from modelstack.architecture.counts.parameters import count_parameters
from modelstack.architecture.decoder import CausalLM
from modelstack.decide.plan_file import Plan
from modelstack.run_folder import RunFolder
from modelstack.stability.checkpoint_folders import checkpoint_path
from modelstack.stability.fault_injection import read_ledgers
from modelstack.stability.goodput import account
from modelstack.stability.run_events import EVENTS_FILE, read_events
from modelstack.stability.sharded_checkpoints import model_tensors
from modelstack.train.evaluation import HeldOut, evaluate, held_out
from modelstack.train.run.assemble import Assembled
from modelstack.train.run.baselines import Baseline, baselines
from modelstack.train.run.peak_memory import peak_memory
from modelstack.train.run.prepare import Prepared, text_files, training_texts
from modelstack.train.run.progress import Display
from modelstack.train.run.recipe import Resolved
from modelstack.train.run.report import (
    HeldOutResult,
    RunFacts,
    data_files,
    held_out_result,
    machine_facts,
    speed_of,
    write_report,
)
from modelstack.train.utilisation import Utilisation, plain_flops_per_token


def finish(
    resolved: Resolved,
    folder: RunFolder,
    prepared: Prepared,
    assembled: Assembled,
    plan: Plan | None,
    utilisation: Utilisation,
    display: Display,
) -> None:
    """Evaluate, save and report, on rank 0 only; runs on several ranks use the last checkpoint.

    Raises:
        UserError: The family's config.json cannot express the model.
    """
    if dist.is_initialized() and dist.get_rank() != 0:
        return
    memory = peak_memory(next(assembled.run.state.model.parameters()).device)  # of the training only
    model = whole_model(assembled, folder)
    documents = held_out([d.text for d in prepared.held_out], prepared.tokenizer)
    with display.preparing() as on_activity:
        on_activity("measuring on all held-out text")
        result = held_out_result(evaluate(model, documents, resolved.row_tokens), documents)
        record = training_record(resolved, assembled, result)
        save_checkpoint(model, folder.model, tokenizer=folder.tokenizer, training=record)
        on_activity("fitting baselines")
        simpler = _baselines(resolved, prepared, documents) if resolved.recipe.evaluation.baselines else ()
    facts = run_facts(resolved, folder, assembled, result, simpler, utilisation, memory)
    page = write_report(facts, folder.path, metrics_file=folder.metrics, samples_file=folder.samples, plan=plan)
    display.say(
        f"{folder.model}: {facts.n_parameters:,} parameters, trained on {assembled.run.state.n_tokens:,} tokens"
    )
    display.say(
        f"{result.bits_per_byte:.4f} bits per byte (95 %: {result.low:.4f} to {result.high:.4f}) on "
        f"{result.n_bytes:,} held-out bytes"
    )
    if simpler:
        display.say("baselines on the same text, bits per byte:")
    for each in sorted(simpler, key=lambda each: each.bits_per_byte):
        display.say(f"  {each.bits_per_byte:.4f}  {each.name}")
    display.say(f"report: {page}")


def whole_model(assembled: Assembled, folder: RunFolder) -> CausalLM:
    """Return the trained model, gathered from the last checkpoint if it is on several ranks.

    Raises:
        UserError: The last checkpoint is incomplete.
    """
    model = assembled.run.state.model
    if isinstance(model, CausalLM) and not dist.is_initialized():
        return model
    with torch.device("meta"):
        gathered = CausalLM(assembled.config)
    tensors = model_tensors(checkpoint_path(folder.checkpoints, assembled.run.state.step))
    gathered.load_state_dict(tensors, assign=True)
    gathered.tie_weights()
    return gathered


def training_record(resolved: Resolved, assembled: Assembled, result: HeldOutResult) -> dict[str, Any]:
    """Return the content of `training.json`: how the model was trained."""
    return {
        "recipe": resolved.model_dump(mode="json"),
        "recipe_sha256": resolved.fingerprint,
        "steps": assembled.run.state.step,
        "n_tokens": assembled.run.state.n_tokens,
        "data": assembled.run.loader.state_dict(),
        "held_out": result.model_dump(),
    }


def run_facts(
    resolved: Resolved,
    folder: RunFolder,
    assembled: Assembled,
    result: HeldOutResult,
    simpler: tuple[Baseline, ...],
    utilisation: Utilisation,
    memory: int,
) -> RunFacts:
    """Return the facts that the report needs in addition to the run's metrics."""
    config, recipe = assembled.config, resolved.recipe
    count = count_parameters(config)
    model = {
        "family": config.model_type,
        "width x layers": f"{config.hidden_size} x {config.num_hidden_layers}",
        "heads, KV heads": f"{config.num_attention_heads}, {config.num_key_value_heads}",
        "vocabulary": f"{config.vocab_size:,}",
        "rows of": f"{resolved.row_tokens:,} tokens, {resolved.rows} a step",
        "computed in": resolved.precision,
        "layout": resolved.layout.model_dump_json(),
    }
    return RunFacts(
        name=recipe.name,
        recipe=resolved.model_dump_json(indent=1, exclude={"model"}),
        recipe_sha256=resolved.fingerprint,
        steps=resolved.steps,
        model=model,
        n_parameters=count.total,
        n_active=count.active,
        seeds={"run": recipe.seed},
        machine=machine_facts(next(assembled.run.state.model.parameters()).device),
        data=data_files(text_files(resolved), recipe.data.held_out),
        held_out=result,
        baselines=simpler,
        speed=speed_of(utilisation, plain_flops_per_token(config, resolved.row_tokens)),
        peak_memory_bytes=memory,
        goodput=tuple(account(read_events(folder.path / EVENTS_FILE), read_ledgers(folder.path)).lines()),
    )


def _baselines(resolved: Resolved, prepared: Prepared, documents: HeldOut) -> tuple[Baseline, ...]:
    shards = prepared.shards
    return baselines(
        [document.text for document in training_texts(resolved)],
        documents,
        training_ids=[shards.tokens(d) for d in range(shards.n_documents)],
        vocab_size=len(prepared.tokenizer.vocabulary.token_bytes),
    )
