"""Time between the tokens of running replies while a long prompt arrives: one process or two.

Four replies are being written when a prompt of 2,048 tokens comes. The gaps between their tokens, from its arrival
to its first token, are compared for one engine that reads prompts in pieces of 512 or of 64 tokens, and for one
whose prompts a second process reads (`prefill_process`). Wall time; the second process needs a core of its own.

    OMP_WAIT_POLICY=PASSIVE python -m evals.speed.prompt_arrival [--model smollm2-135m] [--rounds 5]
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, finish
from modelstack.commands.torch_engines import Numbers, load_torch_base, prefill_process, torch_engine
from modelstack.inference.engine import GenerateRequest
from modelstack.inference.pending_reply import PendingReply
from modelstack.inference.streams import Stream
from modelstack.inference.torch.engine import TorchEngine
from modelstack.train.process import set_up_process

N_RUNNING, N_SHORT, N_BEFORE = 4, 64, 24
"""Running replies, tokens of their prompts, and tokens of each before the long prompt comes."""
TWO = "two processes"
PIECES = {"one process, pieces of 512": 512, "one process, pieces of 64": 64, TWO: 512}
"""Tokens of a step at most."""


@dataclass(slots=True)
class Gaps:
    """Measurements of one kind of engine, over all rounds, in milliseconds."""

    between: list[float] = field(default_factory=list[float])
    """Gaps between tokens of running replies while the long prompt was read."""
    before: list[float] = field(default_factory=list[float])
    """Gaps before it came."""
    first: list[float] = field(default_factory=list[float])
    """From its arrival to its first token."""


def prompt(rng: random.Random, n_tokens: int, n_vocab: int) -> list[int]:
    """Return a prompt that no cache holds."""
    return [rng.randrange(100, n_vocab - 100) for _ in range(n_tokens)]


def measure(engine: TorchEngine, n_long: int, rounds: int, seed: int) -> Gaps:
    """Return the gaps of some rounds, after one that warms up."""
    rng, found = random.Random(seed), Gaps()
    arrive(engine, n_long, rng, Gaps())
    for _ in range(rounds):
        arrive(engine, n_long, rng, found)
    return found


def arrive(engine: TorchEngine, n_long: int, rng: random.Random, found: Gaps) -> None:
    """Submit a long prompt while replies are written; add the gaps to `found`."""
    n_vocab = len(engine.vocabulary)

    def asked(n_tokens: int, n_reply: int, name: str) -> GenerateRequest:
        ids = prompt(rng, n_tokens, n_vocab)
        return GenerateRequest(ids, n_reply, end_ids=frozenset(), conversation=name)

    told: list[list[float]] = [[] for _ in range(N_RUNNING)]
    running: list[PendingReply[Stream]] = [
        engine.submit(
            asked(N_SHORT, 2000, f"running {number}"),
            on_tokens=lambda _, times=times: times.append(time.perf_counter()),
        )
        for number, times in enumerate(told)
    ]
    while min(map(len, told)) < N_BEFORE:
        engine.step()
    long = asked(n_long, 1, "long")
    arrival = time.perf_counter()
    submission = engine.submit(long)
    while not submission.is_done:
        engine.step()
    end = time.perf_counter()
    for each in running:
        engine.cancel(each)
    found.first.append(1e3 * (end - arrival))
    for times in told:
        gaps = [(1e3 * (later - earlier), later) for earlier, later in zip(times, times[1:], strict=False)]
        found.before += [gap for gap, at in gaps[N_BEFORE // 2 :] if at < arrival]
        found.between += [gap for gap, at in gaps if arrival <= at <= end]


def load(model: str, kind: str, precision: Numbers, threads: int, window: int) -> TorchEngine:
    """Return an engine of one kind."""
    from agentkit.models.catalog.entries import local_path

    path = local_path(model)
    prefill = prefill_process(path, precision, threads, window) if kind == TWO else None
    return torch_engine(
        load_torch_base(path, None, precision),
        precision,
        context_window=window,
        max_step_tokens=PIECES[kind],
        prefill=prefill,
        seed=0,
    )


def run(
    model: str, kinds: Sequence[str], n_long: int, rounds: int, precision: Numbers, threads: int
) -> BenchmarkResult:
    """Measure all kinds of engines."""
    figures, p99 = list[Figure](), dict[str, float]()
    window = max(4096, 2 * n_long)
    for kind in kinds:
        with load(model, kind, precision, threads, window) as engine:
            found = measure(engine, n_long, rounds, seed=0)
        p50, high = np.percentile(found.between, [50, 99])
        p99[kind] = float(high)
        figures.append(Figure(f"{kind}: 99th percentile of the gaps", float(high), "ms"))
        figures.append(Figure(f"{kind}: first token of the long prompt", float(np.median(found.first)), "ms"))
        print(
            f"{kind:28} gaps {p50:7.1f} ms (median) {high:7.1f} (99 %), {np.median(found.before):6.1f} before; "
            f"first token {np.median(found.first) / 1e3:5.2f} s  ({len(found.between)} gaps)",
            flush=True,
        )
    comparison = Comparison(f"gaps while a prompt of {n_long} tokens is read", "ms (99 %)", kinds[-1], p99)
    parameters = {"model": model, "rounds": str(rounds), "numbers": precision.value, "threads": str(threads)}
    return BenchmarkResult(tuple(figures), (comparison,), parameters=parameters)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each kind of engine; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a model of the catalog")
    parser.add_argument("--kind", action="append", choices=[*PIECES], help="default: all")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of the long prompt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--numbers", choices=[each.value for each in Numbers], default="bf16")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    add_result_option(parser)
    options = parser.parse_args(argv)
    set_up_process(options.threads)
    kinds = options.kind or [*PIECES]
    precision = Numbers(options.numbers)
    result = run(options.model, kinds, options.tokens, options.rounds, precision, options.threads)
    return finish(options.result, result)


if __name__ == "__main__":
    sys.exit(main())
