"""The end of a run: the whole model, measured on all held-out text, saved as transformers reads it; a report."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist

from modelstack.architecture.checkpoint import save_checkpoint
from modelstack.architecture.decoder import CausalLM
from modelstack.decide.plan_file import Plan
from modelstack.runs.assemble import Assembled
from modelstack.runs.folder import RunFolder
from modelstack.runs.prepare import Prepared
from modelstack.runs.progress import Display
from modelstack.runs.recipe import Resolved
from modelstack.stability.checkpoint_folders import checkpoint_path
from modelstack.stability.sharded_checkpoints import model_tensors
from modelstack.train.evaluation import Score, evaluate, held_out


def finish(
    resolved: Resolved,
    folder: RunFolder,
    prepared: Prepared,
    assembled: Assembled,
    plan: Plan | None,
    display: Display,
) -> None:
    """Measure, save and report; by the first rank alone, from the last checkpoint where there are several.

    Raises:
        UserError: The model's family has no form for what was trained.
    """
    if dist.is_initialized() and dist.get_rank() != 0:
        return
    display.say("measuring on all held-out text")
    model = whole_model(assembled, folder)
    started = time.perf_counter()
    score = evaluate(model, held_out([d.text for d in prepared.held_out], prepared.tokenizer), resolved.row_tokens)
    save_checkpoint(
        model, folder.model, tokenizer=folder.tokenizer, training=training_record(resolved, assembled, score)
    )
    interval = score.interval()
    display.say(
        f"{folder.model}: {sum(p.numel() for p in model.parameters()):,} parameters, "
        f"{assembled.run.state.n_tokens:,} tokens; {score.bits_per_byte:.4f} bits a byte on "
        f"{int(score.n_bytes.sum()):,} held-out bytes (95 %: {interval.low:.4f} to {interval.high:.4f}); "
        f"measured in {time.perf_counter() - started:.0f} s"
    )


def whole_model(assembled: Assembled, folder: RunFolder) -> CausalLM:
    """Return the trained model, gathered where it lies on several ranks.

    Raises:
        UserError: The last checkpoint is not whole.
    """
    model = assembled.run.state.model
    if isinstance(model, CausalLM) and not dist.is_initialized():
        return model
    with torch.device("meta"):
        gathered = CausalLM(assembled.config)
    tensors = model_tensors(checkpoint_path(folder.checkpoints, assembled.run.state.step))
    gathered.load_state_dict(tensors, strict=False, assign=True)
    gathered.tie_weights()
    return gathered


def training_record(resolved: Resolved, assembled: Assembled, score: Score) -> dict[str, Any]:
    """Return what `training.json` says of how the model came to be."""
    interval = score.interval()
    return {
        "recipe": resolved.model_dump(mode="json"),
        "recipe_sha256": resolved.fingerprint,
        "steps": assembled.run.state.step,
        "n_tokens": assembled.run.state.n_tokens,
        "data": assembled.run.loader.state_dict(),
        "held_out": {
            "bits_per_byte": score.bits_per_byte,
            "low": interval.low,
            "high": interval.high,
            "loss": score.loss,
            "n_bytes": int(score.n_bytes.sum()),
            "n_documents": len(score.n_bytes),
        },
    }
