"""Muon against a float64 reference that is written here, matrix by matrix, without transposing or batching."""

import pytest
import torch
from torch import Tensor, nn

from modelstack.architecture.moe.experts import InterleavedExperts, PackedExperts
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.optimizers.config import OptimizerConfig
from modelstack.train.optimizers.muon import muon_updates, portions
from modelstack.train.optimizers.newton_schulz import SCHEDULES, orthogonalised
from tests.modelstack.train.toys import family_model, values, with_random_gradients

JORDAN = [(3.4445, -4.7750, 2.0315)] * 5
V4 = [(3.4445, -4.7750, 2.0315)] * 8 + [(2.0, -1.5, 0.5)] * 2
REFERENCE = {"quintic_5": JORDAN, "deepseek_v4_10": V4}


def newton_schulz(x: Tensor, schedule: list[tuple[float, float, float]]) -> Tensor:
    x = x.double() / x.double().norm()
    for a, b, c in schedule:
        square = x @ x.T
        x = a * x + b * square @ x + c * square @ square @ x
    return x


def reference_step(
    weight: Tensor, momentum: Tensor, gradient: Tensor, config: OptimizerConfig
) -> tuple[Tensor, Tensor]:
    """Return the moved matrix and its momentum, float64."""
    momentum = config.momentum * momentum + gradient.double()
    direction = gradient.double() + config.momentum * momentum if config.nesterov else momentum
    update = newton_schulz(direction, REFERENCE[config.newton_schulz])
    size = config.update_rms * max(weight.shape) ** 0.5
    return weight * (1 - config.lr * config.weight_decay) - config.lr * size * update, momentum


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8)])
def test_newton_schulz_is_the_polynomial_of_the_sheet(schedule: str, shape: tuple[int, int]) -> None:
    x = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = orthogonalised(x, SCHEDULES[schedule], torch.float64)
    for one, expected in zip(result, x, strict=True):
        torch.testing.assert_close(one, newton_schulz(expected, REFERENCE[schedule]), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("schedule", "dtype", "low", "high"),
    [
        ("deepseek_v4_10", torch.float32, 0.99, 1.01),
        ("deepseek_v4_10", torch.bfloat16, 0.95, 1.05),
        ("quintic_5", torch.float32, 0.5, 1.3),
    ],
)
def test_singular_values_end_near_1(schedule: str, dtype: torch.dtype, low: float, high: float) -> None:
    x = torch.randn(4, 32, 64, generator=torch.Generator().manual_seed(0)) * 1e-3
    singular = torch.linalg.svdvals(orthogonalised(x, SCHEDULES[schedule], dtype).float())
    assert low < singular.min() and singular.max() < high


def test_the_directions_of_the_singular_vectors_stay() -> None:
    x = torch.randn(1, 16, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    result = orthogonalised(x, SCHEDULES["deepseek_v4_10"], torch.float64)
    torch.testing.assert_close(result, u @ vh, rtol=0, atol=5e-3)


def test_zeros_stay_zeros() -> None:
    result = orthogonalised(torch.zeros(1, 4, 8), SCHEDULES["deepseek_v4_10"], torch.float32)
    assert torch.equal(result, torch.zeros(1, 4, 8))


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize(("schedule", "rms"), [("deepseek_v4_10", 0.18), ("quintic_5", 0.2)])
def test_steps_equal_the_float64_reference(nesterov: bool, schedule: str, rms: float) -> None:
    config = OptimizerConfig.model_validate(
        {
            "lr": 0.02,
            "nesterov": nesterov,
            "newton_schulz": schedule,
            "newton_schulz_dtype": "float32",
            "update_rms": rms,
        }
    )
    torch.manual_seed(0)
    sizes = [(16, 16), (16, 40), (40, 8)]
    model = nn.Sequential(*(nn.Linear(n_in, n_out, bias=False) for n_in, n_out in sizes))
    optimizer = build_optimizer(model, config)
    expected = {name: value.double() for name, value in values(model).items()}
    momenta = {name: torch.zeros_like(value) for name, value in expected.items()}
    for step in range(5):
        with_random_gradients(model, step)
        for name, p in model.named_parameters():
            assert p.grad is not None
            expected[name], momenta[name] = reference_step(expected[name], momenta[name], p.grad, config)
        optimizer.step()
    for name, value in values(model).items():
        torch.testing.assert_close(value.double(), expected[name], rtol=0, atol=2e-6)


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_each_expert_and_each_half_is_moved_as_if_it_were_alone(family: str) -> None:
    config = OptimizerConfig(lr=0.02, newton_schulz_dtype="float32")
    model = family_model(family)
    optimizer = build_optimizer(model, config)
    with_random_gradients(model, 0)
    experts = next(m for m in model.modules() if isinstance(m, PackedExperts | InterleavedExperts))
    alone = []
    for name in ("gate_up_proj", "down_proj"):
        parameter = getattr(experts, name)
        for weight, gradient in zip(parameter.detach().clone(), parameter.grad.clone(), strict=True):
            alone += [
                (name, pick, *matrix_moved_alone(weight[pick], gradient[pick], config))
                for pick in picks(family, name, weight)
            ]
    optimizer.step()
    n_experts = len(experts.down_proj)
    assert len(alone) == 3 * n_experts
    place = {"gate_up_proj": 0, "down_proj": 0}
    for name, pick, moved, expected in alone:
        per_expert = 2 if name == "gate_up_proj" else 1
        after = getattr(experts, name)[place[name] // per_expert][pick].detach()
        place[name] += 1
        torch.testing.assert_close(after, moved, rtol=0, atol=1e-6)
        torch.testing.assert_close(after.double(), expected, rtol=0, atol=2e-6)


def picks(family: str, name: str, weight: Tensor) -> list[tuple[slice, slice]]:
    """Return where the matrices of one expert lie."""
    everything = slice(None)
    if name == "down_proj":
        return [(everything, everything)]
    if family == "gpt_oss":
        return [(everything, slice(0, None, 2)), (everything, slice(1, None, 2))]
    half = len(weight) // 2
    return [(slice(0, half), everything), (slice(half, None), everything)]


def matrix_moved_alone(weight: Tensor, gradient: Tensor, config: OptimizerConfig) -> tuple[Tensor, Tensor]:
    """Return the matrix after a step as the only parameter of a model, and the reference's."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight.data.copy_(weight)
    linear.weight.grad = gradient.contiguous()
    build_optimizer(linear, config).step()
    expected, _ = reference_step(weight.double(), torch.zeros_like(weight.double()), gradient, config)
    return linear.weight.detach(), expected


def test_the_update_has_the_size_that_was_asked_for() -> None:
    momenta = [torch.randn(48, 16), torch.randn(16, 64)]
    for update in muon_updates(momenta, [None, None], SCHEDULES["deepseek_v4_10"], torch.float32, 0.18):
        assert abs(update.square().mean().sqrt().item() - 0.18) < 0.01


def test_portions_hold_every_parameter_once_and_stay_within_the_limit() -> None:
    shapes = [(4, 4), (8, 2), (4, 4), (2, 4, 4), (30, 2), (4, 4)]
    taken = list(portions([torch.empty(shape) for shape in shapes], max_elements=40))
    assert taken == [[3], [0, 2], [5, 1], [4]]  # the last is too large, and goes alone


def test_portions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for limit in (2**27, 1):
        monkeypatch.setattr(
            "modelstack.train.optimizers.optimizer.portions", lambda p, limit=limit: portions(p, limit)
        )
        model = family_model("qwen3_moe")
        optimizer = build_optimizer(model, OptimizerConfig(newton_schulz_dtype="float32"))
        with_random_gradients(model, 0)
        optimizer.step()
        results.append(values(model))
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=0, atol=1e-6)
