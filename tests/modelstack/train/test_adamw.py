"""AdamW of the grouped optimizer is torch's, and the paper's formula."""

import pytest
import torch
from torch import Tensor

from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.optimizers.config import OptimizerConfig
from tests.modelstack.train.toys import family_model, values, with_random_gradients

CONFIG = OptimizerConfig(name="adamw", lr=1e-3, weight_decay=0.1, vector_weight_decay=0.1, betas=(0.9, 0.95))
N_STEPS = 100


@pytest.mark.parametrize(("dtype", "is_fused"), [(torch.float32, True), (torch.float64, False)])
def test_100_steps_end_where_torchs_adamw_ends(dtype: torch.dtype, is_fused: bool) -> None:
    own, theirs = family_model("qwen3").to(dtype), family_model("qwen3").to(dtype)
    optimizer = build_optimizer(own, CONFIG)
    reference = torch.optim.AdamW(
        theirs.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=is_fused
    )
    for step in range(N_STEPS):
        for model, stepping in ((own, optimizer), (theirs, reference)):
            with_random_gradients(model, step)
            stepping.step()
    expected = values(theirs)
    for name, value in values(own).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-7)


def test_a_step_is_the_papers_formula() -> None:
    model = family_model("llama").double()
    optimizer = build_optimizer(model, CONFIG)
    before = values(model)
    mean = {name: torch.zeros_like(value) for name, value in before.items()}
    square = {name: torch.zeros_like(value) for name, value in before.items()}
    expected = dict(before)
    for step in range(1, 4):
        with_random_gradients(model, step)
        for name, p in model.named_parameters():
            gradient: Tensor = p.grad  # pyright: ignore[reportAssignmentType]
            mean[name] = 0.9 * mean[name] + 0.1 * gradient
            square[name] = 0.95 * square[name] + 0.05 * gradient**2
            towards = (mean[name] / (1 - 0.9**step)) / ((square[name] / (1 - 0.95**step)).sqrt() + 1e-8)
            expected[name] = expected[name] - 1e-3 * (towards + 0.1 * expected[name])
        optimizer.step()
    for name, value in values(model).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-12)


def test_a_parameter_without_a_gradient_stays() -> None:
    model = family_model("llama")
    optimizer = build_optimizer(model, CONFIG)
    with_random_gradients(model, 0)
    model.get_parameter("model.norm.weight").grad = None
    before = values(model)
    optimizer.step()
    after = values(model)
    assert torch.equal(after["model.norm.weight"], before["model.norm.weight"])
    assert not torch.equal(after["lm_head.weight"], before["lm_head.weight"])


def test_v4s_eps_divides_a_gradient_of_zeros_into_zeros() -> None:
    model = family_model("llama")
    optimizer = build_optimizer(model, CONFIG.model_copy(update={"eps": 1e-20, "weight_decay": 0.0}))
    before = values(model)["lm_head.weight"]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.equal(values(model)["lm_head.weight"], before)
