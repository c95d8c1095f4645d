"""A toy model trained in FP8 ends within 1 % of the loss that bf16 ends at.

The text is a Markov chain, so that there is something to learn. Both runs are bf16 models with fp32 masters; the
one differs from the other by its linear layers alone.

Letters: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modelstack.architecture.initialise import initialise
from modelstack.train.fp8 import convert_linears
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.optimizers.config import OptimizerConfig
from modelstack.train.precision import with_fp32_masters
from tests.modelstack.train.toys import family_model

pytestmark = pytest.mark.slow

V, B, T = 64, 16, 32
N_STEPS = 60
N_MEASURED = 20


def batches(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    chain_VV = F.normalize(torch.rand(V, V, generator=generator) ** 8, p=1, dim=-1)
    made = []
    for _ in range(N_STEPS):
        ids = [torch.randint(0, V, (B,), generator=generator)]
        for _ in range(T):
            ids.append(torch.multinomial(chain_VV[ids[-1]], 1, generator=generator).squeeze(1))
        made.append(torch.stack(ids, 1))
    return made


def loss_at_the_end(is_fp8: bool) -> tuple[float, float]:
    """Return the first loss and the mean of the last ones."""
    model = initialise(family_model("llama", vocab_size=V, hidden_size=128, head_dim=32), seed=0)
    if is_fp8:
        assert len(convert_linears(model)) == 14
    config = OptimizerConfig(lr=3e-3, weight_decay=0.0)
    optimizer = with_fp32_masters(model, partial(build_optimizer, config=config))
    losses = []
    for ids in batches(seed=0):
        logits = model(ids[:, :-1]).logits_BTV
        loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses[0], sum(losses[-N_MEASURED:]) / N_MEASURED


def test_fp8_ends_within_1_percent_of_bf16() -> None:
    first, bf16 = loss_at_the_end(is_fp8=False)
    _, fp8 = loss_at_the_end(is_fp8=True)
    assert bf16 < 0.8 * first
    assert fp8 != bf16
    assert abs(fp8 / bf16 - 1) < 0.01
