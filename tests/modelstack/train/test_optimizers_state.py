"""What an optimizer has to remember is in its state, and the schedule moves its learning rates."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.optimizers.config import OptimizerConfig
from modelstack.train.optimizers.optimizer import GroupedOptimizer
from tests.modelstack.train.toys import family_model, values, with_random_gradients

CONFIG = OptimizerConfig(lr=0.01)


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    """Return a copy as a checkpoint would make it: tensors cloned, the rest written as JSON and read."""
    moments = {
        index: {name: value.clone() for name, value in of_one.items()} for index, of_one in state["state"].items()
    }
    assert all(isinstance(value, Tensor) for of_one in state["state"].values() for value in of_one.values())
    return {"state": moments, "param_groups": json.loads(json.dumps(state["param_groups"]))}


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "deepseek_v3", "deepseek_v4"])
@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_loaded_state_continues_bit_for_bit(family: str, name: str) -> None:
    config = OptimizerConfig.model_validate({"name": name, "lr": 0.01})
    model = family_model(family)
    optimizer = build_optimizer(model, config)
    for step in range(2):
        with_random_gradients(model, step)
        optimizer.step()
    resumed = family_model(family, seed=1)
    resumed.load_state_dict(model.state_dict())
    resumed_optimizer = build_optimizer(resumed, config)
    resumed_optimizer.load_state_dict(through_json(optimizer.state_dict()))
    for step in range(2, 4):
        for one, stepping in ((model, optimizer), (resumed, resumed_optimizer)):
            with_random_gradients(one, step)
            stepping.step()
    expected = values(model)
    assert all(torch.equal(value, expected[name]) for name, value in values(resumed).items())


def test_what_a_group_was_built_with_is_still_there_after_a_schedule_and_a_load() -> None:
    model = family_model("llama")
    optimizer = build_optimizer(model, OptimizerConfig(lr=1.0, muon_lr=2.0))
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    resumed = build_optimizer(model, OptimizerConfig(lr=7.0))
    resumed.load_state_dict(through_json(optimizer.state_dict()))
    first = {group["role"]: group["initial_lr"] for group in resumed.param_groups}
    assert first == {"matrix": 2.0, "embedding": 1.0, "head": 1.0, "vector": 1.0}
    assert {group["lr"] for group in resumed.param_groups} == {0.5}


def test_a_closure_is_evaluated_with_gradients() -> None:
    model = family_model("llama")
    optimizer: GroupedOptimizer = build_optimizer(model, CONFIG)
    before = values(model)

    def closure() -> float:
        optimizer.zero_grad()
        loss = model(torch.arange(8)[None]).logits_BTV.square().mean()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) > 0
    after = values(model)
    assert all(not torch.equal(before[name], after[name]) for name in ("lm_head.weight", "model.norm.weight"))
