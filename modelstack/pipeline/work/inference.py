"""Step 10: adapters merged, weights rounded, the result compared with the original: the stage that is served.

The stage holds the model in bf16 and a GGUF file with the rounded weights. Its record has the divergence of the
two on held-out text, and its parent is the stage of the last training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from modelstack.pipeline.job import StepJob
from modelstack.pipeline.measuring import TASKS_FILE
from modelstack.pipeline.record import StepResult

if TYPE_CHECKING:
    from modelstack.architecture.decoder import CausalLM
    from modelstack.inference.quantise.comparison import Comparison
    from modelstack.posttrain.base import Base
    from modelstack.posttrain.stages.record import Measurement
    from modelstack.posttrain.starting_point import StartingPoint

SERVED = "served"


def work(job: StepJob) -> StepResult:
    """Merge, quantise and compare.

    Raises:
        UserError: The model cannot be written as GGUF in a format of the recipe.
    """
    from modelstack.inference.quantise import quantisation
    from modelstack.posttrain.stages.stage import MODEL_GGUF, is_stage
    from modelstack.posttrain.starting_point import starting_point
    from modelstack.reasoning.sampling.frozen_model import load_merged
    from modelstack.terminal.progress_bars import progress_bars
    from modelstack.train.process import set_up_process

    set_up_process(job.recipe.threads)
    table, served = job.recipe.inference, job.folder / SERVED
    if is_stage(served):  # sealed by a process that ended before the step's own record
        (served / "stage.json").unlink()
    start = starting_point(job.model)
    base = load_merged(start, precision="fp32", device="cpu")
    served.mkdir(parents=True, exist_ok=True)
    settings = quantisation.Settings(
        formats=tuple(quantisation.named_format(name) for name in table.formats),
        method=table.method,
        bits=table.bits,
        n_tokens=table.tokens,
        n_held_out=table.held_out,
        length=table.length,
    )
    _write_model(base, job)
    texts = sorted(job.of("data/text").glob("*.jsonl"))
    measure = _right_calls(base, job)
    with progress_bars(job.console) as told:
        found = quantisation.run(base.model, base.tokenizer, served / MODEL_GGUF, texts, settings, told, measure)
    assert found.comparison is not None and found.measured is not None  # there is text, and there are tasks
    bits = quantisation.bits_per_weight(found.quantised)
    figures = _figures(found.comparison)
    _seal(job, start, figures)
    before, after = found.measured
    rows = [(name, f"{before[name]:.1%}", f"{after[name]:.1%}") for name in before]
    compared = found.comparison
    perplexity = (f"{compared.perplexity_before:.3f}", f"{compared.perplexity_after:.3f}")
    return StepResult(
        what=(
            f"{bits:.2f} bits a weight, {found.n_bytes / 1e6:.1f} MB: KL {compared.kl:.4f} ± "
            f"{compared.kl_half_width:.4f} nats, the same choice at {compared.same_choice:.1%}"
        ),
        content=(f"{SERVED}/model", f"{SERVED}/{MODEL_GGUF}", f"{SERVED}/{MODEL_GGUF}.{quantisation.REPORT}"),
        facts={"bits per weight": round(bits, 3), "KL": round(compared.kl, 6), "bytes": found.n_bytes},
        model=f"{SERVED}/{MODEL_GGUF}",
        table=(("figure", "before", "after"), ("perplexity", *perplexity), *rows),
        notes=tuple(found.notes),
    )


def _write_model(base: Base, job: StepJob) -> None:
    from modelstack.posttrain.lora.merge import Merged, write_merged_folder

    write_merged_folder(Merged(base.model, base.tokenizer), job.folder / SERVED / "model")


def _right_calls(base: Base, job: StepJob) -> Callable[[CausalLM], Mapping[str, float]]:
    from modelstack.reasoning.rollouts.call_shares import call_shares
    from modelstack.reasoning.sampling.continuing import TorchPolicy
    from modelstack.reasoning.tasks.task import read_tasks

    file, table = job.of("data/evaluation") / TASKS_FILE, job.recipe.evaluation
    tasks = [task.judged_by("calls") for task in read_tasks(file)][: table.tasks]

    def measure(model: CausalLM) -> Mapping[str, float]:
        found = call_shares(TorchPolicy(model), base.encoder, tasks, table.reply_tokens)
        return {"valid calls": found.valid, "right calls": found.right, "with grammar": found.right_with_grammar}

    return measure


def _figures(compared: Comparison) -> tuple[Measurement, ...]:
    from modelstack.posttrain.stages.record import Measurement

    low, high = compared.kl - compared.kl_half_width, compared.kl + compared.kl_half_width
    kl = Measurement(
        name="KL to the weights before rounding", value=compared.kl, low=low, high=high, n=compared.n_tokens
    )
    same = Measurement(name="same most probable token", value=compared.same_choice, n=compared.n_tokens)
    return kl, same


def _seal(job: StepJob, start: StartingPoint, figures: tuple[Measurement, ...]) -> None:
    from modelstack.posttrain.stages.record import Evaluation, StageRecord, canonical
    from modelstack.posttrain.stages.stage import MODEL, MODEL_GGUF, seal

    recipe = {"quantised": job.recipe.inference.model_dump(mode="json")}
    record = StageRecord(
        kind="merged",
        name=f"{job.recipe.name}-served",
        what=f"{start.parent.name} merged in bf16, and rounded to {', '.join(job.recipe.inference.formats)}.",
        parents=(start.parent,),
        base_sha256=start.sha256,
        recipe=recipe,
        recipe_sha256=hashlib.sha256(canonical(recipe).encode()).hexdigest(),
        evaluation=Evaluation(after=figures),
    )
    seal(job.folder / SERVED, record, [MODEL, MODEL_GGUF])
