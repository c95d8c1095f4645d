"""Memory of a process that has loaded a catalog model and answered once; checks the list's column MEMORY.

The peak resident memory of a new process: Python, the weights (the mapped file, and the tensors that llama.cpp
repacks for this processor), the KV cache of the default context window, and the compute buffers. Models whose file
is not in the cache are skipped. Bound: no peak exceeds the catalog's figure by more than a fifth.

    python -m evals.speed.model_memory
"""

from __future__ import annotations

import argparse
import json
import sys

from agentkit.models.catalog.entries import CATALOG, is_present
from evals.speed.machine import peak_bytes
from evals.speed.peers import printed_by
from evals.speed.results import BenchmarkResult, Figure, add_result_option, write_result

TOLERANCE = 0.2
"""Relative tolerance: repacking depends on the processor, and the list shows one decimal."""


def main() -> int:
    """Measure, print the table, and return 1 if a figure of the catalog is much too small, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="catalog id; default: all models that are downloaded")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    add_result_option(parser)
    options = parser.parse_args()
    if options.child:
        print(json.dumps({"peak": peak_after_an_answer(options.model)}))
        return 0
    figures: list[Figure] = []
    for model_id in [options.model] if options.model else CATALOG:
        if not is_present(model_id):
            print(f"{model_id}: not downloaded (agentkit models pull {model_id})")
            continue
        peak = printed_by(sys.executable, "evals.speed.model_memory", "--child", "--model", model_id)["peak"]
        listed = CATALOG[model_id].memory
        figures.append(Figure(model_id, peak / 1e9, "GB", bound=(1 + TOLERANCE) * listed / 1e9))
        print(f"{model_id}: {peak / 1e9:.2f} GB, the catalog says {listed / 1e9:.2f}")
    result = BenchmarkResult(tuple(figures))
    write_result(options.result, result)
    return 1 if result.broken else 0


def peak_after_an_answer(model_id: str) -> int:
    """Return this process's peak resident memory in bytes after one answer of the model."""
    from agentkit import Agent, ModelSettings

    agent = Agent(f"local:{model_id}", settings=ModelSettings(temperature=0.0, max_tokens=32))
    agent.run_sync("Say hello.")
    return peak_bytes()


if __name__ == "__main__":
    sys.exit(main())
