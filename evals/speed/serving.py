"""Tokens per CPU second of serving, compared with transformers and with other servers of language models.

Three kinds of work: a batch of requests, one request, and a prompt that is only read. Replies are greedy and no
token ends them. CPU time of the whole process, reading of the prompts included. There are two parts:

- `generate`: the torch engine beside transformers' `generate` in one process, with SmolLM2-135M's shape and the
  same random weights. Runs are interleaved and the ratio is computed pair by pair, as in `model_forward`; the
  first tokens of both must be equal in fp32. The engine's int8 (W8A8, with a head in bf16) stands beside
  transformers' bf16, the fastest that `generate` has on a CPU.
- `peers`: the torch engine and the one on llama.cpp beside other servers, each in its own process and environment,
  with SmolLM2-135M's own weights (`serving_peers`). The environments are made at the first run and take some GB.

    OMP_WAIT_POLICY=PASSIVE python -m evals.speed.serving [--part peers] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from evals.speed import serving_peers
from evals.speed.model_forward import DTYPES, OURS, SEED, THEIRS, build_pair, ratio_of
from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, finish
from evals.speed.rollouts_programs import write_tiny
from evals.speed.serving_peers import PROGRAMS, Program
from evals.speed.serving_weights import Weights
from evals.speed.serving_works import TINY, WORKS, Work
from modelstack.architecture.decoder import CausalLM
from modelstack.inference.scheduler import StepLimits
from modelstack.inference.torch.packing import Numbers, can_pack, pack_linear_layers
from modelstack.inference.torch.stream_batch import StreamBatch
from modelstack.train.process import set_up_process

INT8 = "int8"
"""Numbers of the engine that transformers' `generate` does not have; compared with its bf16."""
Write = Callable[[Sequence[Sequence[int]], int], list[list[int]]]
"""Returns the greedy continuations of some prompts of equal length, by a number of tokens."""


def by_engine(model: CausalLM, n_tokens: int, numbers: Numbers = "float") -> Write:
    """Return the continuation by the torch engine, with an empty cache in each call; packs the model's weights."""
    if can_pack(model):
        pack_linear_layers(model, numbers)

    def write(prompts: Sequence[Sequence[int]], n_reply: int) -> list[list[int]]:
        batch = StreamBatch(model, n_tokens, StepLimits())
        streams = [batch.queue.submit(prompt, len(prompt) + n_reply) for prompt in prompts]
        while len(batch.queue):
            ready = batch.step()
            for stream, token in zip(ready.streams, ready.logits_RV.argmax(1).tolist(), strict=True):
                batch.queue.extend(stream, [token])
                if len(stream.tokens) == len(prompts[0]) + n_reply:
                    batch.queue.remove(stream)
        return [list(stream.tokens[len(prompts[0]) :]) for stream in streams]

    return write


def by_transformers(model: Any) -> Write:
    """Return the continuation by transformers' `generate`."""

    @torch.no_grad()
    def write(prompts: Sequence[Sequence[int]], n_reply: int) -> list[list[int]]:
        ids = torch.tensor(prompts)
        written = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=n_reply,
            min_new_tokens=n_reply,
            do_sample=False,
            pad_token_id=0,
        )
        return written[:, ids.shape[1] :].tolist()

    return write


def measure(ours: Write, theirs: Write, work: Work, n_vocab: int, repeats: int) -> tuple[list[float], list[float]]:
    """Return the CPU seconds of both, interleaved, each pair with prompts of its own."""
    seconds: tuple[list[float], list[float]] = ([], [])
    generator = torch.Generator().manual_seed(SEED)
    for n in range(repeats + 1):
        ids = torch.randint(0, n_vocab, (work.n_requests, work.n_prompt), generator=generator).tolist()
        for which in (0, 1) if n % 2 == 0 else (1, 0):
            started = time.process_time()
            (ours, theirs)[which](ids, work.n_reply)
            if n:  # the first pair warms up
                seconds[which].append(time.process_time() - started)
    return seconds


def check_equal(ours: Write, theirs: Write, n_vocab: int) -> None:
    """Check that both write the same.

    Raises:
        RuntimeError: they do not.
    """
    ids = torch.randint(0, n_vocab, (2, 24), generator=torch.Generator().manual_seed(SEED)).tolist()
    if ours(ids, 4) != theirs(ids, 4):
        raise RuntimeError("the engine and transformers write different tokens in fp32")


def run(works: Sequence[Work], dtypes: Sequence[str], repeats: int) -> BenchmarkResult:
    """Measure all works in all number types, `INT8` among them or not."""
    figures, comparisons = [], []
    for dtype in dtypes:
        model, other = build_pair("llama", DTYPES["bf16" if dtype == INT8 else dtype])
        n_vocab = model.config.vocab_size
        n_tokens = max((work.n_prompt + work.n_reply + 16) * work.n_requests for work in works)
        ours = by_engine(model.eval(), n_tokens, "int8" if dtype == INT8 else "float")
        theirs = by_transformers(other.eval())
        if dtype == "fp32":
            check_equal(ours, theirs, n_vocab)
        for work in works:
            mine, their = measure(ours, theirs, work, n_vocab, repeats)
            ratio, low, high = ratio_of(mine, their)
            title = f"{work.name}, {dtype}"
            figures.append(Figure(f"{title}: speed beside transformers", ratio, "x", low, high))
            speeds = {name: work.n_counted / statistics.median(s) for name, s in ((OURS, mine), (THEIRS, their))}
            comparisons.append(Comparison(title, "tokens/CPU s", OURS, speeds))
            print(
                f"{title:22} {speeds[OURS]:8.1f} {speeds[THEIRS]:8.1f} tokens/CPU s  {ratio:.2f}x "
                f"({low:.2f}-{high:.2f})",
                flush=True,
            )
    parameters = {"works": str(list(works)), "repeats": str(repeats), "threads": str(torch.get_num_threads())}
    return BenchmarkResult(tuple(figures), tuple(comparisons), parameters=parameters)


def run_peers(
    programs: Sequence[Program], works: Sequence[Work], rounds: int, threads: int, envs: Path, model: str
) -> BenchmarkResult:
    """Measure programs of `serving_peers` on a model of the catalog, which is fetched if it is missing."""
    from agentkit.models.catalog.entries import local_path

    with tempfile.TemporaryDirectory() as folder:
        weights = Weights(model, local_path(model), Path(folder))
        return serving_peers.run(programs, works, weights, rounds=rounds, threads=threads, envs=envs)


def run_tiny() -> BenchmarkResult:
    """Run the programs of this project's environment on a tiny model, which only tests that everything works."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Weights("tiny", write_tiny(Path(folder, "tiny.gguf")), Path(folder))
        here = [program for program in PROGRAMS if not program.environment]
        return serving_peers.run(here, TINY, weights, rounds=1, threads=1, envs=Path(), easy_text=None)


def together(results: Sequence[BenchmarkResult]) -> BenchmarkResult:
    """Return the results of all parts as one."""
    return BenchmarkResult(
        tuple(figure for result in results for figure in result.figures),
        tuple(comparison for result in results for comparison in result.comparisons),
        parameters={name: value for result in results for name, value in result.parameters.items()},
        notes=tuple(note for result in results for note in result.notes),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a bound is broken, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["generate", "peers"], help="part to run; default: both")
    parser.add_argument("--repeats", type=int, default=5, help="pairs, or rounds of the peers")
    parser.add_argument(
        "--dtype", action="append", choices=[*DTYPES, INT8], help="number type of `generate`; default: all"
    )
    names = [program.name for program in PROGRAMS]
    parser.add_argument("--program", action="append", choices=names, help="program of `peers`; default: all")
    parser.add_argument("--model", default="smollm2-135m", help="model of `peers`")
    parser.add_argument(
        "--envs", type=Path, default=Path(), help="folder of the peers' environments, .venv-peers-serving-NAME"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="few tokens, only to test that everything works")
    add_result_option(parser)
    options = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    set_up_process(options.threads)
    results = list[BenchmarkResult]()
    if options.part != "peers":
        works = TINY if options.tiny else WORKS
        results.append(run(works, options.dtype or [*DTYPES, INT8], options.repeats))
    if options.part != "generate":
        programs = [program for program in PROGRAMS if program.name in (options.program or names)]
        results.append(
            run_tiny()
            if options.tiny
            else run_peers(programs, WORKS, options.repeats, options.threads, options.envs, options.model)
        )
    return finish(options.result, together(results))


if __name__ == "__main__":
    sys.exit(main())
