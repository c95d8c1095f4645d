"""Plan of a pipeline: hours, memory, disk and cost of each step, and for 1,000 times the size.

The costs are FLOPs over the speed of the recipe's device, and constants for work that is not arithmetic. They are
estimates: a run prints what each step took beside them. The plan for 1,000 times the size is `modelstack plan`'s,
for a model with 1,000 times the parameters that is trained as long as a scaling law asks.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelstack.errors import UserError
from modelstack.gguf_file import open_gguf
from modelstack.pipeline.recipe import PipelineRecipe, checked_section
from modelstack.pipeline.steps import STEPS, StepName

if TYPE_CHECKING:
    from modelstack.architecture.config import ModelConfig
    from modelstack.decide.plan_file import Plan
    from modelstack.posttrain.recipe import TuningRecipe

START_S = 3.0
"""Seconds until a step's process works: imports of its libraries, and reading the model."""
PAGES_PER_S, MEGABYTES_PER_S, TOKENIZER_S_PER_MB = 60.0, 8.0, 2.0
"""Speeds of the data step and of the tokenizer's training, measured on two threads of a server CPU."""
COMPARED_STEP_S = 0.25
"""Seconds of a step of the small trainings that compare data and tokenizers."""
BYTES_PER_TOKEN = 3.0
BYTES_PER_WEIGHT = 2.0
"""Bytes per weight of a checkpoint in bf16."""
DECODE_SHARE = 0.15
"""Speed of writing tokens in batches, as a share of the speed of reading them in training."""
CHAT_TOKENS = 400
"""Typical tokens of an example: its tools, request and reply."""
AGENT_TOKENS, TWIN_TOKENS = 240, 60
"""Typical tokens of a request in a conversation with the agent's tools, and of one without tools."""
RUNTIME_BYTES = 450e6
"""Memory of a process with torch before it loads a model."""
SCALE = 1000


@dataclass(frozen=True, slots=True)
class StepCost:
    """Estimated cost of a step."""

    seconds: float
    memory_bytes: float = RUNTIME_BYTES
    disk_bytes: float = 20e6
    flops: float = 0.0


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine at hand."""

    cores: int
    memory_bytes: float
    free_disk_bytes: float

    @classmethod
    def here(cls, folder: Path) -> Machine:
        """Measure this machine; `folder` names the disk."""
        place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return cls(len(os.sched_getaffinity(0)), float(memory), float(shutil.disk_usage(place).free))


def planned_costs(recipe: PipelineRecipe) -> dict[str, StepCost]:
    """Return the cost of each step that is not skipped; a skipped one costs nothing.

    Raises:
        UserError: A name in the recipe is unknown.
    """
    found: dict[StepName, StepCost] = {
        step.name: StepCost(0.0, 0.0, 0.0) if step.name in recipe.skipped else _COSTS[step.name](recipe)
        for step in STEPS
    }
    evaluation = _evaluation_flops(recipe) / _speed(recipe)
    return {
        step.name: cost
        if not step.makes_model or not cost.seconds
        else StepCost(cost.seconds + evaluation, cost.memory_bytes, cost.disk_bytes, cost.flops)
        for step in STEPS
        if (cost := found[step.name])
    }


def model_config(recipe: PipelineRecipe) -> ModelConfig:
    """Return the config that a recipe trains from scratch, before the ablation's choice.

    Raises:
        UserError: The preset is unknown, or the config is invalid.
    """
    from modelstack.architecture.presets.find import find_config
    from modelstack.train.run.recipe import shaped

    run = checked_section(recipe, "train")
    assert run.model is not None  # a recipe without a plan has a model
    config = shaped(find_config(run.model.preset), run.model.config)
    return config.with_(vocab_size=recipe.tokenizer.vocab_size)


def n_parameters(recipe: PipelineRecipe) -> float:
    """Return the number of parameters of the model of steps 7 to 12."""
    if recipe.base is None:
        from modelstack.architecture.counts.parameters import count_parameters

        return float(count_parameters(model_config(recipe)).total)
    from modelstack.posttrain.weights_by_name import weights_path

    try:
        path = weights_path(recipe.base)
    except UserError:
        return 0.5e9  # a model that is not there yet; the smallest that the recipes name
    if path.is_file():
        with open_gguf(path) as file:
            return float(sum(math.prod(tensor.shape) for tensor in file.tensors.values()))
    return sum(file.stat().st_size for file in path.glob("*.safetensors")) / BYTES_PER_WEIGHT


def training_plan(recipe: PipelineRecipe) -> Plan:
    """Return what a scaling law advises for the hours of the training, with the recipe's model.

    Raises:
        UserError: The request cannot be met.
    """
    from modelstack.decide.plan_file import request_of
    from modelstack.decide.planner import plan

    table = recipe.decide
    request = request_of(
        hours=table.hours * table.training_share,
        device=table.device,
        precision=table.precision,
        utilisation={"training": table.mfu, "prompt": table.mfu, "output": 0.01},
        context=checked_section(recipe, "train").data.row_tokens or 512,
    )
    return plan(request, model_config(recipe))


def scaled_plan(recipe: PipelineRecipe, factor: float = SCALE) -> Plan:
    """Return a plan for a model of `factor` times the parameters, trained as long as is optimal for its size.

    Raises:
        UserError: The request cannot be met.
    """
    from modelstack.decide.plan_file import request_of
    from modelstack.decide.planner import plan

    table = recipe.decide
    request = request_of(
        quality_of=factor * n_parameters(recipe),
        device=table.scale_device,
        n_devices=table.scale_devices,
        precision="bf16",
        utilisation={"training": 0.4, "prompt": 0.4, "output": 0.01},
        context=4096,
        vocab_size=65_536,
    )
    return plan(request)


def scaled_dry_run(plan: Plan) -> str:
    """Spread the planned model over its layout's ranks without devices; return the report."""
    from modelstack.train.optimizers.config import OptimizerConfig
    from modelstack.train.parallel.dry_run import dry_run
    from modelstack.train.parallel.mesh import ParallelConfig

    parallel = ParallelConfig(layout=plan.layout, precision="bf16")
    found = dry_run(plan.model.config, parallel, context=plan.request.context, optimizer=OptimizerConfig())
    return found.text()


def post_training_flops(costs: Mapping[str, StepCost]) -> float:
    """Return the FLOPs of the steps after the training."""
    return sum(costs[name].flops for name in ("sft", "preferences", "reasoning", "inference", "align"))


def _speed(recipe: PipelineRecipe) -> float:
    """Return FLOP/s of the recipe's device in training."""
    from modelstack.decide.devices import find_device

    return find_device(recipe.decide.device).peak(recipe.decide.precision) * recipe.decide.mfu


def _decide(recipe: PipelineRecipe) -> StepCost:
    return StepCost(START_S)


def _data(recipe: PipelineRecipe) -> StepCost:
    table = recipe.data
    megabytes = sum(table.megabytes.values())
    files = [Path(path) for path in (*table.folders, *table.crawl)]
    own = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
    examples = table.tool_tokens / CHAT_TOKENS / 400  # about 400 examples a second
    seconds = table.pages / PAGES_PER_S + (megabytes + own) / MEGABYTES_PER_S + examples + START_S
    return StepCost(seconds, disk_bytes=3e6 * (megabytes + own) + 20e6)


def _tokenizer(recipe: PipelineRecipe) -> StepCost:
    table = recipe.tokenizer
    megabytes = table.megabytes or sum(recipe.data.megabytes.values())
    trainings = 4 * table.compared_seeds * table.compared_steps * COMPARED_STEP_S
    return StepCost(START_S + TOKENIZER_S_PER_MB * megabytes + trainings)


def _architecture(recipe: PipelineRecipe) -> StepCost:
    from modelstack.architecture.ablation.choices import BASE
    from modelstack.architecture.config import build
    from modelstack.decide.budget import exact_training_flops

    table = recipe.architecture
    base = build(BASE | table.base)
    n_tokens = table.steps * table.rows * table.length * table.seeds * (1 + len(table.choices))
    flops = exact_training_flops(base, n_tokens, table.length)
    # Each run has one thread, and a training in bytes this small reaches a fraction of the peak.
    return StepCost(START_S + 2 * flops / _speed(recipe) / min(2, table.processes), flops=flops)


def _train(recipe: PipelineRecipe) -> StepCost:
    from modelstack.decide.budget import exact_training_flops
    from modelstack.decide.memory import Layout, training_memory

    run = checked_section(recipe, "train")
    config, context = model_config(recipe), run.data.row_tokens or 512
    flops = exact_training_flops(config, run.steps * run.rows * context, context)
    layout = Layout(micro_batch=max(1, run.rows // run.micro_batches))
    memory = RUNTIME_BYTES + training_memory(config, layout, context, run.precision or "fp32").total
    return StepCost(
        START_S + flops / _speed(recipe), memory, 16 * n_parameters(recipe) * (run.checkpoints.keep + 1), flops
    )


def _stability(recipe: PipelineRecipe) -> StepCost:
    train, table = _train(recipe), recipe.stability
    share = 2 * table.steps / checked_section(recipe, "train").steps
    return StepCost(2 * START_S + train.seconds * share, train.memory_bytes, train.disk_bytes, train.flops * share)


def _tuning(recipe: PipelineRecipe, section: str, tokens_of: float, passes: float) -> StepCost:
    """Return the cost of a post-training.

    Args:
        recipe: The recipe.
        section: Its table.
        tokens_of: Tokens of one pass over all data, for a recipe in epochs.
        passes: Passes over a row, a forward pass with its backward pass being one.
    """
    run: TuningRecipe = checked_section(recipe, section)
    n_tokens = run.steps * run.rows * _row_tokens(run) if run.steps else run.epochs * tokens_of
    n = n_parameters(recipe)
    flops = (6 if run.train == "full" else 4) * n * n_tokens * passes
    memory = RUNTIME_BYTES + n * (16 if run.train == "full" else 2.5 if run.precision == "bf16" else 4.5) + 300e6
    return StepCost(START_S + flops / _speed(recipe), memory, 8 * n if run.train == "full" else 0.2 * n, flops)


def _row_tokens(run: TuningRecipe) -> float:
    """Return the tokens of a row: packed rows are full, others hold one example or pair."""
    is_packed = getattr(run.data, "layout", "") == "packed"
    return float(run.data.row_tokens) if is_packed else 2.0 * CHAT_TOKENS  # pyright: ignore[reportAttributeAccessIssue]


def _sft(recipe: PipelineRecipe) -> StepCost:
    table = recipe.data
    n_tokens = 0.7 * (table.tool_tokens + table.agent_examples * AGENT_TOKENS) + 2 * table.twins * TWIN_TOKENS
    return _tuning(recipe, "sft", n_tokens, 1.0)


def _preferences(recipe: PipelineRecipe) -> StepCost:
    return _tuning(recipe, "preferences", 2 * recipe.data.pairs * CHAT_TOKENS, 2.6)  # two rows, and the reference


def _reasoning(recipe: PipelineRecipe) -> StepCost:
    run = checked_section(recipe, "reasoning")
    n_steps = run.n_steps(recipe.data.tasks)
    n_replies = n_steps * run.rows * run.sampling.group + 2 * min(run.max_validation, recipe.data.tasks)
    n = n_parameters(recipe)
    written = 2 * n * n_replies * run.sampling.max_tokens / DECODE_SHARE
    learnt = 5 * n * n_steps * run.rows * run.sampling.group * CHAT_TOKENS
    tuned = _tuning(recipe, "reasoning", 0, 0)
    flops = written + learnt
    return StepCost(START_S + flops / _speed(recipe), tuned.memory_bytes, tuned.disk_bytes, flops)


def _inference(recipe: PipelineRecipe) -> StepCost:
    table, n = recipe.inference, n_parameters(recipe)
    flops = 2 * n * (4 * table.tokens + 3 * table.held_out) + 200 * n  # Hessians and rounding
    return StepCost(3 * START_S + 2 * flops / _speed(recipe), RUNTIME_BYTES + 12 * n, 8 * n, flops)


def _toolcalls(recipe: PipelineRecipe) -> StepCost:
    n, table = n_parameters(recipe), recipe.toolcalls
    flops = 2 * n * table.tasks * 2 * (CHAT_TOKENS + table.max_tokens / DECODE_SHARE)
    return StepCost(2 * START_S + flops / _speed(recipe), RUNTIME_BYTES + n, flops=flops)


def _align(recipe: PipelineRecipe) -> StepCost:
    n, table = n_parameters(recipe), recipe.align
    replies = 2 * 7 * table.requests + 2 * table.attacks * len(table.transforms)
    flops = 2 * n * (replies * (40 + 48 / DECODE_SHARE) + 8 * table.direction * 40)
    return StepCost(3 * START_S + flops / _speed(recipe), RUNTIME_BYTES + 6 * n, flops=flops)


def _release(recipe: PipelineRecipe) -> StepCost:
    n = n_parameters(recipe)
    flops = 2 * n * recipe.release.memorisation_rows * 2 * (50 + 50 / DECODE_SHARE)
    return StepCost(2 * START_S + flops / _speed(recipe), RUNTIME_BYTES + 6 * n, 4 * n, flops)


def _agent(recipe: PipelineRecipe) -> StepCost:
    return StepCost(10.0 * len(recipe.agent.tasks))


def _evaluation_flops(recipe: PipelineRecipe) -> float:
    n, table = n_parameters(recipe), recipe.evaluation
    read = 1000 * table.kilobytes / BYTES_PER_TOKEN
    calls = 2 * table.tasks * (CHAT_TOKENS + table.reply_tokens / 2 / DECODE_SHARE)
    refusals = 2 * table.requests * (40 + 48 / DECODE_SHARE)
    samples = (len(table.prompts) + len(table.asked)) * table.sample_tokens / DECODE_SHARE
    return 2 * n * (read + calls + refusals + samples)


_COSTS = {
    "decide": _decide,
    "data": _data,
    "tokenizer": _tokenizer,
    "architecture": _architecture,
    "train": _train,
    "stability": _stability,
    "sft": _sft,
    "preferences": _preferences,
    "reasoning": _reasoning,
    "inference": _inference,
    "toolcalls": _toolcalls,
    "align": _align,
    "release": _release,
    "agent": _agent,
}
