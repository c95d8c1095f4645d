"""Gated DeltaNet against transformers' Qwen3.5 and against its own definition, step by step."""

import pytest
import torch
from parity import (
    ATOL,
    assert_cache_agrees,
    assert_same_gradients,
    assert_same_logits,
    difference,
    random_ids,
    reference,
)
from torch import Tensor, nn

from modelstack.architecture.attention.delta_net import gated_delta_rule
from modelstack.architecture.config import build
from modelstack.architecture.decoder import CausalLM

SIZES = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 8,
}


def qwen35() -> tuple[nn.Module, CausalLM]:
    layer_types = ["linear_attention", "linear_attention", "full_attention", "linear_attention"]
    rope = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}
    theirs = reference(
        "qwen3_5_text",
        num_hidden_layers=4,
        head_dim=16,
        layer_types=layer_types,
        rope_parameters={**rope, "mrope_section": [2, 1, 1], "mrope_interleaved": True},
        **SIZES,
    )
    config = build(
        SIZES
        | {
            "model_type": "test",
            "vocab_size": 128,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "layer_types": layer_types,
            "mlp_layer_types": ("dense",) * 4,
            "norm_type": "rmsnorm_zero_centred",
            "qk_norm": "head",
            "attn_output_gate": True,
            "rope_parameters": {"default": rope},
            "tie_word_embeddings": theirs.config.tie_word_embeddings,  # pyright: ignore
        }
    )
    model = CausalLM(config)
    model.load_state_dict({ours(name): tensor for name, tensor in theirs.state_dict().items()}, strict=True)
    return theirs, model.eval()


def ours(name: str) -> str:
    """Qwen3.5 names the recurrent mixer apart."""
    return name.replace("linear_attn", "self_attn")


@pytest.mark.filterwarnings("ignore")  # transformers warns that it has no fused kernel here
def test_a_hybrid_model_equals_qwen35_of_transformers() -> None:
    theirs, model = qwen35()
    ids = random_ids(n_tokens=150)  # three chunks, the last one cut
    assert_same_logits(theirs, model, ids)
    assert_cache_agrees(model, ids, chunks=(70, 3))
    assert_same_gradients(theirs, model, ids, our_name=ours)


def random_inputs(T: int, H: int = 3, k: int = 8, v: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    q, key = torch.randn(2, H, T, k, generator=g), torch.randn(2, H, T, k, generator=g)
    value = torch.randn(2, H, T, v, generator=g)
    decay = -torch.rand(2, H, T, generator=g) * 2
    beta = torch.rand(2, H, T, generator=g)
    return q / k**0.5, key / key.norm(dim=-1, keepdim=True), value, decay, beta


def step_by_step(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    outputs = []
    for t in range(q.shape[2]):
        state = state * decay[:, :, t, None, None].exp()
        read = (state * k[:, :, t, :, None]).sum(2)
        u = beta[:, :, t, None] * (v[:, :, t] - read)
        state = state + k[:, :, t, :, None] * u[:, :, None, :]
        outputs.append((state * q[:, :, t, :, None]).sum(2))
    return torch.stack(outputs, 2), state


@pytest.mark.parametrize("T", [1, 5, 64, 65, 130])
def test_chunks_equal_the_recurrence(T: int) -> None:
    inputs = random_inputs(T)
    start = torch.randn(2, 3, 8, 5, generator=torch.Generator().manual_seed(9))
    expected, expected_state = step_by_step(*inputs, start)
    found, state = gated_delta_rule(*inputs, start)
    assert difference(found, expected) < ATOL
    assert difference(state, expected_state) < ATOL


def test_strong_decay_neither_overflows_nor_gives_nan_gradients() -> None:
    q, k, v, decay, beta = random_inputs(100)
    decay = (decay * 200).requires_grad_()
    y, state = gated_delta_rule(q, k, v, decay, beta)
    (y.sum() + state.sum()).backward()
    assert decay.grad is not None
    assert torch.isfinite(y).all() and torch.isfinite(decay.grad).all()


def test_packed_documents_start_from_an_empty_state() -> None:
    _, model = qwen35()
    first, second = random_ids(1, 1, 50), random_ids(2, 1, 37)
    documents = torch.tensor([[0] * 50 + [1] * 37])
    packed = model(torch.cat((first, second), 1), documents_BT=documents).logits_BTV
    apart = torch.cat((model(first).logits_BTV, model(second).logits_BTV), 1)
    assert difference(packed, apart) < ATOL
