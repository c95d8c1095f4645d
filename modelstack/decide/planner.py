"""Planner: from a budget or quality and an expected demand to model, tokens, batch, rates, memory, time and cost.

The budget covers training and serving. The planner therefore balances model size against tokens over the model's
lifetime (`inference_aware`); without served tokens, this gives the compute-optimal model (`scaling_laws`). A shape
near that size is chosen, or a preset is used unchanged with the tokens that the budget allows.

Batch and learning rate: Step Law (Li et al. 2025, arXiv 2503.04715), fitted on 3,700 runs of dense and sparse
models with AdamW: rate 1.79 N^-0.713 D^0.307, batch 0.58 D^0.571 tokens, N without embeddings. The rates in the
fit end at 2^-7, so larger ones are cut to that. Schedule: warm-up, stable, decay (MiniCPM, arXiv 2404.06395), with
decay over the last fifth (Haegele et al., arXiv 2405.18392).

Letters: N parameters, D tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.counts.parameters import count_parameters
from modelstack.architecture.counts.table import quantity
from modelstack.decide.budget import (
    Bill,
    bill,
    cache_by_context,
    compare_mixture,
    decode_ceiling,
    embedding_share,
    exact_training_flops,
    hour_rates,
    law_parameters,
    money_rates,
    non_embedding_parameters,
)
from modelstack.decide.devices import DEVICES, Device, find_device
from modelstack.decide.inference_aware import (
    FLOP_RATES,
    FLOPS_PER_SERVED_TOKEN,
    Demand,
    Rates,
    best_for_cost,
    cheapest_for_loss,
    tokens_for_cost,
)
from modelstack.decide.memory import Layout, training_memory
from modelstack.decide.plan_file import Alternative, Expectation, ModelPlan, Plan, PlanRequest, Rule, Schedule
from modelstack.decide.scaling_laws import FITTED_PARAMETERS, LAWS, Allocation, ScalingLaw, find_law
from modelstack.decide.shapes import dense_shape
from modelstack.errors import UserError

STEP_LAW = "Step Law, arXiv 2503.04715"
LARGEST_RATE = 2**-7
WARMUP_SHARE, MOST_WARMUP_STEPS, DECAY_SHARE = 0.01, 2000, 0.2
FEWEST_STEPS = 100
"""Minimum steps of a run, required by schedule and warm-up; the batch is reduced to reach it."""
USABLE_MEMORY = 0.9
"""Share of the memory available to training; the rest is for the allocator and collectives."""
DECODE_BATCHES = (1, 8, 64, 256)


@dataclass(frozen=True, slots=True)
class Question:
    """A request with its names resolved."""

    law: ScalingLaw
    others: tuple[ScalingLaw, ...]
    trainer: Device
    server: Device
    demand: Demand
    rates: Rates
    cost: float | None
    """Cost of training and serving, in the unit of `rates`; None: a loss is requested."""
    quality_of: float | None = None

    def loss_asked(self, law: ScalingLaw) -> float:
        """Return the loss of a compute-optimal model with `quality_of` parameters under a law."""
        asked = law.optimum_of_size(self.quality_of or 0)
        return law.loss(asked.n_parameters, asked.n_tokens)

    def best(self, law: ScalingLaw) -> Allocation:
        """Return the optimal size and tokens under a law."""
        if self.cost is not None:
            return best_for_cost(law, self.cost, self.demand, self.rates)
        return cheapest_for_loss(law, self.loss_asked(law), self.demand, self.rates)

    def tokens(self, n_parameters: float) -> float:
        """Return the tokens that a model of this size is trained on."""
        if self.cost is not None:
            return tokens_for_cost(n_parameters, self.cost, self.demand, self.rates)
        return self.law.tokens_for(self.loss_asked(self.law), n_parameters)


def resolve(
    request: PlanRequest, own_devices: Mapping[str, Device] | None = None, own_law: ScalingLaw | None = None
) -> Question:
    """Return a request with devices, law, demand and prices resolved.

    Raises:
        UserError: A name is unknown, or a device lacks what the budget is measured in.
    """
    trainer = find_device(request.device, own_devices)
    server = find_device(request.serving_device or request.device, own_devices)
    law = find_law(request.law, own_law)
    known = [*LAWS.values(), *([own_law] if own_law else [])]
    demand = Demand()
    if request.tokens_served:
        share = request.prompt_tokens / (request.prompt_tokens + request.output_tokens)
        demand = Demand(request.tokens_served * share, request.tokens_served * (1 - share))
    precision, used, n = request.precision, request.utilisation, request.n_devices
    # Serving uses as many devices as training, so hours refer to the same machine.
    rates, cost = FLOP_RATES, request.budget_flops
    if request.hours is not None:
        rates, cost = hour_rates(trainer, server, precision, used, n, n), request.hours
    elif request.money is not None:
        rates, cost = money_rates(trainer, server, precision, used), request.money
    elif request.quality_of is not None and trainer.usd_per_hour and server.usd_per_hour:
        rates = money_rates(trainer, server, precision, used)
    others = tuple(each for each in known if each.name != law.name)
    return Question(law, others, trainer, server, demand, rates, cost, request.quality_of)


def plan(
    request: PlanRequest,
    preset: ModelConfig | None = None,
    own_devices: Mapping[str, Device] | None = None,
    own_law: ScalingLaw | None = None,
) -> Plan:
    """Plan a run.

    Args:
        request: The request.
        preset: Model, if the request names one.
        own_devices: Additional devices by name.
        own_law: Additional scaling law.

    Raises:
        UserError: The request cannot be met; the message gives the reason.
    """
    question = resolve(request, own_devices, own_law)
    best = question.best(question.law)
    config = preset or dense_shape(best.n_parameters, request.vocab_size, request.context)
    model = _model(request, config)
    n_tokens = question.tokens(model.n_active)
    sequences = _sequences(n_tokens, request)
    layout, fits = _layout(request, config, question.trainer, sequences)
    allocation = Allocation(model.n_active, n_tokens)
    schedule = _schedule(round(n_tokens / (sequences * request.context)))
    used, n = request.utilisation, request.n_devices
    return Plan(
        request=request,
        model=model,
        n_tokens=schedule.n_steps * sequences * request.context,
        batch_tokens=Rule(
            value=sequences * request.context,
            rule=f"0.58 D^0.571, whole sequences for every device, at least {FEWEST_STEPS} steps",
            source=STEP_LAW,
        ),
        sequences_per_batch=sequences,
        learning_rate=_learning_rate(model.n_non_embedding, n_tokens),
        schedule=schedule,
        layout=layout,
        memory=training_memory(config, layout, request.context, request.precision),
        fits=fits,
        device=question.trainer,
        training_flops=allocation.training_flops,
        exact_training_flops=exact_training_flops(config, n_tokens, request.context),
        training=bill(allocation.training_flops, question.trainer, request.precision, used.training, n),
        serving=_serving(question, request, model.n_active),
        cost_unit=question.rates.unit,
        total_cost=question.rates.total_cost(allocation, question.demand),
        expected=tuple(_expectation(law, question, allocation) for law in (question.law, *question.others)),
        alternatives=_alternatives(question, best, allocation),
        elsewhere=_elsewhere(request, question.trainer, allocation.training_flops, own_devices),
        mixture=compare_mixture(config, n_tokens, question.law) if config.has_experts else None,
        cache_bytes=cache_by_context(config, request.context),
        decode_ceiling={
            batch: decode_ceiling(config, question.server, request.context, batch, request.precision)
            for batch in DECODE_BATCHES
        },
        warnings=_warnings(request, question, model, allocation, layout, fits),
    ).sealed()


def _model(request: PlanRequest, config: ModelConfig) -> ModelPlan:
    count = count_parameters(config)
    return ModelPlan(
        name=request.preset or f"dense-{quantity(count.total).replace(' ', '').replace('G', 'B').lower()}",
        config=config,
        n_parameters=count.total,
        n_active=law_parameters(config),
        n_non_embedding=non_embedding_parameters(config),
        embedding_share=embedding_share(config),
    )


def _sequences(n_tokens: float, request: PlanRequest) -> int:
    """Return the sequences of a batch: a multiple of the data-parallel ranks."""
    ranks = request.layout.data_ranks if request.layout else request.n_devices
    tokens = 0.58 * n_tokens**0.571
    tokens = min(tokens, n_tokens / FEWEST_STEPS)
    sequences = ranks * max(1, round(tokens / (request.context * ranks)))
    if sequences * request.context > n_tokens:
        raise UserError(
            f"{n_tokens:.3g} tokens are fewer than one batch of {sequences} sequences of {request.context:,}: "
            f"give a larger budget, a shorter context or fewer devices"
        )
    return sequences


def _learning_rate(n_non_embedding: int, n_tokens: float) -> Rule:
    found = 1.79 * n_non_embedding**-0.713 * n_tokens**0.307
    rule = "1.79 N^-0.713 D^0.307, N all parameters without embeddings, for AdamW"
    if found > LARGEST_RATE:
        rule += f"; {found:.3g} cut to the largest rate that the law was fitted with, 2^-7"
    return Rule(value=min(found, LARGEST_RATE), rule=rule, source=STEP_LAW)


def _schedule(n_steps: int) -> Schedule:
    n_steps = max(1, n_steps)
    return Schedule(
        n_steps=n_steps,
        warmup_steps=min(MOST_WARMUP_STEPS, max(1, round(WARMUP_SHARE * n_steps))),
        decay_steps=round(DECAY_SHARE * n_steps),
    )


def _layout(request: PlanRequest, config: ModelConfig, device: Device, sequences: int) -> tuple[Layout, bool]:
    """Return the requested layout, or FSDP with the largest micro-batch that fits, and whether it fits.

    Checkpointing is used only if nothing fits without it.
    """
    room = USABLE_MEMORY * device.memory_bytes
    if request.layout:
        memory = training_memory(config, request.layout, request.context, request.precision)
        return request.layout, memory.total <= room
    per_rank = sequences // request.n_devices
    sizes = [size for size in range(min(per_rank, 64), 0, -1) if per_rank % size == 0]
    for checkpointing in ("none", "full"):
        for size in sizes:
            layout = Layout(shard=request.n_devices, micro_batch=size, checkpointing=checkpointing)
            if training_memory(config, layout, request.context, request.precision).total <= room:
                return layout, True
    return Layout(shard=request.n_devices, checkpointing="full"), False


def _serving(question: Question, request: PlanRequest, n_active: int) -> tuple[Bill, ...]:
    demand, used = question.demand, request.utilisation
    if not demand.total:
        return ()
    each = FLOPS_PER_SERVED_TOKEN * n_active
    return tuple(
        bill(each * tokens, question.server, request.precision, share, request.n_devices)
        for tokens, share in ((demand.prompt_tokens, used.prompt), (demand.output_tokens, used.output))
    )


def _expectation(law: ScalingLaw, question: Question, allocation: Allocation) -> Expectation:
    best = question.best(law)
    return Expectation(
        law=law,
        loss=law.loss(allocation.n_parameters, allocation.n_tokens),
        best_n_parameters=best.n_parameters,
        best_n_tokens=best.n_tokens,
        best_loss=law.loss(best.n_parameters, best.n_tokens),
    )


def _alternatives(question: Question, best: Allocation, planned: Allocation) -> tuple[Alternative, ...]:
    """Return the other choices considered, under the plan's own law."""
    law, found = question.law, {"planned": planned, "best size, no shape given": best}
    if question.demand.total:
        loss = law.loss(planned.n_parameters, planned.n_tokens)
        found["compute-optimal for the planned loss, serving ignored"] = law.optimum_for_loss(loss)
    for name, factor in (("half the size", 0.5), ("double the size", 2.0)):
        try:
            found[f"{name}, same {'budget' if question.cost is not None else 'loss'}"] = Allocation(
                factor * planned.n_parameters, question.tokens(factor * planned.n_parameters)
            )
        except UserError:
            continue  # Not reachable: too small for the loss, or serving exhausts the budget.
    return tuple(
        Alternative(
            name=name,
            n_parameters=each.n_parameters,
            n_tokens=each.n_tokens,
            loss=law.loss(each.n_parameters, each.n_tokens),
            training_flops=each.training_flops,
            total_cost=question.rates.total_cost(each, question.demand),
        )
        for name, each in found.items()
    )


def _elsewhere(
    request: PlanRequest, trainer: Device, flops: float, own: Mapping[str, Device] | None
) -> tuple[Bill, ...]:
    others = {**DEVICES, **(own or {})}
    return tuple(
        bill(flops, device, request.precision, request.utilisation.training, request.n_devices)
        for device in others.values()
        if device.name != trainer.name and request.precision in device.peak_flops
    )


def _warnings(
    request: PlanRequest, question: Question, model: ModelPlan, planned: Allocation, layout: Layout, fits: bool
) -> tuple[str, ...]:
    warnings: list[str] = []
    if question.law.extrapolates(planned.n_parameters):
        low, high = (quantity(each).replace("G", "B") for each in FITTED_PARAMETERS)
        small = planned.n_parameters < FITTED_PARAMETERS[0]
        warnings.append(
            f"{quantity(planned.n_parameters)} parameters lie outside the range of {low} to {high} that the "
            f"published laws were fitted on: the losses are extrapolated"
            + (", and at 1 to 10 million parameters embeddings dominate" if small else "")
            + ". Fit a law to your own runs (`--runs`) instead."
        )
    if model.embedding_share > 0.4:
        warnings.append(
            f"{model.embedding_share:.0%} of all parameters are embeddings: a smaller vocabulary would reduce them"
        )
    guessing = log(model.config.vocab_size)
    if question.law.loss(planned.n_parameters, planned.n_tokens) > guessing:
        warnings.append(
            f"{question.law.name!r} predicts a loss above the {guessing:.1f} nats of guessing among "
            f"{model.config.vocab_size:,} tokens: it does not apply to such a short run"
        )
    if planned.tokens_per_parameter > 10_000:
        warnings.append(
            f"{planned.tokens_per_parameter:,.0f} tokens per parameter: the laws have been measured up to 10,000 "
            f"only (Sardana and Frankle)"
        )
    if not fits:
        warnings.append(
            f"the run does not fit in {USABLE_MEMORY:.0%} of {question.trainer.name}'s "
            f"{quantity(question.trainer.memory_bytes, 'B')}, with layout "
            f"{layout.model_dump_json()}: take more devices (--devices) or another --layout"
        )
    if model.config.has_experts:
        warnings.append(
            "the laws were fitted on dense models: losses are those of a dense model of the active size"
        )
    if request.context > model.config.max_position_embeddings:
        warnings.append(
            f"context {request.context:,} is longer than the model's "
            f"{model.config.max_position_embeddings:,} positions"
        )
    return tuple(warnings)
