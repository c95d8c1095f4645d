"""Techniques of inference one after the other, on the conversations of an agent: what each adds to the speed.

Eight conversations of `agent_workload` with four replies each, greedy and under the grammar of the tools. The rows
are the torch engine, from one request at a time without any technique to all techniques together: a row has those
of the rows above it. The last row is transformers' `generate` in bf16, which writes as many tokens for the same
prompts, one request after the other. CPU seconds of the process, reading of prompts included.

    OMP_WAIT_POLICY=PASSIVE python -m evals.speed.agent_serving [--model smollm2-135m] [--threads 1]
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from evals.speed.agent_workload import Asked, agent_requests
from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, finish
from evals.speed.serving_weights import CHECKPOINT, Weights
from modelstack.commands.torch_engines import Numbers, load_torch_base
from modelstack.inference.engine import GenerateRequest, Generation
from modelstack.inference.pending_reply import PendingReply
from modelstack.inference.server.served_model import ServedModel
from modelstack.inference.streams import Stream
from modelstack.inference.torch.engine import TorchEngine
from modelstack.train.process import set_up_process

N_CONVERSATIONS, N_CACHED = 8, 32_768
TRANSFORMERS = "transformers' generate"
LEAST = 10.0
"""Promised ratio of the last row to the naive engine."""


@dataclass(frozen=True, slots=True)
class Techniques:
    """Techniques of a row."""

    batching: bool = False
    prefix: bool = False
    forced: bool = False
    drafts: bool = False
    packed: bool = False
    int8: bool = False


NAIVE = "the engine, one token at a time"
ROWS: dict[str, Techniques] = {
    NAIVE: Techniques(),
    "+ batching": Techniques(batching=True),
    "+ prefix cache": Techniques(batching=True, prefix=True),
    "+ forced tokens in blocks": Techniques(batching=True, prefix=True, forced=True),
    "+ drafts": Techniques(batching=True, prefix=True, forced=True, drafts=True),
    "+ packed weights": Techniques(batching=True, prefix=True, forced=True, drafts=True, packed=True),
    "+ int8": Techniques(batching=True, prefix=True, forced=True, drafts=True, packed=True, int8=True),
}


class MeasuredEngine(TorchEngine):
    """A torch engine that keeps its requests, without the techniques that it is to do without."""

    def __init__(self, *args: Any, techniques: Techniques, **options: Any) -> None:
        """Load a model; see `TorchEngine`."""
        super().__init__(*args, **options)
        self.written: list[tuple[Sequence[int], Generation]] = []
        """Prompt and reply of each request."""
        self._techniques, self._roots = techniques, itertools.count()

    def generate(self, request: GenerateRequest, **callbacks: Any) -> Generation:
        """Answer a request."""
        found = super().generate(replace(request, jump_ahead=self._techniques.forced), **callbacks)
        self.written.append((request.prompt_ids, found))
        return found

    def _enter(self, submission: PendingReply[Stream], max_tokens: int) -> Stream:
        if self._techniques.prefix:
            return super()._enter(submission, max_tokens)
        prompt = [*submission.request.prompt_ids, *submission.reply.out.ids]
        root = str(next(self._roots)).encode()  # as if every request had an adapter of its own
        return self._batch.queue.submit(prompt, len(submission.request.prompt_ids) + max_tokens, root=root)


def load(model: str, techniques: Techniques) -> ServedModel:
    """Return a model with some techniques, in bf16."""
    base = load_torch_base(model, None, Numbers.bf16)
    engine = MeasuredEngine(
        base.model,
        base.tokenizer,
        n_cached_tokens=N_CACHED,
        max_rows=N_CONVERSATIONS,
        owns_model=techniques.packed,
        numbers="int8" if techniques.int8 else "float",
        drafter="lookup" if techniques.drafts else None,
        techniques=techniques,
    )
    return ServedModel(engine, model)


def answer(model: ServedModel, asked: Sequence[Asked], *, together: bool) -> float:
    """Answer all requests, each turn of all conversations together or one after the other; return CPU seconds."""
    started = time.process_time()
    with ThreadPoolExecutor(N_CONVERSATIONS if together else 1) as threads:
        for start in range(0, len(asked), N_CONVERSATIONS):
            turn = asked[start : start + N_CONVERSATIONS]
            list(threads.map(lambda each: model.reply(each.request), turn))
    return time.process_time() - started


def transformers_writer(folder: Path) -> Callable[[Sequence[int], int], None]:
    """Return a function that continues a prompt by a number of tokens with transformers' `generate` in bf16."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)

    @torch.no_grad()
    def write(prompt: Sequence[int], n_tokens: int) -> None:
        ids = torch.tensor([list(prompt)])
        sizes = {"max_new_tokens": n_tokens, "min_new_tokens": n_tokens}
        model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, **sizes)

    return write


def run(name: str, rows: Sequence[str], asked: Sequence[Asked], *, transformers: bool) -> BenchmarkResult:
    """Measure the rows, and transformers with the requests of the last one."""
    speeds: dict[str, float] = {}
    written: list[tuple[Sequence[int], Generation]] = []
    for row in rows:
        model = load(name, ROWS[row])
        engine = model.engine
        assert isinstance(engine, MeasuredEngine)
        seconds = answer(model, asked, together=ROWS[row].batching)
        written = engine.written
        engine.close()
        n_tokens = sum(len(reply.ids) for _, reply in written)
        speeds[row] = n_tokens / seconds
        naive = speeds.get(NAIVE)
        ratio = "" if naive is None else f"{speeds[row] / naive:6.2f}x"
        print(f"{row:32} {speeds[row]:8.1f} tokens/CPU s {ratio}  ({n_tokens:,} in {seconds:.1f} s)", flush=True)
    if transformers:
        from agentkit.models.catalog.entries import local_path

        with tempfile.TemporaryDirectory() as folder:
            write = transformers_writer(Weights(name, local_path(name), Path(folder)).in_form(CHECKPOINT))
            started = time.process_time()
            for prompt, reply in written:
                write(prompt, max(1, len(reply.ids)))
            seconds = time.process_time() - started
        speeds[TRANSFORMERS] = sum(max(1, len(reply.ids)) for _, reply in written) / seconds
        print(f"{TRANSFORMERS:32} {speeds[TRANSFORMERS]:8.1f} tokens/CPU s", flush=True)
    figures = list[Figure]()
    if NAIVE in speeds:
        total = speeds[rows[-1]] / speeds[NAIVE]
        figures.append(Figure("all techniques beside none", total, "x", None, None, LEAST, "at least"))
    comparison = Comparison("eight conversations of an agent", "tokens/CPU s", rows[-1], speeds)
    parameters = {"model": name, "requests": str(len(asked)), "threads": str(torch.get_num_threads())}
    return BenchmarkResult(tuple(figures), (comparison,), parameters=parameters)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each row; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a model of the catalog")
    parser.add_argument("--row", action="append", choices=[*ROWS], help="default: all")
    parser.add_argument("--turns", type=int, default=4, help="number of replies of each conversation")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-transformers", action="store_true")
    add_result_option(parser)
    options = parser.parse_args(argv)
    set_up_process(options.threads)
    asked = agent_requests()[: N_CONVERSATIONS * options.turns]
    result = run(options.model, options.row or [*ROWS], asked, transformers=not options.no_transformers)
    return finish(options.result, result)


if __name__ == "__main__":
    sys.exit(main())
