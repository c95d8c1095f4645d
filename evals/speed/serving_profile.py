"""Time of the torch engine by kind of operation, for each work of the serving benchmark.

torch's profiler gives the time of each operation without those that it calls. What is left is Python: the
scheduler, the modules, and the calls of operations. The profiler itself costs 1 to 2 us an operation, most of it
counted as Python. Needs an idle machine.

    OMP_WAIT_POLICY=PASSIVE python -m evals.speed.serving_profile smollm2-135m [--dtype int8 --dtype bf16]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from rich.console import Console
from torch.profiler import ProfilerActivity, profile

from evals.speed.model_forward import SEED
from evals.speed.serving import INT8, by_engine
from evals.speed.serving_works import TINY, WORKS, Work
from modelstack.posttrain.starting_point import starting_point
from modelstack.reasoning.sampling.frozen_model import load_merged
from modelstack.terminal.tables import Column, Table, print_tables
from modelstack.train.process import set_up_process

PYTHON = "Python"
OTHER = "norms, rotation, activation, rounding"
KINDS: Mapping[str, tuple[str, ...]] = {
    "products with weights": (
        "mkldnn::_linear_pointwise",
        "onednn::qlinear_pointwise",
        "aten::_int_mm",
        "aten::addmm",
        "aten::linear",
        "aten::mm",
    ),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu", "aten::bmm", "aten::_softmax"),
    "blocks: storing and gathering": ("aten::index_select", "aten::index_copy_", "aten::index_put_"),
    "copies and types": ("aten::copy_", "aten::cat", "aten::_to_copy", "aten::clone", "aten::contiguous"),
}
"""Operations by kind; the others are `OTHER`."""


def shares(model: torch.nn.Module, work: Work, dtype: str) -> dict[str, float]:
    """Return the microseconds per token of each kind of operation, and of `PYTHON`.

    Args:
        model: A `CausalLM`; the engine packs its weights, so it is of no use afterwards.
        work: Requests to answer.
        dtype: `INT8`, or another: the products are of the model's own type.
    """
    n_tokens = (work.n_prompt + work.n_reply + 16) * work.n_requests
    write = by_engine(model, n_tokens, "int8" if dtype == INT8 else "float")  # pyright: ignore[reportArgumentType]
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(0, 200, (work.n_requests, work.n_prompt), generator=generator).tolist()
    write(ids, work.n_reply)  # warms up
    started = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        write(ids, work.n_reply)
        spent = time.perf_counter() - started
    kind_of = {name: kind for kind, names in KINDS.items() for name in names}
    found: defaultdict[str, float] = defaultdict(float)
    for event in profiled.key_averages():
        found[kind_of.get(event.key, OTHER)] += event.self_cpu_time_total
    found[PYTHON] = 1e6 * spent - sum(found.values())
    return {kind: found[kind] / work.n_counted for kind in (*KINDS, OTHER, PYTHON)}


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for each number type; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="checkpoint folder, stage, GGUF file or a model's name")
    parser.add_argument("--dtype", action="append", choices=["bf16", "fp32", INT8], help="default: int8, bf16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="work that only tests that everything works")
    options = parser.parse_args(argv)
    set_up_process(options.threads)
    works = TINY if options.tiny else WORKS
    for dtype in options.dtype or [INT8, "bf16"]:
        found: dict[str, dict[str, float]] = {}
        for work in works:
            precision = "fp32" if dtype == "fp32" else "bf16"
            base = load_merged(starting_point(options.source), precision=precision, device="cpu")
            found[work.name] = shares(base.model.eval(), work, dtype)
        columns = (Column("us per token", "kind"), *(Column(name, show="{:,.1f}".format) for name in found))
        rows = [[kind, *(of[kind] for of in found.values())] for kind in (*KINDS, OTHER, PYTHON)]
        total = ["all", *(sum(of.values()) for of in found.values())]
        print_tables(Console(), Table(columns, [*rows, total], f"{options.source}, {dtype}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
