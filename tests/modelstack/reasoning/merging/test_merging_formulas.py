"""The formulas of merging: worked examples, and what must come out whatever goes in."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from modelstack.errors import UserError
from modelstack.reasoning.merging.methods import merged
from modelstack.reasoning.merging.recipe import READS, MergeRecipe, Method
from modelstack.reasoning.merging.slerp import slerp
from modelstack.reasoning.merging.sparsify import (
    Rescale,
    generator_for,
    keep_at_random,
    keep_band,
    keep_by_rank,
    keep_largest,
    rank_probabilities,
)

BASE = torch.ones(5, dtype=torch.float64)
A = torch.tensor([1.5, 0.9, 1.0, 2.0, 0.8], dtype=torch.float64)
B = torch.tensor([1.2, 1.4, 0.5, 0.7, 1.1], dtype=torch.float64)
SPARSE = sorted(method for method, reads in READS.items() if "density" in reads)
WEIGHTED = sorted(method for method, reads in READS.items() if "weights" in reads)


def recipe(method: str, n_parents: int = 2, **keys: Any) -> MergeRecipe:
    if method in SPARSE:
        keys = {"density": 1.0, **keys}
    parents = [f"parent {n}" for n in range(n_parents)]
    return MergeRecipe.model_validate({"name": "m", "method": method, "parents": parents, "linear": (), **keys})


def merge(made: MergeRecipe, tensors: list[Tensor], base: Tensor, name: str = "weight") -> Tensor:
    return merged(made, name, tensors, base, made.parents)


def random_parents(n: int, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (8, 16)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(n)]


@pytest.mark.parametrize(
    ("method", "keys", "wanted"),
    [
        ("task_arithmetic", {}, [1.7, 1.3, 0.5, 1.7, 0.9]),
        ("ties", {"density": 0.6}, [1.5, 1.4, 0.5, 2.0, 0.8]),
        ("linear", {"weights": (3.0, 1.0)}, [1.425, 1.025, 0.875, 1.675, 0.875]),
        ("breadcrumbs", {"density": 0.4, "gamma": 0.2}, [1.5, 1.4, 1.0, 0.7, 0.8]),
    ],
)
def test_worked_examples(method: str, keys: dict[str, Any], wanted: list[float]) -> None:
    torch.testing.assert_close(merge(recipe(method, **keys), [A, B], BASE), torch.tensor(wanted).double())


def test_ties_trims_to_the_largest_entries() -> None:
    torch.testing.assert_close(keep_largest(A - BASE, 0.6), torch.tensor([0.5, 0, 0, 1, -0.2]).double())
    torch.testing.assert_close(keep_largest(B - BASE, 0.6), torch.tensor([0, 0.4, -0.5, -0.3, 0]).double())


def test_slerp_goes_along_the_arc() -> None:
    e1, e2, _ = torch.eye(3, dtype=torch.float64)
    wanted = torch.tensor([0.92388, 0.382683, 0]).double()
    torch.testing.assert_close(slerp(e1, e2, 0.25), wanted, atol=1e-6, rtol=0)
    for t in (0.1, 0.5, 0.9):
        assert float(slerp(e1, e2, t).norm()) == pytest.approx(1)
        assert float(torch.acos(slerp(e1, e2, t) @ e1)) == pytest.approx(t * torch.pi / 2)


def test_slerp_over_rows_is_slerp_of_each_row_alone() -> None:
    a, b = random_parents(2)
    rows = torch.stack([slerp(x, y, 0.3) for x, y in zip(a, b, strict=True)])
    torch.testing.assert_close(slerp(a, b, 0.3, over="row"), rows)
    assert not torch.allclose(rows, slerp(a, b, 0.3))


def test_slerp_is_a_straight_line_where_there_is_no_arc() -> None:
    a, _ = random_parents(2)
    for b in (1.5 * a, -2 * a, torch.zeros_like(a)):
        torch.testing.assert_close(slerp(a, b, 0.3, over="row"), 0.7 * a + 0.3 * b)
    assert slerp(torch.tensor(2.0), torch.tensor(4.0), 0.5, over="row") == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["linear", "slerp", "task_arithmetic"])
def test_all_weight_on_one_parent_gives_it_back_bit_for_bit(method: str, dtype: torch.dtype) -> None:
    a, b, base = (tensor.float() for tensor in random_parents(3, dtype))
    a[0, :4] = torch.tensor([-0.0, 1e-38, 1e30, 1e-7])
    for which, parent in enumerate((a, b)):
        keys: dict[str, Any] = (
            {"t": float(which)} if method == "slerp" else {"weights": (1.0 - which, float(which))}
        )
        found = merge(recipe(method, **keys), [a, b], base)
        assert torch.equal(found.view(torch.int32), parent.view(torch.int32))


@pytest.mark.parametrize("method", SPARSE)
def test_one_parent_of_which_nothing_is_dropped_comes_back(method: str) -> None:
    parent, base = random_parents(2)
    torch.testing.assert_close(merge(recipe(method, 1), [parent], base), parent)
    torch.testing.assert_close(merge(recipe(method, 1, weights=(0.4,), normalize=True), [parent], base), parent)


@pytest.mark.parametrize("method", [*WEIGHTED, "model_stock"])
def test_the_order_of_parents_does_not_matter(method: str) -> None:
    *tensors, base = random_parents(4)
    keys = {"density": 0.5, "linear": ()} if method in SPARSE else {"linear": ()}
    weights = (0.6, 0.3, 1.1)
    found = []
    for order in itertools.permutations(range(3)):
        values = {
            "name": "m",
            "method": method,
            "parents": [f"parent {n}" for n in order],
            **keys,
            **({"weights": [weights[n] for n in order]} if method in WEIGHTED else {}),
        }
        made = MergeRecipe.model_validate(values)
        found.append(merge(made, [tensors[n] for n in order], base))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-6, rtol=1e-5)


def test_slerp_from_either_end_is_the_same() -> None:
    a, b = random_parents(2)
    torch.testing.assert_close(slerp(a, b, 0.3), slerp(b, a, 0.7))


@pytest.mark.parametrize("method", SPARSE)
def test_parents_equal_to_the_base_change_nothing(method: str) -> None:
    (base,) = random_parents(1)
    assert torch.equal(merge(recipe(method, density=0.5), [base, base.clone()], base), base)


def test_entries_of_the_outvoted_sign_take_no_part() -> None:
    base = torch.zeros(3)
    tensors = [torch.tensor([3.0, 1.0, 0.0]), torch.tensor([-1.0, -4.0, 0.0]), torch.tensor([1.0, 1.0, -2.0])]
    found = merge(recipe("ties", 3), tensors, base)
    assert found.tolist() == [2.0, -4.0, -2.0]
    # With five times its weight the second parent decides on the first entry.
    assert merge(recipe("ties", 3, weights=(1.0, 5.0, 1.0)), tensors, base).tolist() == [-1.0, -4.0, -2.0]


def test_of_equal_magnitudes_the_first_are_kept_and_never_more_than_the_share() -> None:
    delta = torch.tensor([1.0, -1.0, 1.0, 2.0, 1.0, 0.0])
    assert keep_largest(delta, 0.5).tolist() == [1, -1, 0, 2, 0, 0]
    assert keep_band(delta, 0.5, 0.2).tolist() == [1, -1, 1, 0, 0, 0]
    assert keep_largest(torch.zeros(6), 0.01).tolist() == [0] * 6
    assert int((keep_largest(random_parents(1)[0], 0.001) != 0).sum()) == 1


@pytest.mark.parametrize("method", ["dare", "della"])
def test_dropping_by_chance_keeps_the_share_and_the_expectation(method: str) -> None:
    (delta,) = random_parents(1, shape=(20, 50))

    def drop(seed: int, rescale: Rescale) -> Tensor:
        generator = generator_for(seed, "weight", "parent")
        if method == "dare":
            return keep_at_random(delta, 0.3, generator, rescale)
        return keep_by_rank(delta, 0.3, 0.2, generator, rescale)

    draws = torch.stack([drop(seed, "probability") for seed in range(200)])
    # 200,000 draws of variance 0.21 or less: a standard error of 0.001.
    assert float((draws != 0).float().mean()) == pytest.approx(0.3, abs=0.004)
    spread = draws.std(0) / 200**0.5
    assert float(((draws.mean(0) - delta).abs() > 5 * spread + 1e-6).float().mean()) < 0.01
    l1 = drop(1, "l1")
    assert float(l1.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-5)
    none = drop(1, "none")
    assert torch.equal(none[none != 0], delta[none != 0])


def test_della_keeps_larger_entries_of_a_row_with_a_larger_probability() -> None:
    delta = torch.tensor([[0.1, -3.0, 2.0], [5.0, 5.0, 0.0]])
    wanted = torch.tensor([[0.4, 0.8, 0.6], [0.6, 0.8, 0.4]])
    torch.testing.assert_close(rank_probabilities(delta, 0.6, 0.2), wanted)
    torch.testing.assert_close(rank_probabilities(delta[0], 0.6, 0.2), wanted[0])
    torch.testing.assert_close(rank_probabilities(delta[:, :1], 0.6, 0.2), torch.full((2, 1), 0.6))


def test_chances_hang_on_seed_tensor_and_parent_alone() -> None:
    delta = torch.ones(64)

    def kept(seed: int, name: str, parent: str) -> list[float]:
        return keep_at_random(delta, 0.5, generator_for(seed, name, parent), "none").tolist()

    first = kept(0, "a", "p")
    assert first == kept(0, "a", "p")
    assert all(first != other for other in (kept(1, "a", "p"), kept(0, "b", "p"), kept(0, "a", "q")))


def test_model_stock_of_right_angles_is_the_base_and_of_one_direction_the_mean() -> None:
    base = torch.zeros(4)
    right = [torch.tensor([1.0, 0, 0, 0]), torch.tensor([0, 1.0, 0, 0])]
    assert merge(recipe("model_stock"), right, base).tolist() == [0] * 4
    same = [torch.tensor([1.0, 1, 0, 0]), torch.tensor([3.0, 3, 0, 0])]
    torch.testing.assert_close(merge(recipe("model_stock"), same, base), torch.tensor([2.0, 2, 0, 0]))
    against = [torch.tensor([1.0, 0, 0, 0]), torch.tensor([-1.0, 0, 0, 0])]
    assert merge(recipe("model_stock"), against, base).tolist() == [0] * 4


@pytest.mark.parametrize("method", sorted(READS))
def test_norms_and_embeddings_are_plain_sums(method: Method) -> None:
    a, b, base = random_parents(3)
    keys = {"density": 0.3} if method in SPARSE else {}
    keys |= {"seed": 3} if "seed" in READS[method] else {}
    values = {"name": "m", "method": method, "parents": ("x", "y"), **keys}
    made = MergeRecipe.model_validate(values)
    is_mean = method in ("linear", "slerp", "model_stock", "ties", "della")
    wanted = (a + b) / 2 if is_mean else a + b - base
    torch.testing.assert_close(merge(made, [a, b], base, "model.norm.weight"), wanted)
    other = MergeRecipe.model_validate(values | {"linear": ("o_proj",)})
    if method not in ("linear", "task_arithmetic"):
        assert not torch.allclose(merge(other, [a, b], base, "model.norm.weight"), wanted)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"method": "ties"}, "needs density"),
        ({"method": "linear", "density": 0.5}, "density is not read by method 'linear', which reads weights"),
        ({"method": "model_stock", "t": 0.5}, "reads nothing but parents and base"),
        ({"method": "slerp", "parents": ["a", "b", "c"]}, "3 parents are named, but slerp takes exactly two"),
        ({"method": "model_stock", "parents": ["a"]}, "name two or more"),
        ({"method": "linear", "parents": ["a", "a"]}, "named twice"),
        ({"method": "linear", "weights": [1.0]}, "1 weights for 2 parents"),
        ({"method": "ties", "density": [0.5, 0.5, 0.5]}, "3 densities for 2 parents"),
        ({"method": "ties", "density": 1.5}, "density is 1.5; it must be above 0"),
        ({"method": "della", "density": 0.9}, "make epsilon smaller than 0.1"),
        ({"method": "linear", "rank": 4, "dtype": "float32"}, "rank makes an adapter"),
    ],
)
def test_a_recipe_that_says_something_without_effect_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        MergeRecipe.model_validate({"name": "m", "parents": ["a", "b"], **keys})


def test_weights_that_cancel_have_no_mean() -> None:
    with pytest.raises(UserError, match="sum to 0"):
        merge(recipe("linear", weights=(1.0, -1.0)), [A, B], BASE)
