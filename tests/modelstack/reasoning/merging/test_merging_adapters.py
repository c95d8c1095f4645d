"""LoRA adapters merged as the updates that they are: into the base, or into an adapter that both programs read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modelstack.errors import UserError
from modelstack.posttrain.base import load_base
from modelstack.posttrain.lora.adapters import lora_layers, merge_lora
from modelstack.posttrain.lora.files import put_adapter, read_adapter
from modelstack.posttrain.lora.gguf import read_gguf_adapter
from modelstack.posttrain.starting_point import starting_point
from modelstack.reasoning.merging.low_rank import factorised
from tests.modelstack.reasoning.merging.toy_merging import adapter_stage, contents, model_stage, toy_merge
from tests.modelstack.sft.toy_sft import write_base

pytestmark = pytest.mark.xdist_group("merging_adapters")
LAYERS = ("q_proj", "down_proj")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file, with adapters `a` and `b` beside it, and `c` on other layers and of another scaling."""
    file = write_base(tmp_path_factory.mktemp("adapters"))
    adapter_stage(file.parent / "a", file, 1, targets=LAYERS)
    adapter_stage(file.parent / "b", file, 2, targets=LAYERS, rank=3)
    adapter_stage(file.parent / "c", file, 3, targets=("q_proj", "up_proj"), scaling="rslora")
    return file


def updates(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """Return what an adapter adds to each weight, by the code that trains and merges one."""
    model = load_base(base).model
    put_adapter(model, read_adapter(adapter))
    return {f"{name}.weight": layer.merged_weight() - layer.weight for name, layer in lora_layers(model)}


def change_of(base: Path, folder: Path) -> dict[str, torch.Tensor]:
    """Return by how much a model's weights differ from the base's, where they do."""
    before, after = load_base(base).model.state_dict(), load_base(folder).model.state_dict()
    changes = {name: after[name] - before[name] for name in before}
    return {name: change for name, change in changes.items() if change.any()}


@torch.no_grad()
def test_the_product_is_merged_and_not_its_factors(base: Path, tmp_path: Path) -> None:
    here = base.parent
    made = toy_merge(tmp_path / "m", "linear", [here / "a", here / "b"], base, weights=(3.0, 1.0))
    a, b = (updates(base, here / name / "adapter") for name in "ab")
    found = change_of(base, made.weights)
    assert found.keys() == a.keys() == b.keys()
    for name, change in found.items():
        torch.testing.assert_close(change, 0.75 * a[name] + 0.25 * b[name], atol=1e-6, rtol=1e-4)
    assert made.record.parents[0].name == "a"
    assert made.record.base_sha256 == load_base(base).sha256


@torch.no_grad()
def test_an_adapter_without_a_layer_counts_as_no_change_there(base: Path, tmp_path: Path) -> None:
    here = base.parent
    made = toy_merge(tmp_path / "m", "task_arithmetic", [here / "a", here / "c"], base, scale=0.5)
    a, c = (updates(base, here / name / "adapter") for name in "ac")
    found = change_of(base, made.weights)
    assert found.keys() == a.keys() | c.keys()
    for name, change in found.items():
        wanted = 0.5 * (a.get(name, torch.tensor(0.0)) + c.get(name, torch.tensor(0.0)))
        torch.testing.assert_close(change, wanted, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_a_rank_that_is_large_enough_keeps_all_in_both_formats(base: Path, tmp_path: Path) -> None:
    here = base.parent
    whole = toy_merge(tmp_path / "whole", "linear", [here / "a", here / "b"], base)
    made = toy_merge(tmp_path / "m", "linear", [here / "a", here / "b"], base, rank=7)
    wanted = change_of(base, whole.weights)
    model = load_base(base, expected_sha256=made.record.base_sha256)
    put_adapter(model.model, read_adapter(made.weights))
    stored = read_gguf_adapter(made.path / "adapter.gguf", model.config)
    for name, layer in lora_layers(model.model):
        change = layer.merged_weight() - layer.weight
        torch.testing.assert_close(change, wanted[f"{name}.weight"], atol=1e-5, rtol=1e-3)
        prefix = f"base_model.model.{name}"
        product = stored.state[f"{prefix}.lora_B.weight"] @ stored.state[f"{prefix}.lora_A.weight"]
        torch.testing.assert_close(stored.config.scale * product, change, atol=1e-3, rtol=1e-2)
    assert made.record.metrics["share of the updates' norm that the rank keeps"] == pytest.approx(1, abs=1e-5)
    # It is trained on, or merged, as any adapter's stage is: its own run tells where the base lies.
    start = starting_point(made.path)
    assert (start.weights, start.parent) == (base, made.origin)
    merge_lora(model.model)


def test_a_smaller_rank_tells_how_much_it_keeps(base: Path, tmp_path: Path) -> None:
    here = base.parent
    made = toy_merge(tmp_path / "m", "ties", [here / "a", here / "b"], base, density=0.5, rank=2)
    kept = made.record.metrics["share of the updates' norm that the rank keeps"]
    least = made.record.metrics["least share of a layer"]
    assert isinstance(kept, float) and isinstance(least, float)
    assert 0.1 < least <= kept < 0.95
    assert "share of the updates' norm" in (made.path / "README.md").read_text()
    again = toy_merge(tmp_path / "again" / "m", "ties", [here / "a", here / "b"], base, density=0.5, rank=2)
    assert contents(again.path) == contents(made.path)


def test_factors_are_the_nearest_of_their_rank_and_have_one_sign() -> None:
    delta = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    found = factorised(delta, 3)
    s = torch.linalg.svdvals(delta)
    assert float((delta - found.b @ found.a).norm()) == pytest.approx(float(s[3:].norm()), rel=1e-5)
    assert found.kept == pytest.approx(float(s[:3].norm() / s.norm()), rel=1e-6)
    torch.testing.assert_close(found.a.norm(dim=1), found.b.norm(dim=0))
    assert (found.b.gather(0, found.b.abs().argmax(0, keepdim=True)) > 0).all()
    assert factorised(torch.zeros(4, 4), 2).kept == 1


def test_adapters_that_do_not_go_together_are_refused(base: Path, tmp_path: Path) -> None:
    here, checkpoint = base.parent, base.parent / "checkpoint"
    adapter_stage(tmp_path / "dora", base, 1, dora=True)
    adapter_stage(tmp_path / "other", checkpoint, 1)
    model_stage(tmp_path / "model", checkpoint, 1)
    refused = [
        ([here / "a", tmp_path / "dora"], base, {}, "dora/adapter uses DoRA.*merge it into its base first"),
        ([here / "a", tmp_path / "other"], base, {}, "an adapter only fits the weights it was trained on"),
        (
            [here / "a", tmp_path / "model"],
            base,
            {},
            "a is an adapter and .*model a model: merge the adapter into",
        ),
        ([here / "a", here / "none"], base, {}, "parent .*none is missing"),
        ([here / "a", tmp_path / "modle"], base, {}, "modle is missing: .*; nearest path: '.*/model'"),
        ([here / "a", here / "b"], None, {}, "'base' is missing, but merged adapters need it"),
        (
            [here / "a", here / "b"],
            here / "a",
            {},
            "is an adapter, but a base must be a model|does not record the path of its base",
        ),
        ([here / "a", here / "b"], base, {"rank": 65}, "LoRA rank 65 is too large for"),
        ([here / "a", here / "b"], base, {"unrecorded": True}, "'unrecorded' is for models"),
    ]
    for n, (parents, on, keys, told) in enumerate(refused):
        with pytest.raises(UserError, match=told):
            toy_merge(tmp_path / f"m{n}", "linear", parents, on, **keys)
