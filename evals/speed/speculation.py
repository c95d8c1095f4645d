"""Speed of replies with draft tokens, relative to the same engine without, on an agent's work and on free text.

Each round answers the requests of one kind with and without drafts, one after the other and in turn. The prefix
cache holds the prompts, so that the time is that of writing. Greedy replies; CPU time of the process. The number
of equal replies is printed: engines whose logits depend on the number of tokens of a step differ where two tokens
are about equally likely.

    OMP_WAIT_POLICY=PASSIVE python -m evals.speed.speculation --model smollm2-135m [--engine int8] [--repeats 5]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from evals.speed.agent_workload import Asked, Kind, agent_requests, free_requests
from evals.speed.model_forward import ratio_of
from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, finish
from modelstack.commands.torch_engines import Drafter, Numbers, load_torch_base, torch_engine
from modelstack.inference.server.turns import ServedReply
from modelstack.train.process import set_up_process

if TYPE_CHECKING:
    from modelstack.inference.server.served_model import ServedModel

EngineKind = Literal["int8", "bf16", "fp32", "llama.cpp"]
"""The torch engine's numbers, or llama.cpp with those of the file."""
N_CACHED, N_CONVERSATIONS = 32_768, 25
"""Tokens and conversations that the cache holds."""
WITH, WITHOUT = "with drafts", "without"
LEAST: dict[Kind, float] = {"calls": 1.5, "results shown": 1.5, "free text": 0.97}
"""Promised ratios."""


@dataclass(frozen=True, slots=True)
class Round:
    """The replies to all requests of one kind."""

    replies: list[ServedReply]
    seconds: float

    @property
    def n_tokens(self) -> int:
        """Number of tokens written."""
        return sum(reply.n_written for reply in self.replies)

    @property
    def token_s(self) -> float:
        """CPU seconds per token."""
        return self.seconds / self.n_tokens


def load(model: str, kind: EngineKind, threads: int, drafter: Drafter) -> ServedModel:
    """Return a model of the catalog on an engine, with the drafts of a drafter."""
    from agentkit.models.catalog.entries import local_path
    from modelstack.inference.llama.engine import LlamaCppEngine
    from modelstack.inference.server.served_model import ServedModel

    path = local_path(model)
    if kind == "llama.cpp":
        llama = LlamaCppEngine(
            path,
            n_cells=N_CACHED,
            max_conversations=N_CONVERSATIONS,
            n_threads=threads,
            n_threads_prefill=threads,
            drafter=drafter.name,
        )
        return ServedModel(llama, model)
    numbers = Numbers(kind)
    base = load_torch_base(path, None, numbers, drafter.folder)
    return ServedModel(torch_engine(base, numbers, n_cached_tokens=N_CACHED, drafter=drafter.name), model)


def answer(model: ServedModel, asked: Sequence[Asked]) -> Round:
    """Answer requests one after the other."""
    started = time.process_time()
    replies = [model.reply(each.request) for each in asked]
    return Round(replies, time.process_time() - started)


def compare(
    models: Sequence[ServedModel], asked: Sequence[Asked], repeats: int
) -> tuple[list[Round], list[Round]]:
    """Return the rounds of two models, interleaved; the first pair, which reads the prompts, is not counted."""
    found: tuple[list[Round], list[Round]] = ([], [])
    for number in range(repeats + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            done = answer(models[which], asked)
            if number:
                found[which].append(done)
    return found


def run(
    model: str,
    engines: Sequence[EngineKind],
    works: Mapping[Kind, Sequence[Asked]],
    repeats: int,
    threads: int,
    drafter: Drafter,
) -> BenchmarkResult:
    """Measure all works on some engines."""
    figures, comparisons = list[Figure](), list[Comparison]()
    for kind in engines:
        plain, drafting = (load(model, kind, threads, each) for each in (Drafter(None), drafter))
        for work, asked in works.items():
            off, on = compare((plain, drafting), asked, repeats)
            ratio, low, high = ratio_of([each.token_s for each in on], [each.token_s for each in off])
            title = f"{work}, {kind}"
            figures.append(Figure(f"{title}: speed with drafts", ratio, "x", low, high, LEAST[work], "at least"))
            speeds = {
                name: 1 / statistics.median(each.token_s for each in rounds)
                for name, rounds in ((WITH, on), (WITHOUT, off))
            }
            comparisons.append(Comparison(title, "tokens/CPU s", WITH, speeds))
            pairs = list(zip(on[-1].replies, off[-1].replies, strict=True))
            n_equal = sum((mine.text, mine.calls) == (theirs.text, theirs.calls) for mine, theirs in pairs)
            n_drafted = sum(reply.n_drafted for reply in on[-1].replies)
            n_accepted = sum(reply.n_accepted for reply in on[-1].replies)
            n_steps = sum(1 + reply.n_evaluations for reply in on[-1].replies)
            print(
                f"{title:26} {speeds[WITH]:7.1f} {speeds[WITHOUT]:7.1f} tokens/CPU s  {ratio:.2f}x "
                f"({low:.2f}-{high:.2f})  {on[-1].n_tokens / n_steps:.2f} tokens a step, "
                f"{n_accepted} of {n_drafted} drafted accepted, {n_equal} of {len(pairs)} replies equal",
                flush=True,
            )
        plain.engine.close()
        drafting.engine.close()
    parameters = {"model": model, "repeats": str(repeats), "threads": str(threads)}
    return BenchmarkResult(tuple(figures), tuple(comparisons), parameters=parameters)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each engine and kind of work; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a model of the catalog")
    kinds = get_args(EngineKind)
    parser.add_argument("--engine", action="append", choices=kinds, help="default: int8, llama.cpp")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--drafter", default="lookup", help="or a stage of `modelstack drafter`, on torch engines")
    parser.add_argument("--requests", type=int, help="number of requests of each kind; else all")
    add_result_option(parser)
    options = parser.parse_args(argv)
    set_up_process(options.threads)
    works: dict[Kind, list[Asked]] = {kind: [] for kind in get_args(Kind)}
    for asked in agent_requests() + free_requests():
        works[asked.kind].append(asked)
    works = {kind: asked[: options.requests] for kind, asked in works.items()}
    drafter = Drafter.parse(options.drafter)
    engines: list[EngineKind] = options.engine or (["int8"] if drafter.folder else ["int8", "llama.cpp"])
    result = run(options.model, engines, works, options.repeats, options.threads, drafter)
    return finish(options.result, result)


if __name__ == "__main__":
    sys.exit(main())
