"""Which models tensor parallelism refuses, and what a cut one refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.testing._internal.distributed.fake_pg import FakeStore

from modelstack.decide.memory import Layout
from modelstack.errors import UserError
from modelstack.train.parallel.mesh import make_mesh
from modelstack.train.parallel.tensor import apply_tensor_parallel, check_tensor_parallel
from tests.modelstack.train.toys import family_config, family_model


@pytest.fixture
def rank_1_of_2() -> Iterator[None]:
    dist.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    yield
    dist.destroy_process_group()
    _clear_sharding_prop_cache()  # it names groups that are gone


@pytest.mark.parametrize(
    ("family", "changes", "complaint"),
    [
        ("deepseek_v3", {}, "layer_types has latent_attention"),
        ("qwen3_moe", {}, "mlp_layer_types has moe"),
        ("llama", {"attention_sinks": True}, "attention_sinks has true"),
        ("llama", {"num_nextn_predict_layers": 1}, "num_nextn_predict_layers has 1"),
    ],
)
def test_a_part_without_a_plan_is_named_with_what_to_do(
    family: str, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UserError, match=f"{complaint}.*set tp = 1"):
        check_tensor_parallel(family_config(family).with_(**changes))


@pytest.mark.usefixtures("rank_1_of_2")
def test_matrices_are_cut_as_megatron_cuts_them_and_a_tied_head_stays_tied() -> None:
    model = family_model("qwen3")
    apply_tensor_parallel(model, make_mesh(Layout(tp=2)).tp, model.config)
    cuts = {name: p.placements[0] for name, p in model.named_parameters() if isinstance(p, DTensor)}
    assert cuts.keys() == dict(model.named_parameters()).keys()
    block = {
        name.removeprefix("model.layers.0."): cut
        for name, cut in cuts.items()
        if name.startswith("model.layers.0")
    }
    by_columns = {f"self_attn.{one}_proj.weight" for one in "qkv"} | {"mlp.gate_proj.weight", "mlp.up_proj.weight"}
    assert {name for name, cut in block.items() if cut == Shard(0)} == by_columns
    assert {name for name, cut in block.items() if cut == Shard(1)} == {
        "self_attn.o_proj.weight",
        "mlp.down_proj.weight",
    }
    assert all(cut == Replicate() for name, cut in block.items() if "norm" in name)
    assert cuts["model.embed_tokens.weight"] == Shard(0)
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.usefixtures("rank_1_of_2")
def test_rows_that_cannot_be_cut_evenly_are_refused() -> None:
    model = family_model("llama")
    apply_tensor_parallel(model, make_mesh(Layout(tp=2)).tp, model.config)
    with pytest.raises(UserError, match="rows of 15 tokens cannot be cut over tp 2"):
        model(torch.zeros(1, 15, dtype=torch.int64))
