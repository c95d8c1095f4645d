"""Report of a plan: `plan.md`, and `plan.png` with loss against size at equal cost, and cost at equal loss.

Letters: N parameters, D tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from modelstack.architecture.counts.table import quantity
from modelstack.decide.budget import Bill
from modelstack.decide.inference_aware import tokens_for_cost
from modelstack.decide.plan_file import Plan
from modelstack.decide.planner import Question
from modelstack.decide.scaling_laws import Allocation, ScalingLaw
from modelstack.errors import UserError
from modelstack.files import replacing

PAGE_FILE, PLOT_FILE = "plan.md", "plan.png"
_COLOURS = ("#1b6ca8", "#f2a65a", "#8d6cab", "#5b8c5a")
_SPAN = 30
"""Factor by which the curves extend below and above the planned size."""
_N_POINTS = 300


def write_page(plan: Plan, question: Question, folder: Path) -> tuple[Path, Path]:
    """Write `plan.md` and `plan.png` into a folder and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / PAGE_FILE) as temporary:
        temporary.write_text(page(plan), encoding="utf-8")
    return folder / PAGE_FILE, draw(plan, question, folder / PLOT_FILE)


def page(plan: Plan) -> str:
    """Return the page as Markdown."""
    parts = [
        f"# Plan: {plan.model.name} on {_n(plan.n_tokens)} tokens\n",
        *(f"> **Note.** {warning}\n" for warning in plan.warnings),
        _table(("", ""), _decisions(plan)),
        f"![Loss and cost against model size]({PLOT_FILE})\n",
        "## Expected loss\n",
        "Nats per token under each law, and the optimum under each law.\n",
        _table(("law", "loss", "optimal N", "optimal D", "optimal loss", "source"), _expected(plan)),
        "## Considered\n",
        _table(
            ("", "N", "D", "D / N", "loss", "training FLOPs", f"cost, {plan.cost_unit}"),
            (
                (
                    each.name,
                    _n(each.n_parameters),
                    _n(each.n_tokens),
                    f"{each.n_tokens / each.n_parameters:.1f}",
                    f"{each.loss:.4f}",
                    f"{each.training_flops:.3g}",
                    f"{each.total_cost:.4g}",
                )
                for each in plan.alternatives
            ),
        ),
        "## Time, energy, money\n",
        "Energy is the devices' own at full power; hosts and cooling are on top.\n",
        _table(("", "devices", "FLOPs", "hours", "kWh", "USD"), _bills(plan)),
        "## Memory\n",
        f"On the fullest device, of {quantity(plan.device.memory_bytes, 'B')}; {_layout(plan)}.\n",
        _table(
            ("", "bytes"),
            ((name, quantity(value, "B")) for name, value in plan.memory.model_dump().items()),
        ),
        "## Serving\n",
        _table(
            ("context", "cache of one sequence, bf16"),
            ((f"{length:,}", quantity(size, "B")) for length, size in plan.cache_bytes.items()),
        ),
        _table(
            ("sequences decoded together", "utilisation that memory allows"),
            ((str(batch), f"{share:.2%}") for batch, share in plan.decode_ceiling.items()),
        ),
        *_mixture(plan),
        f"Fingerprint: `{plan.fingerprint}`\n",
    ]
    return "\n".join(parts)


def draw(plan: Plan, question: Question, path: Path) -> Path:
    """Draw loss against size at the plan's cost under each law, and the parts of the cost at the plan's loss."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes = np.geomspace(plan.model.n_active / _SPAN, plan.model.n_active * _SPAN, _N_POINTS)
    tops = []
    for colour, expected in zip(_COLOURS, plan.expected, strict=False):
        law = expected.law
        curve = _curve(sizes, lambda N, law=law: _loss_at_cost(law, question, plan, N))
        left.plot(*curve, color=colour, label=law.name)
        best_N = min(zip(curve[1], curve[0], strict=True))[1]
        left.plot(best_N, min(curve[1]), "o", color=colour, markersize=5)
        left.plot(plan.model.n_active, expected.loss, "x", color=colour, markersize=7)
        tops.append(min(curve[1]))
    highest = max(each.loss for each in plan.expected)
    left.set_ylim(0.95 * min(tops), max(1.25 * max(tops), 1.05 * highest))
    left.axvline(plan.model.n_active, color="#999999", linewidth=0.8, linestyle=":")
    what = "training and serving cost" if plan.serving else "training costs"
    left.set_title(f"Loss when {what} {plan.total_cost:.3g} {plan.cost_unit}", fontsize=10)
    left.set_ylabel("nats per token (o least, x planned)")
    _draw_costs(right, plan, question, sizes)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlim(sizes[0], sizes[-1])
        label_by_size(axes.xaxis)
        axes.set_xlabel("parameters" + (" active" if plan.model.config.has_experts else ""))
    return save_figure(figure, path)


def save_figure(figure: Any, path: Path) -> Path:
    """Apply the common style to all axes of a figure, write it as PNG and return its path."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    return path


def label_by_size(axis: Any) -> None:
    """Label a logarithmic axis 1M, 3M, 10M, ..."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.set_major_formatter(FuncFormatter(lambda value, place: _tick(value)))
    axis.set_minor_formatter(NullFormatter())


def _tick(value: float) -> str:
    if value < 1:
        return f"{value:.1g}"
    number, _, prefix = _n(value).partition(" ")
    return f"{float(number):g}{prefix}"


def _draw_costs(axes: Any, plan: Plan, question: Question, sizes: Iterable[float]) -> None:
    """Draw training, serving and total cost for all sizes that reach the planned loss under the plan's law."""
    law, rates, demand = question.law, question.rates, question.demand

    def reaching(N: float) -> Allocation:
        return Allocation(N, law.tokens_for(plan.loss, N))

    curves = {"training": lambda N: rates.training_cost(reaching(N))}
    if demand.total:
        curves |= {
            "serving": lambda N: rates.serving_cost(reaching(N).n_parameters, demand),
            "both": lambda N: rates.total_cost(reaching(N), demand),
        }
    lowest = float("inf")
    for colour, (name, cost) in zip(_COLOURS, curves.items(), strict=False):
        found = _curve(sizes, cost)
        axes.plot(*found, color=colour, label=name)
        lowest = min(lowest, *found[1]) if name == "training" else lowest
    axes.axvline(plan.model.n_active, color="#999999", linewidth=0.8, linestyle=":", label="planned size")
    axes.set_yscale("log")
    label_by_size(axes.yaxis)
    axes.set_ylim(lowest / 10 if demand.total else lowest / 1.5, max(lowest, plan.total_cost) * 20)
    axes.set_title(f"Cost of loss {plan.loss:.3f} under {law.name}", fontsize=10)
    axes.set_ylabel(plan.cost_unit)


def _loss_at_cost(law: ScalingLaw, question: Question, plan: Plan, N: float) -> float:
    return law.loss(N, tokens_for_cost(N, plan.total_cost, question.demand, question.rates))


def _curve(sizes: Iterable[float], value: Callable[[float], float]) -> tuple[list[float], list[float]]:
    """Return the sizes for which a value exists, and the values."""
    points = []
    for N in sizes:
        try:
            points.append((float(N), value(float(N))))
        except UserError:
            continue  # The curve ends where the size is too small for the loss, or serving exhausts the budget.
    return [N for N, _ in points], [each for _, each in points]


def _decisions(plan: Plan) -> list[tuple[str, str]]:
    config, schedule, rate = plan.model.config, plan.schedule, plan.learning_rate
    rows = [
        ("model", f"{config.model_type}, {config.num_hidden_layers} layers, {config.hidden_size} wide"),
        ("parameters", f"{plan.model.n_parameters:,} ({plan.model.embedding_share:.0%} embeddings)"),
        ("training tokens", f"{plan.n_tokens:,} ({plan.n_tokens / plan.model.n_active:.1f} per parameter)"),
        ("training FLOPs", f"{plan.training_flops:.3g} as 6 N D, {plan.exact_training_flops:.3g} with attention"),
        ("batch", f"{plan.sequences_per_batch:,} sequences of {plan.request.context:,}: {plan.batch_tokens.rule}"),
        ("learning rate", f"{rate.value:.3g}: {rate.rule} ({rate.source})"),
        (
            "schedule",
            f"{schedule.n_steps:,} steps: {schedule.warmup_steps:,} warm-up, last {schedule.decay_steps:,} decay",
        ),
        ("expected loss", f"{plan.loss:.3f} nats per token ({plan.expected[0].law.name})"),
        ("training time", f"{_hours(plan.training.hours)} on {plan.training.n_devices} x {plan.training.device}"),
        (
            "total cost",
            f"{plan.total_cost:.4g} {plan.cost_unit}{', training and serving' if plan.serving else ''}",
        ),
    ]
    if plan.mixture:
        rows.insert(2, ("active parameters", f"{plan.model.n_active:,}"))
    return rows


def _expected(plan: Plan) -> list[Sequence[str]]:
    return [
        (
            each.law.name,
            f"{each.loss:.4f}",
            _n(each.best_n_parameters),
            _n(each.best_n_tokens),
            f"{each.best_loss:.4f}",
            each.law.source,
        )
        for each in plan.expected
    ]


def _bills(plan: Plan) -> list[Sequence[str]]:
    rows = [("training", plan.training)]
    rows += zip(("reading prompts", "writing outputs"), plan.serving, strict=False)
    rows += [("training elsewhere", each) for each in plan.elsewhere]
    return [(name, *_bill(each)) for name, each in rows]


def _bill(each: Bill) -> Sequence[str]:
    return (
        f"{each.n_devices} x {each.device}",
        f"{each.flops:.3g}",
        f"{each.hours:.4g}",
        f"{each.energy_kwh:.4g}",
        f"{each.usd:.4g}",
    )


def _mixture(plan: Plan) -> list[str]:
    if not plan.mixture:
        return []
    mixture = plan.mixture
    rows = [
        (
            "this mixture",
            f"{_n(mixture.n_active)} of {_n(mixture.n_total)}",
            f"{mixture.training_flops_per_token:.3g}",
            quantity(mixture.weight_bytes_bf16, "B"),
            "between both",
        )
    ]
    rows += [
        (
            name,
            _n(each.n_parameters),
            f"{each.training_flops_per_token:.3g}",
            quantity(each.weight_bytes_bf16, "B"),
            f"{each.loss:.4f}",
        )
        for name, each in (("dense of the active size", mixture.as_active), ("dense of all", mixture.as_total))
    ]
    head = ("", "parameters", "training FLOPs per token", "weights, bf16", "loss")
    return ["## Mixture against dense\n", _table(head, rows)]


def _layout(plan: Plan) -> str:
    degrees = plan.layout.model_dump()
    degrees_text = ", ".join(f"{name} {value}" for name, value in degrees.items() if value not in (1, "none"))
    return (degrees_text or "one device, one sequence at a time") + ("" if plan.fits else "; **does not fit**")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _n(value: float) -> str:
    return quantity(value).replace(" G", " B")


def _hours(hours: float) -> str:
    return f"{hours:.3g} hours" if hours >= 1 else f"{60 * hours:.3g} minutes"
