"""A layout of ranks that do not exist runs a step without memory, and says who holds what."""

from __future__ import annotations

import pytest
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from modelstack.architecture.counts.parameters import count_parameters
from modelstack.architecture.presets.registry import published
from modelstack.decide.memory import Layout
from modelstack.errors import UserError
from modelstack.train.optimizers.config import OptimizerConfig
from modelstack.train.parallel.dry_run import dry_run
from modelstack.train.parallel.mesh import ParallelConfig
from tests.modelstack.train.toys import family_config

LLAMA = family_config("llama")


def test_shards_of_one_rank_are_its_part_of_all_states() -> None:
    layout = Layout(shard=4, tp=2)
    found = dry_run(LLAMA, ParallelConfig(layout=layout), context=32)
    (rank,) = found.ranks
    assert rank.n_parameters == count_parameters(LLAMA).total
    norms = 5 * LLAMA.hidden_size  # tensor parallelism leaves them whole
    assert rank.n_held == (rank.n_parameters - norms) / 8 + norms / 4
    assert rank.masters == rank.gradients == 4 * rank.n_held
    assert rank.n_gathered == (rank.n_parameters - norms) / 2 + norms


def test_a_pipeline_has_a_table_of_its_idle_time_and_one_rank_has_none() -> None:
    config = family_config("llama", num_hidden_layers=4)
    lines = dry_run(config, ParallelConfig(layout=Layout(pp=2)), context=32).text().splitlines()
    (head,) = (line for line in lines if line.startswith("idle share of the pipeline"))
    assert head.endswith("1F1B")
    assert lines[lines.index(head) + 1].split() == ["schedule", "M=2", "M=4", "M=8", "M=16"]
    assert ["1F1B", "33.3%", "20.0%", "11.1%", "5.9%"] in [line.split() for line in lines]
    assert "idle share" not in dry_run(config, ParallelConfig(layout=Layout(shard=2)), context=32).text()


def test_the_collectives_of_fsdp_are_counted_block_by_block() -> None:
    by_blocks = {
        reshard: dry_run(
            LLAMA, ParallelConfig(layout=Layout(shard=8), reshard_after_forward=reshard), context=32
        ).ranks[0]
        for reshard in (True, False)
    }
    # A unit for each of two blocks and one around them; a block that was freed is gathered twice.
    assert by_blocks[False].collectives["all-gather"].n == 3
    assert by_blocks[True].collectives["all-gather"].n == 5
    assert by_blocks[True].collectives["reduce-scatter"].n == 3
    gathered = by_blocks[False].collectives["all-gather"].n_bytes
    assert gathered == 2 * count_parameters(LLAMA).total


def test_experts_and_muon_run_without_memory() -> None:
    config = family_config("qwen3_moe")
    parallel = ParallelConfig(layout=Layout(replicate=2, shard=4, checkpointing="full"))
    (rank,) = dry_run(config, parallel, context=32, optimizer=OptimizerConfig()).ranks
    assert rank.n_parameters == count_parameters(config).total
    assert rank.collectives["all-reduce"].n >= 3  # of replicas: one for each of FSDP's units


def test_a_layout_that_cannot_be_is_refused_before_anything_is_made() -> None:
    with pytest.raises(UserError, match="tp 4 does not divide num_key_value_heads 2"):
        dry_run(LLAMA, ParallelConfig(layout=Layout(tp=4)), context=32)
    with pytest.raises(UserError, match="33 tokens cannot be cut over tp 2"):
        dry_run(LLAMA, ParallelConfig(layout=Layout(tp=2)), context=33)
    with pytest.raises(UserError, match="ep 2: the rank of a token's experts"):
        dry_run(family_config("qwen3_moe"), ParallelConfig(layout=Layout(shard=2, ep=2)), context=32)
    with pytest.raises(UserError, match="no tensor-parallel plan"):
        dry_run(family_config("qwen3_moe"), ParallelConfig(layout=Layout(tp=2)), context=32)


def test_one_of_several_processes_cannot_stand_for_all() -> None:
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        with pytest.raises(UserError, match="one of several"):
            dry_run(LLAMA, ParallelConfig(layout=Layout(shard=2)), context=32)
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_seventy_billion_parameters_on_512_ranks_are_as_large_as_predicted() -> None:
    config = published("llama-3-70b")
    layout = Layout(shard=32, tp=4, pp=4, checkpointing="full")
    found = dry_run(config, ParallelConfig(layout=layout), context=4096)
    assert [rank.stage for rank in found.ranks] == [0, 2, 3]
    fullest = max(rank.masters for rank in found.ranks)
    # The prediction counts even stages, the pipeline evens out work: the head is some layers' worth.
    assert fullest == pytest.approx(found.predicted.masters, rel=0.05)
    assert all(rank.optimizer == pytest.approx(2 * rank.masters, rel=1e-3) for rank in found.ranks)
    assert "dry run on 512 ranks" in found.text()
    assert "stage 3: 19 layers" in found.text()
