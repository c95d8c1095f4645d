"""Cutting a decoder into stages: names, values, balance, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.initialise import initialise
from modelstack.errors import UserError
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.optimizers.config import OptimizerConfig
from modelstack.train.parallel.bubble import torch_schedule
from modelstack.train.parallel.pipeline import Stage, join, make_stages, split_layers
from modelstack.train.parallel.pipeline_schedules import SCHEDULES, check_micro_batches, stages_by_rank
from tests.modelstack.train.toys import family_config

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"num_hidden_layers": 5},
    "qwen3": {"num_hidden_layers": 4},  # tied
    "deepseek_v3": {"num_hidden_layers": 4, "num_nextn_predict_layers": 1},
    "deepseek_v4": {"num_nextn_predict_layers": 1},  # streams, hash routing
}


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("schedule", ["1F1B", "Interleaved1F1B", "DualPipeV"])
def test_the_ranks_state_dicts_together_are_the_whole_models(family: str, schedule: str) -> None:
    config = family_config(family, **CONFIGS[family])
    whole = initialise(CausalLM(config), 5).state_dict()
    found: dict[str, torch.Tensor] = {}
    for rank in range(2):
        stages = make_stages(config, schedule, 2, rank, n_tokens=32)
        share = join([initialise(stage, 5) for stage in stages])  # pyright: ignore
        for name, value in share.state_dict().items():
            assert torch.equal(value, whole[name]), name
            found[name] = value
    assert found.keys() == whole.keys()


def test_a_stage_on_the_meta_device_has_the_same_names_and_no_memory() -> None:
    config = family_config("llama", num_hidden_layers=4)
    with torch.device("meta"):
        (stage,) = make_stages(config, "1F1B", 2, 1, n_tokens=32)
    assert all(parameter.is_meta for parameter in stage.parameters())
    assert {name for name, _ in stage.model.layers.named_children()} <= {"1", "2", "3"}
    assert "lm_head.weight" in stage.state_dict()


def test_a_rank_with_both_ends_of_a_tied_model_has_one_embedding_to_move() -> None:
    stages = make_stages(family_config("qwen3", num_hidden_layers=4), "ZBVZeroBubble", 2, 0, n_tokens=32)
    share = join(stages)
    groups = build_optimizer(share, OptimizerConfig(name="adamw")).param_groups
    names = [name for group in groups for name in group["names"]]
    assert [name for name in names if "embed" in name or "head" in name] == ["model.embed_tokens.weight"]
    assert share.lm_head.weight is stages[0].embedding_VD  # pyright: ignore


def test_a_tied_copy_elsewhere_is_moved_as_an_embedding() -> None:
    (last,) = make_stages(family_config("qwen3", num_hidden_layers=4), "1F1B", 2, 1, n_tokens=32)
    roles = {group["role"]: group["names"] for group in build_optimizer(last, OptimizerConfig()).param_groups}
    assert roles["embedding"] == ["model.embed_tokens.weight"]
    assert "head" not in roles


def test_a_large_head_takes_layers_from_the_last_stage() -> None:
    small = family_config("llama", num_hidden_layers=12)
    large = family_config("llama", num_hidden_layers=12, vocab_size=4096)
    assert [len(span) for span in split_layers(small, 4, 32)] == [3, 3, 3, 3]
    sizes = [len(span) for span in split_layers(large, 4, 32)]
    assert sum(sizes) == 12
    assert sizes[-1] == 1


def test_among_cuts_of_equal_pace_the_embedding_takes_layers_from_the_first_stage() -> None:
    config = family_config("llama", num_hidden_layers=4)
    assert split_layers(config, 3, 32) == [range(1), range(1, 3), range(3, 4)]


def test_stages_cover_all_layers_in_order() -> None:
    config = family_config("llama", num_hidden_layers=11)
    for n_stages in (1, 2, 5, 11):
        spans = split_layers(config, n_stages, 64)
        assert [layer for span in spans for layer in span] == list(range(11))
        assert len(spans) == n_stages
        assert all(spans)


def test_more_stages_than_layers_are_refused() -> None:
    with pytest.raises(UserError, match="8 stages needs a layer for each, but the model has 4"):
        make_stages(family_config("llama", num_hidden_layers=4), "Interleaved1F1B", 4, 0, n_tokens=32)


@pytest.mark.parametrize(
    ("schedule", "n_ranks", "stages_per_rank", "complaint"),
    [
        ("2F2B", 2, None, "schedule '2F2B' is not known; known: GPipe, 1F1B"),
        ("1F1B", 1, None, "a pipeline of 1 rank has nothing to overlap"),
        ("GPipe", 2, 2, "GPipe has 1 stages on each rank, not 2"),
        ("DualPipeV", 2, 3, "DualPipeV has 2 stages on each rank, not 3"),
    ],
)
def test_a_placement_that_a_schedule_does_not_have_is_refused(
    schedule: str, n_ranks: int, stages_per_rank: int | None, complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        stages_by_rank(schedule, n_ranks, stages_per_rank)


def test_placements_are_loops_or_a_v() -> None:
    assert stages_by_rank("Interleaved1F1B", 3, 3) == [(0, 3, 6), (1, 4, 7), (2, 5, 8)]
    assert stages_by_rank("ZBVZeroBubble", 3) == [(0, 5), (1, 4), (2, 3)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_micro_batches_are_refused_exactly_where_torch_refuses_them(schedule: str) -> None:
    n_refused = 0
    for n_ranks in (2, 3, 4):
        placed = stages_by_rank(schedule, n_ranks)
        for n in range(1, 14):
            try:
                torch_schedule(schedule, placed, 0, n)
            except ValueError:
                n_refused += 1
                with pytest.raises(UserError, match="set micro_batches to"):
                    check_micro_batches(schedule, n_ranks, sum(map(len, placed)), n)
            else:
                check_micro_batches(schedule, n_ranks, sum(map(len, placed)), n)
    assert (n_refused > 0) == (schedule not in ("GPipe", "LoopedBFS", "ZBVZeroBubble"))


def test_a_middle_stage_holds_neither_end() -> None:
    config = family_config("llama", num_hidden_layers=3)
    stage = Stage(config, 1, [range(1), range(1, 2), range(2, 3)])
    assert all(name.startswith("model.layers.1.") for name in stage.state_dict())
