"""llama.cpp in a process of its own: a shape that it does not expect aborts the whole process.

`python llama_child.py TASKS.json OUT.npz` runs every task {"name", "path", "ids", "greedy"}: logits of all `ids`
in one batch, and the ids that follow greedily. Cache in F32, no flash attention, one thread, weights as they are
stored: what can be compared.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

F32 = 0
needs_llama_cpp = pytest.mark.skipif(
    find_spec("llama_cpp") is None, reason="needs llama-cpp-python (extra `local`)"
)
"""Looked for, not imported: it belongs to the child."""


@dataclass(frozen=True)
class Task:
    """What to run of one file."""

    name: str
    path: Path
    ids: Sequence[int]
    greedy: int = 0
    """Tokens to decode behind `ids`."""
    lora: Path | None = None
    """A GGUF adapter to put on."""


def run_in_llama_cpp(tasks: Sequence[Task], folder: Path) -> dict[str, dict[str, Any]]:
    """Return logits [T, V] and greedy ids of each task; all run in one child process."""
    source, target = folder / "tasks.json", folder / "results.npz"
    source.write_text(json.dumps([vars(task) for task in tasks], default=str), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, __file__, str(source), str(target)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"llama.cpp ended with {done.returncode}: {done.stderr[-2000:]}"
    with np.load(target) as results:
        return {
            task.name: {"logits": results[f"{n}.logits"], "greedy": results[f"{n}.greedy"].tolist()}
            for n, task in enumerate(tasks)
        }


def _load_as_stored() -> None:
    """Keep llama.cpp from packing weights for this processor: with AMX, quantised DeepSeek-V3 would abort."""
    import llama_cpp.llama_cpp as lib

    defaults = lib.llama_model_default_params

    def as_stored() -> Any:
        params = defaults()
        params.use_extra_bufts = False
        return params

    lib.llama_model_default_params = as_stored


def _run(task: dict[str, Any]) -> tuple[Any, list[int]]:
    from llama_cpp import Llama

    n = len(task["ids"]) + task["greedy"] + 1
    llama = Llama(
        task["path"],
        lora_path=task["lora"],
        n_ctx=n,
        n_batch=n,
        n_ubatch=n,
        logits_all=True,
        flash_attn=False,
        type_k=F32,
        type_v=F32,
        n_threads=1,
        n_threads_batch=1,
        verbose=False,
    )
    llama.eval(task["ids"])
    logits = np.array(llama.scores[: len(task["ids"])])
    greedy: list[int] = []
    latest = logits[-1]
    for _ in range(task["greedy"]):
        greedy.append(int(latest.argmax()))
        llama.eval(greedy[-1:])
        latest = llama.scores[len(task["ids"]) + len(greedy) - 1]
    llama.close()
    return logits, greedy


def main(source: str, target: str) -> None:
    _load_as_stored()
    results = {}
    for n, task in enumerate(json.loads(Path(source).read_text(encoding="utf-8"))):
        print(task["name"], file=sys.stderr, flush=True)
        results[f"{n}.logits"], results[f"{n}.greedy"] = _run(task)
    np.savez(target, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
