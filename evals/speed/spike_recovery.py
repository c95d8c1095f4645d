"""Recovery from injected faults under different rules, and the cost of the rules without a fault.

A small byte-level model is trained for 400 steps. At one step a fault occurs: a NaN in a gradient, an infinite
loss, a loss of 1000 times its size, ten batches of noise at five times the learning rate, or a NaN on only one of
two ranks. The same run without a fault is the reference. Rules: none, OLMo-core's, PaLM's manual procedure
(`spike_rules`), and modelstack's with default settings. Guard's thresholds were not tuned on these seeds; seed 100
was used during its development.

"Lost" steps are healthy steps whose work is not in the final weights: skipped, undone by a roll-back, or never
trained on. PaLM's rule repeats undone steps on other data and therefore computes more batches; all other rules
compute 400. False alarms of the peers' rules are counted on the recorded losses and norms of the clean runs, which
these rules would not have changed.

Outcomes are stored in a folder; an interrupted benchmark resumes there with the missing runs.

    python -m evals.speed.spike_recovery --work FOLDER
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from evals.speed.results import BenchmarkResult, Comparison, Curves, Figure, add_result_option, write_result
from evals.speed.spike_rules import PALM_RISE, PALM_WINDOW, OlmoRule
from evals.speed.spike_runs import (
    CLEAN,
    FAULTS,
    OLMO,
    OURS,
    PALM,
    RANK_LOCAL,
    RULES,
    WORLD,
    Outcome,
    Sizes,
    Spec,
    faults_of,
    read_outcome,
    run_on_two,
    run_one,
    write_outcome,
)

QUICK = Sizes(
    n_steps=100, fault_step=75, width=64, layers=1, rows=2, row_tokens=32, final_rows=64, evaluated_rows=8
)
"""Only tests that the benchmark works; losses still fall quickly this early, so figures are not meaningful."""
MAX_PERCENT = 1.0
NOTHING_LEARNT = 8.0
"""Bits per byte assigned to weights that are not finite."""


def specs_of(seeds: Sequence[int]) -> list[Spec]:
    """Return the specifications of all runs: faults on the first seed, clean runs on each seed."""
    first = seeds[0]
    alone = [Spec(rule, fault, first) for fault in FAULTS for rule in RULES]
    clean = [Spec(OURS, CLEAN, seed) for seed in seeds]
    two = [Spec(rule, RANK_LOCAL, first, WORLD) for rule in RULES]
    return [*clean, *alone, Spec(OURS, CLEAN, first, WORLD), *two]


def measure(specs: Sequence[Spec], sizes: Sizes, folder: Path) -> dict[Spec, Outcome]:
    """Return the outcomes of all runs; runs that already have an outcome in the folder are not repeated."""
    missing = [spec for spec in specs if not (folder / spec.file_name).exists()]
    for n, spec in enumerate(spec for spec in missing if spec.world == 1):
        print(f"run {n + 1} of {len(missing)}: {spec.rule}, fault: {spec.fault}, seed {spec.seed}", flush=True)
        write_outcome(folder / spec.file_name, run_one(spec, sizes))
    on_two = [spec for spec in missing if spec.world > 1]
    if on_two:
        print(f"{len(on_two)} runs on {WORLD} processes", flush=True)
        run_on_two(on_two, sizes, folder)
    return {spec: read_outcome(folder / spec.file_name) for spec in specs}


def percent_worse(outcome: Outcome, clean: Outcome) -> float:
    """Return the relative excess of an outcome's bits over the clean run's in percent; infinite if not finite."""
    if not math.isfinite(outcome.final_bits):
        return math.inf
    return 100 * (outcome.final_bits / clean.final_bits - 1)


def steps_to_return(outcome: Outcome, clean: Outcome, fault_step: int) -> int | None:
    """Return the number of batches from the fault until held-out bits stay within 1 % of the clean curve's.

    The resolution is the grid of the curves. None if the bits never return.
    """
    at_step = {step: bits for _, step, bits in clean.curve}
    after = [(n, bits / at_step[step] - 1) for n, step, bits in outcome.curve if n > fault_step]
    found: int | None = None
    for n, excess in after:
        is_back = math.isfinite(excess) and 100 * excess <= MAX_PERCENT
        found = (found or n) if is_back else None
    return None if found is None else found - fault_step


def healthy_lost(spec: Spec, outcome: Outcome, sizes: Sizes) -> tuple[int, int]:
    """Return the number of healthy steps that were skipped, and of those undone or never trained on."""
    schedule = faults_of(spec.fault, sizes.fault_step).schedule
    bad = {fault.step + k for fault in schedule for k in range(getattr(fault, "n_steps", 1))}
    return len(set(outcome.skipped) - bad), outcome.n_undone + outcome.n_passed_over


def false_alarms(clean: Outcome) -> dict[str, int]:
    """Return each rule's alarms on a clean run.

    OLMo's and PaLM's are computed from the recorded losses and norms.
    """
    olmo = OlmoRule(None)
    for loss, norm in zip(clean.losses, clean.norms, strict=True):
        olmo.judge(loss, norm)
    palm = sum(
        loss > PALM_RISE * statistics.median(clean.losses[n - PALM_WINDOW : n])
        for n, loss in enumerate(clean.losses)
        if n >= PALM_WINDOW
    )
    return {OLMO: len(olmo.skipped), PALM: palm, OURS: len(clean.skipped)}


def summarise(outcomes: dict[Spec, Outcome], sizes: Sizes, seeds: Sequence[int]) -> BenchmarkResult:
    """Print the tables and return the figures."""
    figures: list[Figure] = []
    comparisons: list[Comparison] = []
    curves: list[Curves] = []
    for fault in (*FAULTS, RANK_LOCAL):
        world = WORLD if fault == RANK_LOCAL else 1
        clean = outcomes[Spec(OURS, CLEAN, seeds[0], world)]
        print(f"\n{fault}; clean run {clean.final_bits:.4f} bits per byte")
        print(f"{'rule':16}{'bits':>9}{'worse':>9}{'skipped':>9}{'undone':>9}{'back after':>12}{'batches':>9}")
        values: dict[str, float] = {}
        for rule in RULES:
            spec = Spec(rule, fault, seeds[0], world)
            outcome = outcomes[spec]
            worse = percent_worse(outcome, clean)
            skipped, undone = healthy_lost(spec, outcome, sizes)
            back = steps_to_return(outcome, clean, sizes.fault_step)
            returned = "never" if back is None else str(back)
            bits = f"{rule:16}{outcome.final_bits:9.4f}{worse:8.2f}%"
            print(f"{bits}{skipped:9}{undone:9}{returned:>12}{outcome.n_trained:9}")
            values[rule] = outcome.final_bits if math.isfinite(outcome.final_bits) else NOTHING_LEARNT
            if rule == OURS:
                name = f"{fault}: final bits per byte above the clean run's"
                figures.append(Figure(name, worse, "%", bound=MAX_PERCENT))
                figures.append(Figure(f"{fault}: healthy steps lost", skipped + undone, "steps"))
        comparisons.append(Comparison(f"final bits per byte after {fault}", "bits", OURS, values))
        curves.append(
            _curves(fault, {rule: outcomes[Spec(rule, fault, seeds[0], world)] for rule in RULES}, clean)
        )
    alarms = [false_alarms(outcomes[Spec(OURS, CLEAN, seed)]) for seed in seeds]
    print(f"\nfalse alarms in {len(seeds)} clean runs")
    for rule in (OLMO, PALM, OURS):
        print(f"{rule:16}{sum(alarm[rule] for alarm in alarms):9}")
    total = sum(alarm[OURS] for alarm in alarms)
    figures.append(Figure(f"false alarms in {len(seeds)} clean runs", total, "steps", bound=0))
    return BenchmarkResult(
        figures=tuple(figures),
        comparisons=tuple(comparisons),
        curves=tuple(curves),
        parameters={"sizes": str(sizes), "seeds": " ".join(map(str, seeds)), "torch": torch.__version__},
        notes=(f"Weights that are not finite are drawn as {NOTHING_LEARNT:.0f} bits, as for random guessing.",),
    )


def _curves(fault: str, outcomes: dict[str, Outcome], clean: Outcome) -> Curves:
    """Return held-out bits along the steps; a repeated step has its last value."""
    steps = [step for _, step, _ in clean.curve]
    lines = {"clean": tuple(bits for _, _, bits in clean.curve)}
    for rule, outcome in outcomes.items():
        at_step = {step: bits for _, step, bits in outcome.curve}
        lines[rule] = tuple(at_step[s] if math.isfinite(at_step[s]) else NOTHING_LEARNT for s in steps)
    return Curves(f"{fault} on held-out text", "step", "bits per byte", tuple(map(float, steps)), lines, OURS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a bound is broken, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds; faults are injected with the first"
    )
    parser.add_argument("--work", type=Path, help="folder of outcomes for resuming; default: temporary")
    parser.add_argument("--quick", action="store_true", help="tiny runs that only test that the benchmark works")
    add_result_option(parser)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    sizes = QUICK if options.quick else Sizes()
    seeds = options.seeds[:2] if options.quick else options.seeds
    with tempfile.TemporaryDirectory() if options.work is None else nullcontext(options.work) as folder:
        outcomes = measure(specs_of(seeds), sizes, Path(folder))
    result = summarise(outcomes, sizes, seeds)
    write_result(options.result, result)
    return 1 if result.broken else 0


if __name__ == "__main__":
    sys.exit(main())
