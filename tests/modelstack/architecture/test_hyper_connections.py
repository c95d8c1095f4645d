"""Hyper-connections: what the manifold promises, and the plain net that they contain."""

import pytest
import torch
from parity import difference, random_ids
from toy_v4 import toy_config, toy_model

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.hyper_connections import HyperConnection, expand, sinkhorn, write_back


@pytest.mark.parametrize(("spread", "n_iterations"), [(0.0, 20), (1.0, 20), (3.0, 1000)])
def test_residual_matrices_are_doubly_stochastic(spread: float, n_iterations: int) -> None:
    logits = spread * torch.randn(500, 4, 4, generator=torch.Generator().manual_seed(0))
    m = sinkhorn(logits, n_iterations, 1e-6)
    assert m.min() > 0
    # The iteration ends on columns: theirs is exact, the rows' is what the rounds leave, and far logits need more.
    assert (m.sum(dim=-2) - 1).abs().max() < 1e-5
    assert (m.sum(dim=-1) - 1).abs().max() < 1e-3


def test_the_matrices_of_a_poisoned_model_are_doubly_stochastic() -> None:
    config = toy_config(hc_mult=4)
    for seed in range(3):
        model = toy_model(config, seed)
        x = torch.randn(2, 9, 4, config.hidden_size)
        for block in model.model.layers:
            _, write, residual = block.attn_hc(x)  # pyright: ignore
            assert (residual.sum(dim=-1) - 1).abs().max() < 1e-3
            assert (residual.sum(dim=-2) - 1).abs().max() < 1e-3
            assert (write > 0).all() and (write < 2).all()


def test_a_stochastic_matrix_keeps_the_streams_sum_and_the_write_adds_to_each() -> None:
    torch.manual_seed(0)
    x, y, write = torch.randn(2, 5, 4, 8), torch.randn(2, 5, 8), torch.rand(2, 5, 4)
    residual = sinkhorn(torch.randn(2, 5, 4, 4), 50, 1e-9)
    after = write_back(x, y, write, residual)
    expected = x.sum(dim=2) + write.sum(dim=-1, keepdim=True) * y
    assert difference(after.sum(dim=2), expected) < 1e-4


def test_the_residual_matrix_is_used_transposed() -> None:
    x = torch.arange(6.0).view(1, 1, 3, 2)
    swap = torch.zeros(1, 1, 3, 3)
    swap[..., 0, 2] = swap[..., 1, 0] = swap[..., 2, 1] = 1  # stream 0 goes to 2, 1 to 0, 2 to 1
    after = write_back(x, torch.zeros(1, 1, 2), torch.ones(1, 1, 3), swap)
    assert after[0, 0].tolist() == [[2.0, 3.0], [4.0, 5.0], [0.0, 1.0]]


def flat(model: CausalLM) -> CausalLM:
    """Set every scale and base to zero."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("hc.scale", "hc.base", "hc_scale", "hc_base")):
                parameter.zero_()
    return model


def test_scale_and_base_zero_is_the_plain_pre_norm_net() -> None:
    # The epsilons stand at different places in the two nets; without them they are one function.
    config = toy_config(hc_mult=4, hc_eps=0.0, rms_norm_eps=1e-12)
    model = flat(toy_model(config))
    plain = CausalLM(config.with_(norm_placement="pre", hc_mult=1)).eval()
    own = ("attn_hc.", "ffn_hc.", "hc_head.")
    shared = {name: t for name, t in model.state_dict().items() if not any(part in name for part in own)}
    plain.load_state_dict(shared, strict=True)
    ids = random_ids(n_tokens=40, vocab_size=64)
    with torch.no_grad():
        expected = plain(ids).logits_BTV
        assert expected.std() > 0.05
        assert difference(model(ids).logits_BTV, expected) < 5e-6


def test_streams_stay_equal_at_scale_zero_and_part_at_any_other() -> None:
    config = toy_config(hc_mult=4)
    ids = random_ids(n_tokens=12, vocab_size=64)
    with torch.no_grad():
        streams = flat(toy_model(config))(ids).mtp_state
        assert (streams - streams[:, :, :1]).abs().max() == 0
        model = flat(toy_model(config))
        for block in model.model.layers:
            # Both: a uniform residual matrix makes the streams equal again.
            block.attn_hc.scale.fill_(0.01)  # pyright: ignore
            block.ffn_hc.scale.fill_(0.01)  # pyright: ignore
        streams = model(ids).mtp_state
        assert (streams - streams[:, :, :1]).abs().max() > 1e-4


def test_a_new_connection_starts_near_the_plain_residual() -> None:
    torch.manual_seed(0)
    config = toy_config(hc_mult=4)
    x = expand(torch.randn(2, 7, config.hidden_size), 4)
    mixed, write, residual = HyperConnection(config)(x)
    assert difference(mixed, 2 * x[:, :, 0]) < 0.05
    assert difference(write, torch.ones_like(write)) < 0.05
    assert difference(residual, torch.full_like(residual, 0.25)) < 0.05
