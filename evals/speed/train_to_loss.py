"""Tokens and time to reach nanoGPT's final bits per byte, with its recipe and with modelstack's.

nanoGPT's model is trained to the end of its recipe; its held-out bits per byte, averaged over seeds, are the
target. modelstack's model has at most as many parameters, its schedule ends at less than half of those tokens, and
it must reach the target there. As in modded-nanogpt's rule for records, the mean over seeds counts, with one-sided
p < 0.01, here including the spread of both programs (Welch). Runs alternate, seed by seed. Each outcome is stored
as a file, so an interrupted benchmark resumes. No recipe was chosen on the documents that the figures use
(`loss_corpus`); both are in `loss_recipes`.

    python -m evals.speed.train_to_loss --nanogpt CHECKOUT [--tuned] [--seeds 3] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from pydantic import BaseModel, TypeAdapter

from evals.speed.loss_corpus import LossCorpus, prepare
from evals.speed.loss_recipes import NANOGPT, NANOGPT_TUNED, OURS_RECIPE, shortened
from evals.speed.loss_runs import Outcome, train_modelstack, train_nanogpt
from evals.speed.results import (
    BenchmarkResult,
    Comparison,
    Curves,
    Figure,
    add_result_option,
    write_result,
    write_whole,
)
from evals.statistics import mean_interval
from modelstack.errors import UserError

OURS, THEIRS = "modelstack", "nanoGPT"
KEEP = Path("evals", "speed", "results", "train_to_loss")
SIGNIFICANT = 0.01
N_CURVE_POINTS = 20
_OUTCOME = TypeAdapter(Outcome)


@dataclass(frozen=True, slots=True)
class Program:
    """A side of the comparison."""

    name: str
    recipe: BaseModel
    train: Callable[[int], Outcome]
    """Trains with the given seed and returns the outcome."""


def kept(program: Program, seed: int, corpus: LossCorpus, folder: Path) -> Outcome:
    """Return a run's outcome, from the stored file of an identical run or by training now."""
    identity = [program.recipe.model_dump(mode="json"), corpus.sha256, torch.get_num_threads(), torch.__version__]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    path = folder / f"{program.name}-{digest}-seed{seed}.json"
    if path.is_file():
        return _OUTCOME.validate_json(path.read_bytes())
    outcome = program.train(seed)
    write_whole(path, json.dumps(asdict(outcome)))
    return outcome


def outcomes(
    programs: Sequence[Program], n_seeds: int, corpus: LossCorpus, folder: Path
) -> dict[str, list[Outcome]]:
    """Return all runs' outcomes by program; programs alternate, and so does their order."""
    found: dict[str, list[Outcome]] = {program.name: [] for program in programs}
    for seed in range(n_seeds):
        for program in programs if seed % 2 == 0 else reversed(programs):
            outcome = kept(program, seed, corpus, folder)
            found[program.name].append(outcome)
            print(
                f"seed {seed}  {program.name:10}  {outcome.bits_per_byte:.4f} bits per byte  "
                f"{outcome.n_tokens:>9,} tokens  {outcome.seconds:6.1f} s  {outcome.n_parameters:,} parameters",
                flush=True,
            )
    return found


def p_not_below(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return Welch's one-sided p for the hypothesis that the mean of `ours` is not below that of `theirs`.

    NaN for fewer than two values.
    """
    from scipy.stats import ttest_ind

    if min(len(ours), len(theirs)) < 2:
        return math.nan
    return float(ttest_ind(ours, theirs, equal_var=False, alternative="less").pvalue)  # pyright: ignore


def figures(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> tuple[Figure, ...]:
    """Return the figures: difference to the target, its p value, and the ratios of tokens and seconds."""
    pairs = list(zip(ours, theirs, strict=True))
    bits = [o.bits_per_byte for o in ours], [o.bits_per_byte for o in theirs]
    gap = statistics.mean(bits[0]) - statistics.mean(bits[1])
    tokens = theirs[0].n_tokens / ours[0].n_tokens
    return (
        Figure("bits per byte: ours minus nanoGPT's", gap, "bits per byte", bound=0.0),
        Figure("p that ours is not below (Welch, one-sided)", p_not_below(*bits), "", bound=SIGNIFICANT),
        Figure("times fewer tokens than nanoGPT", tokens, "x", bound=2.0, bound_kind="at least"),
        _ratio("times less time than nanoGPT", [(a.seconds, b.seconds) for a, b in pairs], 2.0),
        _ratio("times less CPU time than nanoGPT", [(a.cpu_seconds, b.cpu_seconds) for a, b in pairs]),
    )


def _ratio(name: str, pairs: Sequence[tuple[float, float]], bound: float | None = None) -> Figure:
    """Return the geometric mean of theirs over ours, with its interval over seeds."""
    interval = mean_interval([math.log(theirs / ours) for ours, theirs in pairs])
    value, low, high = (math.exp(x) for x in (interval.value, interval.low, interval.high))
    return Figure(name, value, "x", low, high, bound, "at least")


def curves(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> Curves:
    """Return both training losses up to the end of `ours`, averaged over seeds and spans of tokens."""
    end = ours[0].n_tokens
    x = tuple(end * (k + 1) / N_CURVE_POINTS for k in range(N_CURVE_POINTS))
    lines = {OURS: _smoothed(ours, x), THEIRS: _smoothed(theirs, x)}
    return Curves("training loss", "tokens", "nats per token", x, lines, OURS)


def _smoothed(runs: Sequence[Outcome], x: Sequence[float]) -> tuple[float, ...]:
    """Return the mean loss between each point of `x` and the one before."""
    per_step = runs[0].n_tokens / len(runs[0].losses)
    borders = [0, *(max(1, round(end / per_step)) for end in x)]
    spans = [(min(a, b - 1), b) for a, b in pairwise(borders)]
    return tuple(statistics.fmean(loss for run in runs for loss in run.losses[a:b]) for a, b in spans)


def programs(corpus: LossCorpus, checkout: Path | None, *, is_tuned: bool, is_quick: bool) -> list[Program]:
    """Return modelstack's program, and nanoGPT's if there is a checkout.

    `is_tuned` uses nanoGPT's recipe tuned for few tokens instead of its own.
    """
    ours, theirs = OURS_RECIPE, NANOGPT_TUNED if is_tuned else NANOGPT
    if is_quick:
        ours, theirs = shortened(ours), shortened(theirs)
    found = [Program(OURS, ours, lambda seed: train_modelstack(ours, corpus, "test", seed))]
    if checkout is not None:
        path = checkout
        found.insert(0, Program(THEIRS, theirs, lambda seed: train_nanogpt(theirs, path, corpus, "test", seed)))
    return found


def report(found: dict[str, list[Outcome]], parameters: dict[str, str]) -> BenchmarkResult:
    """Return figures, comparisons and curves; without nanoGPT, only modelstack's figures."""
    ours, theirs = found[OURS], found.get(THEIRS)
    if theirs is None:
        alone = Figure("bits per byte of ours", statistics.mean(o.bits_per_byte for o in ours), "bits per byte")
        note = (
            "No checkout of nanoGPT was given (--nanogpt, or NANOGPT in the environment): only ours was measured."
        )
        return BenchmarkResult((alone,), parameters=parameters, notes=(note,))
    return BenchmarkResult(
        figures=figures(ours, theirs),
        comparisons=tuple(_compared(found, *quantity) for quantity in COMPARED),
        curves=(curves(ours, theirs),),
        parameters=parameters,
    )


def _compared(
    found: Mapping[str, Sequence[Outcome]], title: str, unit: str, value: Callable[[Outcome], float]
) -> Comparison:
    return Comparison(title, unit, OURS, {name: statistics.mean(map(value, runs)) for name, runs in found.items()})


COMPARED: tuple[tuple[str, str, Callable[[Outcome], float]], ...] = (
    ("held-out bits per byte", "bits per byte", lambda outcome: outcome.bits_per_byte),
    ("tokens trained on", "tokens", lambda outcome: outcome.n_tokens),
    ("time of training", "s", lambda outcome: outcome.seconds),
    ("parameters", "", lambda outcome: outcome.n_parameters),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a bound is broken, 2 after invalid arguments, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    named = os.environ.get("NANOGPT")
    parser.add_argument("--nanogpt", type=Path, metavar="FOLDER", default=Path(named) if named else None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", default=KEEP, help="folder of shards and outcomes")
    parser.add_argument("--tuned", action="store_true", help="use nanoGPT's recipe tuned for few tokens")
    parser.add_argument("--quick", action="store_true", help="a few steps that only test that the benchmark works")
    add_result_option(parser)
    options = parser.parse_args(argv)
    try:
        corpus = prepare(options.keep / "shards")
        wanted = programs(corpus, options.nanogpt, is_tuned=options.tuned, is_quick=options.quick)
        found = outcomes(wanted, options.seeds, corpus, options.keep)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    parameters = {program.name: program.recipe.model_dump_json() for program in wanted}
    parameters |= {"corpus": corpus.sha256, "seeds": str(options.seeds), "threads": str(torch.get_num_threads())}
    result = report(found, parameters)
    for figure in result.figures:
        print(f"{figure.name:45} {figure.value:9.4g} {figure.unit}")
    write_result(options.result, result)
    return 1 if result.broken else 0


if __name__ == "__main__":
    sys.exit(main())
