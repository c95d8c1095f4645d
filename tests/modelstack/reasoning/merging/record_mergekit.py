"""Records what mergekit 0.1.5 makes of `merging_cases`: run by hand.

    python -m tests.modelstack.reasoning.merging.record_mergekit ENVIRONMENT

ENVIRONMENT is a folder; if there is none with mergekit in it, it is made. The answers lie beside this file, for
`test_merging_mergekit.py`. Where mergekit drops entries by chance, its `torch.bernoulli` is handed the chances of
the cases, so that both programs drop the same ones and every number can be compared.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

RECORDED = Path(__file__).with_name("mergekit-0.1.5.json")
PACKAGES = ("mergekit==0.1.5", "numpy")
DIGITS = 12


def main() -> None:
    """Write what mergekit answers."""
    from evals.speed.peers import peer_python
    from tests.modelstack.reasoning.merging.merging_cases import CASES, SHAPES, chances, tensors

    python = peer_python(Path(sys.argv[1]), PACKAGES)
    question = {
        "cases": {name: [case.method, case.parents, case.theirs] for name, case in CASES.items()},
        "tensors": {shape: {name: tensor.tolist() for name, tensor in tensors(shape).items()} for shape in SHAPES},
        "chances": {shape: [each.tolist() for each in chances(shape)] for shape in SHAPES},
    }
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "asked.json", Path(folder) / "answered.json"
        asked.write_text(json.dumps(question), encoding="utf-8")
        subprocess.run([str(python), __file__, "--merge", str(asked), str(answered)], check=True)
        RECORDED.write_text(answered.read_text(encoding="utf-8"), encoding="utf-8")


def merge(asked: Path, answered: Path) -> None:
    """Merge every case; runs in mergekit's environment."""
    question = json.loads(asked.read_text(encoding="utf-8"))
    answers = {
        name: {shape: _merged(question, shape, *case) for shape in question["tensors"]}
        for name, case in question["cases"].items()
    }
    answered.write_text(json.dumps(answers, separators=(",", ":")).replace("},", "},\n") + "\n", encoding="utf-8")


def _merged(question: Any, shape: str, method: str, parents: list[str], parameters: dict[str, Any]) -> list[float]:
    import torch
    from mergekit.merge_methods import merge_tensors  # pyright: ignore[reportMissingImports]

    tensors = {
        name: torch.tensor(numbers, dtype=torch.float64) for name, numbers in question["tensors"][shape].items()
    }
    left = [torch.tensor(each, dtype=torch.float64) for each in question["chances"][shape]]
    # What is slerped from is the base there; a mean has none.
    names = parents if method in ("linear", "slerp") else ["base", *parents]

    def bernoulli(p: torch.Tensor) -> torch.Tensor:
        return (left.pop(0).reshape(p.shape) < p).to(p.dtype)

    with mock.patch.object(torch, "bernoulli", bernoulli):
        found = merge_tensors(
            [tensors[name] for name in names],
            method,
            parameters=parameters,
            ids=names,
            base_index=None if method == "linear" else 0,
        )
    return [round(number, DIGITS) for number in found.flatten().tolist()]


if __name__ == "__main__":
    if sys.argv[1] == "--merge":
        merge(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
