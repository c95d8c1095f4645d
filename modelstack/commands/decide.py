"""Step 1: plan a training run, and fit a scaling law to your own runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelstack.commands.help import explained

_BUDGET = "Budget (exactly one)"
_DEMAND = "Demand over the model's life"
_MACHINE = "Machine"


@explained(
    reads="a budget, a demand and a machine, as options",
    writes="plan.json, plan.md and plan.png in the folder --out",
    example="modelstack plan --hours 24 --device h100 --devices 8",
    then='a training recipe with `plan = "runs/plan"`, and modelstack train RECIPE.toml',
)
def plan(
    out: Annotated[Path, typer.Option(help="Folder for plan.json, plan.md and plan.png.")] = Path("runs/plan"),
    budget_flops: Annotated[
        float | None, typer.Option(help="FLOPs of training and serving together.", rich_help_panel=_BUDGET)
    ] = None,
    hours: Annotated[
        float | None, typer.Option(help="Hours of the devices, training and serving.", rich_help_panel=_BUDGET)
    ] = None,
    money: Annotated[
        float | None, typer.Option(help="Dollars for training and serving.", rich_help_panel=_BUDGET)
    ] = None,
    quality_of: Annotated[
        float | None,
        typer.Option(help="Quality of the compute-optimal model with N parameters.", rich_help_panel=_BUDGET),
    ] = None,
    tokens_served: Annotated[
        float, typer.Option(help="Prompt and output tokens; 0: training alone.", rich_help_panel=_DEMAND)
    ] = 0,
    prompt_tokens: Annotated[
        float,
        typer.Option(help="Tokens of a request; only the ratio to the output counts.", rich_help_panel=_DEMAND),
    ] = 1,
    output_tokens: Annotated[float, typer.Option(help="Output tokens of a request.", rich_help_panel=_DEMAND)] = 1,
    device: Annotated[str, typer.Option(help="Kind of device to train on.", rich_help_panel=_MACHINE)] = (
        "cpu-2-threads"
    ),
    serving_device: Annotated[
        str | None,
        typer.Option(help="Kind of device to serve on; --device if not given.", rich_help_panel=_MACHINE),
    ] = None,
    devices: Annotated[int, typer.Option(help="Number of devices.", rich_help_panel=_MACHINE)] = 1,
    devices_file: Annotated[
        Path | None, typer.Option(help="TOML with [devices.NAME] of your own.", rich_help_panel=_MACHINE)
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, tf32, bf16 or fp8.", rich_help_panel=_MACHINE)] = "bf16",
    training_mfu: Annotated[
        float, typer.Option(help="Share of the peak that training reaches.", rich_help_panel=_MACHINE)
    ] = 0.4,
    prompt_mfu: Annotated[
        float, typer.Option(help="Share of the peak in reading prompts.", rich_help_panel=_MACHINE)
    ] = 0.4,
    output_mfu: Annotated[
        float, typer.Option(help="Share of the peak in writing outputs.", rich_help_panel=_MACHINE)
    ] = 0.01,
    layout: Annotated[
        str | None,
        typer.Option(help="Such as shard=8,tp=2,micro_batch=1; also pp, cp, ep, replicate, checkpointing=full."),
    ] = None,
    context: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 2048,
    preset: Annotated[
        str | None, typer.Option(help="Published size, config.json or checkpoint folder; else a shape is chosen.")
    ] = None,
    vocab_size: Annotated[int, typer.Option(help="Vocabulary of a chosen shape.")] = 16384,
    law: Annotated[
        str, typer.Option(help="besiroglu, hoffmann, hoffmann-printed, or own with --runs.")
    ] = "besiroglu",
    runs: Annotated[
        Path | None, typer.Option(help="JSON lines of your runs (n_parameters, n_tokens, loss): fits a law `own`.")
    ] = None,
) -> None:
    """Plan a training run: model, tokens, batch, rate, memory, time, energy and money."""
    from rich.console import Console

    from modelstack.architecture.presets.find import find_config
    from modelstack.decide.devices import read_devices
    from modelstack.decide.isoflop import fit_law, read_runs
    from modelstack.decide.memory import parse_layout
    from modelstack.decide.plan_file import request_of, write_plan
    from modelstack.decide.plan_page import write_page
    from modelstack.decide.planner import plan as decide
    from modelstack.decide.planner import resolve
    from modelstack.terminal.tables import print_wrapped

    request = request_of(
        budget_flops=budget_flops,
        hours=hours,
        money=money,
        quality_of=quality_of,
        tokens_served=tokens_served,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        device=device,
        serving_device=serving_device,
        n_devices=devices,
        precision=precision,
        utilisation={"training": training_mfu, "prompt": prompt_mfu, "output": output_mfu},
        context=context,
        preset=preset,
        vocab_size=vocab_size,
        layout=parse_layout(layout) if layout else None,
        law=law,
    )
    own_devices = read_devices(devices_file) if devices_file else None
    own_law = fit_law(read_runs(runs)).law if runs else None
    decided = decide(request, find_config(preset) if preset else None, own_devices, own_law)
    files = (
        write_plan(decided, out),
        *write_page(decided, resolve(request, own_devices, own_law), out),
    )
    console = Console()
    print_wrapped(
        console,
        f"{decided.model.name}: {decided.model.n_parameters:,} parameters, {decided.n_tokens:,} tokens, "
        f"{_rounded(decided.training.hours)} h on {devices} x {device}, "
        f"{_rounded(decided.training.energy_kwh)} kWh, {_rounded(decided.training.usd)} USD; "
        f"expected loss {decided.loss:.3f} ({law})",
        indent="  ",
    )
    for warning in decided.warnings:
        print_wrapped(console, f"- {warning}", indent="  ")
    for file in files:
        print_wrapped(console, str(file))


@explained(
    reads="JSON lines with n_parameters, n_tokens and loss; `modelstack train sweep` writes such a file",
    writes="law.json and isoflop.png in the folder --out",
    example="modelstack fit-law runs/isoflop/runs.jsonl",
    then="modelstack plan --law own --runs runs/isoflop/runs.jsonl --hours 24",
)
def fit_law(
    runs: Annotated[Path, typer.Argument(help="JSON lines with n_parameters, n_tokens, loss of finished runs.")],
    out: Annotated[Path, typer.Option(help="Folder for law.json and isoflop.png.")] = Path("runs/law"),
    bootstrap: Annotated[int, typer.Option(help="Samples for the intervals; 0: none.", min=0)] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the starts and the samples.")] = 0,
) -> None:
    """Fit a scaling law to your own runs: at least 2 compute budgets with 3 sizes each."""
    from rich.console import Console

    from modelstack.decide import isoflop
    from modelstack.decide.isoflop_page import told, write_fit
    from modelstack.terminal.tables import print_wrapped

    points = isoflop.read_runs(runs)
    fit = isoflop.fit_law(points, n_bootstrap=bootstrap, seed=seed)
    parabolas = isoflop.fit_parabolas(points, n_bootstrap=bootstrap, seed=seed)
    console = Console()
    files = write_fit(fit, parabolas, points, out)
    for line in [*told(fit, parabolas), *map(str, files)]:
        print_wrapped(console, line, indent="    ")


def _rounded(value: float) -> str:
    """Return three significant digits, or all before the decimal point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
