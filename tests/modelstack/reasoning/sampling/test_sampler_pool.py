"""A pool of samplers on Ray: one sampler's replies, with the newest weights, also where an actor is killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from modelstack.errors import UserError
from modelstack.posttrain.base import Base, load_base
from modelstack.posttrain.lora.adapters import add_lora, lora_layers
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.reasoning.sampling.sampled import Asked, Sampled, Sampler
from modelstack.reasoning.sampling.sampler_pool import SamplerPool
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.rewards import Item
from modelstack.train.process import set_up_process
from tests.modelstack.reasoning.sampling.pooled_samplers import dying_once, one_by_one, together
from tests.modelstack.sft.toy_sft import write_base

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("ray"),
    pytest.mark.usefixtures("two_ray_workers"),
]
TASK = PolicyTask(Item("1", None), ())
ASKED = [Asked(TASK, (5, 9, 3 + n % 4, *range(7, 7 + n)), seed=20 + n) for n in range(5)]


@pytest.fixture
def base(tmp_path: Path) -> Base:
    set_up_process(1)  # as trainings do, and actors
    made = load_base(write_base(tmp_path / "base"))
    torch.manual_seed(0)
    add_lora(made.model, LoraConfig(rank=2, alpha=4))
    return made


def move(base: Base) -> None:
    """Move the adapter, as a step of training does."""
    with torch.no_grad():
        for name, layer in lora_layers(base.model):
            assert layer.lora_B is not None, name
            layer.lora_B.normal_(0, 0.5)


@pytest.mark.parametrize("make", [one_by_one, together])
def test_replies_are_one_samplers_and_follow_the_weights(base: Base, make: Callable[[Base], Sampler]) -> None:
    own = make(base)
    with SamplerPool(base, make, 2) as pool:
        first = pool.sample(ASKED, 3)
        assert written(first) == written(own.sample(ASKED, 3))
        move(base)
        moved = pool.sample(ASKED, 3)
        assert written(moved) == written(own.sample(ASKED, 3)) != written(first)
        assert written(pool.sample(ASKED[:1], 2)) == written(own.sample(ASKED[:1], 2))
        assert pool.sample([], 2) == []


def written(groups: list[list[Sampled]]) -> list[list[tuple[int, ...]]]:
    return [[reply.ids for reply in group] for group in groups]


def test_the_part_of_a_killed_actor_is_sampled_again_with_the_newest_weights(base: Base, tmp_path: Path) -> None:
    with SamplerPool(base, partial(dying_once, tmp_path / "killed"), 2) as pool:
        move(base)
        assert pool.sample(ASKED, 3) == one_by_one(base).sample(ASKED, 3)
    assert (tmp_path / "killed").exists()


def test_an_actors_error_is_the_samplers(base: Base) -> None:
    too_long = replace(ASKED[0], prompt_ids=tuple(range(3, 13)) * 200)
    with SamplerPool(base, one_by_one, 1) as pool, pytest.raises(UserError, match="exceed the context"):
        pool.sample([too_long], 1)
    with pytest.raises(UserError, match="n_samplers is 0; it must be 1 or more"):
        SamplerPool(base, one_by_one, 0)
