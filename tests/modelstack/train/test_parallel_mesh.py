"""What the grid of ranks refuses, and who gets which batch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from modelstack.decide.memory import Layout, check_layout
from modelstack.errors import UserError
from modelstack.train.parallel.mesh import join_processes, make_mesh
from tests.modelstack.train.toys import family_config


@pytest.fixture
def rank_11_of_16() -> Iterator[None]:
    dist.init_process_group("fake", rank=11, world_size=16, store=FakeStore())
    yield
    dist.destroy_process_group()


def test_a_layout_of_another_number_of_ranks_is_refused() -> None:
    with pytest.raises(UserError, match="has 4 ranks .* there are 1 processes"):
        make_mesh(Layout(shard=2, tp=2))


def test_context_parallelism_is_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match="cp 2: context parallelism is not implemented"):
        make_mesh(Layout(cp=2))


def test_a_process_that_torchrun_did_not_start_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="RANK.*torchrun"):
        join_processes("cpu")


@pytest.mark.parametrize(
    ("layout", "complaint"),
    [
        (Layout(pp=9), "pp 9 is more than the model's"),
        (Layout(tp=4), "tp 4 does not divide num_key_value_heads 2"),
        (Layout(shard=2, ep=2), "ep 2 does not divide n_routed_experts 0"),
    ],
)
def test_a_degree_that_does_not_fit_the_model_is_named(layout: Layout, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        check_layout(family_config("llama"), layout)


@pytest.mark.usefixtures("rank_11_of_16")
def test_ranks_along_the_data_axes_have_batches_of_their_own() -> None:
    mesh = make_mesh(Layout(pp=2, replicate=2, shard=2, tp=2))
    assert (mesh.stage, mesh.data_rank) == (1, 1)
    assert dist.get_process_group_ranks(mesh.tp.get_group()) == [10, 11]
    assert dist.get_process_group_ranks(mesh.pp.get_group()) == [3, 11]


@pytest.mark.usefixtures("rank_11_of_16")
def test_expert_groups_are_neighbours_on_the_shard_axis() -> None:
    mesh = make_mesh(Layout(replicate=2, shard=8, ep=4))
    assert dist.get_process_group_ranks(mesh.ep.get_group()) == [8, 9, 10, 11]
    assert mesh.expert_fsdp.mesh_dim_names == ("replicate", "expert_shard")
    assert dist.get_process_group_ranks(mesh.expert_fsdp.get_group("expert_shard")) == [11, 15]
