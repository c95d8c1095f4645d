"""Cost of a monitor on hidden states: time of a token and of a request, with and without it.

Two engines with the same weights and threads write the same replies in turn, one of them with a watch that reads
some layers and judges each token. A cost is the difference within such a pair. That of a request is the difference
of the times to the first token after a prompt of 64 tokens. Where an engine's memory happens to lie changes its
speed by some percent, so both are loaded several times, in a random order; the interval is over these loads.

    python -m evals.speed.monitor [--model qwen2.5-coder-0.5b] [--layers 12 18] [--engine llama.cpp]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from agentkit.models.catalog.entries import local_path
from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, finish
from modelstack.align.monitor.probe import REPLY, REQUEST, Direction, Probe
from modelstack.align.monitor.watch import Watch
from modelstack.inference.engine import GenerateRequest
from modelstack.inference.llama.engine import LlamaCppEngine

if TYPE_CHECKING:
    from modelstack.inference.torch.engine import TorchEngine

MAX_DECODE, MAX_REQUEST_MS = 0.02, 1.0
"""Bounds: share of the time of a token, and milliseconds of a request."""
N_PROMPT = 64
TOKENS = range(20, 250)
"""Tokens of the prompts, which are not special in the vocabularies of the catalog's models."""
PLAIN, WATCHED = "without", "with the monitor"


def loaded(engine: str, model: str, threads: int, layers: Sequence[int]) -> LlamaCppEngine | TorchEngine:
    """Return an engine that shows some layers."""
    path = local_path(model)
    if engine == "torch":
        from modelstack.inference.torch.engine import TorchEngine

        return TorchEngine.load(path, context_window=512, numbers="int8", state_layers=layers)
    return LlamaCppEngine(
        path, context_window=512, n_threads=threads, n_threads_prefill=threads, state_layers=layers
    )


def timed(
    engine: LlamaCppEngine | TorchEngine, prompt: list[int], n_tokens: int, watch: Watch | None
) -> tuple[float, float]:
    """Return seconds of a prompt, and seconds of a token after it."""
    engine.forget("bench")
    request = GenerateRequest(prompt, n_tokens, conversation="bench", end_ids=frozenset(), watch=watch)
    started = time.perf_counter()
    reply = engine.generate(request)
    total = time.perf_counter() - started
    return reply.stats.first_token_s, (total - reply.stats.first_token_s) / (n_tokens - 1)


def probe_of(layers: Sequence[int], width: int) -> Probe:
    """Return a probe of random weights that never stops a reply."""
    draw = np.random.default_rng(0)
    directions = [Direction(draw.normal(size=(len(layers), width)).astype(np.float32), 0.0) for _ in range(2)]
    return Probe(tuple(layers), *directions, window=16, thresholds={REQUEST: {}, REPLY: {}}, fingerprints=("",))


def measure(options: argparse.Namespace) -> BenchmarkResult:
    """Measure both engines in turn, several times anew."""
    draw = random.Random(0)
    token, request = list[float](), list[float]()
    seconds: dict[str, list[float]] = {PLAIN: [], WATCHED: []}
    width = 0
    for number in range(options.loads):
        engines = {name: _engine(name, options) for name in draw.sample((PLAIN, WATCHED), 2)}
        width = engines[PLAIN].embedding_width
        found = _timed_in_turn(engines, probe_of(options.layers, width), options, draw)
        for engine in engines.values():
            engine.close()
        first, each = (
            {name: statistics.median(pair[part] for pair in pairs) for name, pairs in found.items()}
            for part in (0, 1)
        )
        token.append(each[WATCHED] / each[PLAIN] - 1)
        request.append(1000 * (first[WATCHED] - first[PLAIN]))
        for name in seconds:
            seconds[name].append(each[name])
        print(f"load {number + 1} of {options.loads}: {100 * token[-1]:+.1f} % of a token", flush=True)
    figures = (
        _median("cost of a token", token, "of its time", MAX_DECODE),
        _median("cost of a request", request, "ms", MAX_REQUEST_MS),
        Figure("watch itself, per token", 1000 * _of_watch(probe_of(options.layers, width), width), "ms"),
    )
    medians = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
    comparison = Comparison(f"time of a token, {options.model}, {options.engine}", "ms", WATCHED, medians)
    parameters = {
        "model": options.model,
        "engine": options.engine,
        "layers": " ".join(map(str, options.layers)),
        "threads": str(options.threads),
    }
    return BenchmarkResult(figures, (comparison,), parameters=parameters)


def _engine(name: str, options: argparse.Namespace) -> LlamaCppEngine | TorchEngine:
    layers = options.layers if name == WATCHED else ()
    return loaded(options.engine, options.model, options.threads, layers)


def _timed_in_turn(
    engines: Mapping[str, LlamaCppEngine | TorchEngine],
    probe: Probe,
    options: argparse.Namespace,
    draw: random.Random,
) -> dict[str, list[tuple[float, float]]]:
    """Return seconds of a prompt and of a token after it, for each engine and repetition."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for repeat in range(options.repeats + 1):
        prompt = draw.choices(TOKENS, k=N_PROMPT)
        for name in draw.sample(list(engines), 2):
            watch = Watch(probe) if name == WATCHED else None
            seconds = timed(engines[name], prompt, options.tokens, watch)
            if repeat:  # the first prepares kernels and addresses
                found[name].append(seconds)
    return found


def _of_watch(probe: Probe, width: int) -> float:
    watch, states = Watch(probe), np.ones((len(probe.layers), width), np.float32)
    started, n = time.perf_counter(), 2000
    for _ in range(n):
        watch(states, [0])
    return (time.perf_counter() - started) / n


def _median(name: str, values: Sequence[float], unit: str, bound: float) -> Figure:
    """Return the median with its 95 % interval, by bootstrap over loads."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(2000))
    return Figure(name, statistics.median(values), unit, medians[49], medians[1949], bound)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--engine", choices=["llama.cpp", "torch"], default="llama.cpp")
    parser.add_argument("--layers", type=int, nargs="+", default=[12, 18])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--loads", type=int, default=8, help="times that both engines are loaded")
    parser.add_argument("--repeats", type=int, default=5, help="replies of each load")
    parser.add_argument("--threads", type=int, default=1)
    add_result_option(parser)
    options = parser.parse_args(argv)
    result = measure(options)
    for figure in result.figures:
        interval = "" if figure.low is None else f" ({figure.low:.4f} to {figure.high:.4f})"
        print(f"{figure.name}: {figure.value:.4f}{interval} {figure.unit}")
    for name, value in result.comparisons[0].values.items():
        print(f"a token {name}: {value:.2f} ms")
    return finish(options.result, result)


if __name__ == "__main__":
    raise SystemExit(main())
