"""Tokens per CPU second of serving: the torch engine beside transformers' `generate`, same weights, same process.

Three kinds of work with SmolLM2-135M's shape and random weights: a batch of requests, one request, and a prompt
that is only read. Replies are greedy and no token ends them. CPU time of the whole process, reading of the prompts
included. Runs are interleaved and the ratio is computed pair by pair, as in `model_forward`; the first tokens of
both must be equal in fp32. The engine's int8 (W8A8, with a head in bf16) stands beside transformers' bf16, the
fastest that `generate` has on a CPU.

    OMP_WAIT_POLICY=PASSIVE python -m evals.speed.serving [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from evals.speed.model_forward import DTYPES, OURS, SEED, THEIRS, build_pair, ratio_of
from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, finish
from modelstack.architecture.decoder import CausalLM
from modelstack.inference.scheduler import StepLimits
from modelstack.inference.torch.packing import Numbers, can_pack, pack_linear_layers
from modelstack.inference.torch.stream_batch import StreamBatch
from modelstack.train.process import set_up_process

INT8 = "int8"
"""Numbers of the engine that transformers' `generate` does not have; compared with its bf16."""
N_ROWS = 8
N_PROMPT, N_REPLY = 64, 64
N_READ = 512
"""Sizes of the works, in requests and tokens."""

Write = Callable[[Sequence[Sequence[int]], int], list[list[int]]]
"""Returns the greedy continuations of some prompts of equal length, by a number of tokens."""


@dataclass(frozen=True, slots=True)
class Work:
    """Timed work: requests of equal size."""

    name: str
    n_requests: int
    n_prompt: int
    n_reply: int

    @property
    def n_counted(self) -> int:
        """Number of tokens in the speed: those written, or those read if only one is written."""
        return self.n_requests * (self.n_reply if self.n_reply > 1 else self.n_prompt)


WORKS = (
    Work(f"{N_ROWS} requests", N_ROWS, N_PROMPT, N_REPLY),
    Work("1 request", 1, N_PROMPT, N_REPLY),
    Work(f"prompt of {N_READ}", 1, N_READ, 1),
)


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a bound is broken, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", action="append", choices=[*DTYPES, INT8], help="number type; default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="few tokens, only to test that everything works")
    add_result_option(parser)
    options = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    set_up_process(options.threads)
    works = (Work("2 requests", 2, 8, 2),) if options.tiny else WORKS
    return finish(options.result, run(works, options.dtype or [*DTYPES, INT8], options.repeats))


if __name__ == "__main__":
    sys.exit(main())
