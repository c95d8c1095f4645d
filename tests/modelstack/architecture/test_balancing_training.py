"""A toy model trained with and without the balancing bias: its load evens out with it and only with it.

The text is a Markov chain over tokens of Zipf frequency, so that a few tokens make most of the load and a router
left alone sends them where it likes. Load is measured over the last steps of the training, as MaxVio.

Letters: B rows, T tokens, V vocabulary, E experts.
"""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modelstack.architecture.config import ModelConfig, build
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.moe.balancing import BiasBalancer, max_violation
from modelstack.architecture.moe.losses import routing_losses

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("balancing_training")]  # each model is trained once

V, B, T = 64, 16, 32
N_STEPS = 120
N_MEASURED = 20
BIAS_SPEED = 0.01
"""Ten times DeepSeek's, since a toy has hundreds of steps and not hundreds of thousands."""
SEEDS = (0, 1)


def toy_config() -> ModelConfig:
    return build(
        {
            "model_type": "qwen3_moe",
            "vocab_size": V,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "layer_types": ("full_attention",) * 2,
            "mlp_layer_types": ("moe",) * 2,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "n_shared_experts": 1,
            "scoring_func": "sigmoid",
            "score_correction_bias": True,
        }
    )


def markov_chain(generator: torch.Generator) -> Tensor:
    """Return the chances of the next token, [V, V]."""
    zipf = 1.0 / torch.arange(1, V + 1)
    return F.normalize(zipf * torch.rand(V, V, generator=generator) ** 4, p=1, dim=-1)


def sample(chain_VV: Tensor, generator: torch.Generator) -> Tensor:
    """Return token ids, [B, T + 1]."""
    ids = [torch.randint(0, V, (B,), generator=generator)]
    for _ in range(T):
        ids.append(torch.multinomial(chain_VV[ids[-1]], 1, generator=generator).squeeze(1))
    return torch.stack(ids, 1)


@lru_cache
def trained(seed: int, speed: float, alpha: float = 0.0) -> tuple[list[float], float, float]:
    """Return MaxVio of each step, MaxVio of the last steps' sum (mean over layers both), and the last loss."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    config = toy_config().with_(seq_aux_loss_coef=alpha)
    model, chain = CausalLM(config), markov_chain(generator)
    balancer = BiasBalancer(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    by_step, measured, losses = [], torch.zeros_like(balancer.counts_LE), []
    for step in range(N_STEPS):
        ids = sample(chain, generator)
        output = model(ids[:, :-1])
        loss = F.cross_entropy(output.logits_BTV.flatten(0, 1), ids[:, 1:].flatten())
        losses.append(loss.item())
        for extra in routing_losses(config, output.routing, torch.ones(B, T, dtype=torch.bool)).values():
            loss = loss + extra
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        balancer.count(output.routing)
        if step >= N_STEPS - N_MEASURED:
            measured += balancer.counts_LE
        by_step.append(sum(balancer.update(speed).values()) / 2)
    return by_step, max_violation(measured).mean().item(), sum(losses[-N_MEASURED:]) / N_MEASURED


@pytest.mark.parametrize("seed", SEEDS)
def test_load_evens_out_with_the_bias_and_not_without_it(seed: int) -> None:
    _, without, loss_without = trained(seed, speed=0.0)
    _, with_bias, loss_with = trained(seed, speed=BIAS_SPEED)
    assert without > 0.5, "the fullest expert has more than half over its share"
    assert with_bias < 0.2
    assert loss_with < loss_without + 0.02, "and the model learns as well"


@pytest.mark.parametrize("seed", SEEDS)
def test_load_evens_out_with_the_sequence_wise_loss_alone(seed: int) -> None:
    """Alpha is a hundred times DeepSeek's: alone it must do what it does for V3 beside the bias."""
    _, without, _ = trained(seed, speed=0.0)
    _, with_loss, _ = trained(seed, speed=0.0, alpha=0.01)
    assert with_loss < 0.6 * without
