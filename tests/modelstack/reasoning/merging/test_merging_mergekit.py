"""Every method and mergekit's, number by number.

What mergekit 0.1.5 answered is recorded beside this file by `record_mergekit.py`; by chance both drop the same.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from modelstack.reasoning.merging import sparsify
from modelstack.reasoning.merging.methods import merged
from modelstack.reasoning.merging.recipe import READS, MergeRecipe
from tests.modelstack.reasoning.merging.merging_cases import CASES, SHAPES, chances, tensors
from tests.modelstack.reasoning.merging.record_mergekit import RECORDED

IN_FLOAT32 = {"dare_linear", "dare_ties", "della", "della_linear"}
"""mergekit rounds float64 to float32 where it drops by chance."""


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    return json.loads(RECORDED.read_text(encoding="utf-8"))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CASES)
def test_a_merged_tensor_is_mergekits(
    name: str, shape: str, recorded: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, given, left = CASES[name], tensors(shape), chances(shape)
    monkeypatch.setattr(sparsify.torch, "rand", lambda *size, **keys: left.pop(0))
    recipe = MergeRecipe.model_validate(
        {"name": "merged", "method": case.method, "parents": case.parents, "linear": (), **case.ours}
    )
    found = merged(recipe, "weight", [given[each] for each in case.parents], given["base"], case.parents)
    theirs = torch.tensor(recorded[name][shape], dtype=torch.float64).reshape(found.shape)
    atol = 1e-6 if case.method in IN_FLOAT32 else 1e-11
    torch.testing.assert_close(found, theirs, atol=atol, rtol=0)


def test_every_method_is_compared_and_no_two_cases_say_the_same(recorded: dict[str, Any]) -> None:
    assert {case.method for case in CASES.values()} == set(READS)
    assert recorded.keys() == CASES.keys()
    assert len({json.dumps(each) for each in recorded.values()}) == len(CASES)
