"""Toy models of transformers to compare with, and the comparison: logits, gradients, cached decoding, prefixes.

A fresh initialisation hides bugs: norms are 1, biases, sinks and correction biases 0. `poisoned` moves every
parameter, so that each takes part.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.presets.registry import from_hf

ATOL = 5e-6
"""fp32, absolute, on logits of a standard deviation below 1."""
N_TOKENS = 40

COMMON: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,  # transformers gives a padding token's row no gradient
}


def reference(model_type: str, *, seed: int = 0, **keys: Any) -> nn.Module:
    """Return a poisoned toy model of transformers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **{**COMMON, **keys})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().float()
    return poisoned(model, seed)


def poisoned(model: nn.Module, seed: int = 0) -> nn.Module:
    """Move every parameter and buffer away from the value that would hide its use."""
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif name.endswith("position_bias"):  # zeros, which doubling leaves
                parameter.add_(0.5 * torch.randn_like(parameter))
            elif "embed" not in name:
                parameter.mul_(2)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(0.05 * torch.randn_like(buffer))
            if name.endswith("tid2eid"):
                n_experts = next(p for n, p in model.named_parameters() if "experts" in n).shape[0]
                rows = [torch.randperm(n_experts)[: buffer.shape[1]] for _ in range(buffer.shape[0])]
                buffer.copy_(torch.stack(rows))
    return model


def ours(theirs: nn.Module) -> CausalLM:
    """Return our model with their weights: the state dict loads strictly."""
    model = CausalLM(from_hf(theirs.config.to_dict()))  # pyright: ignore
    model.load_state_dict(theirs.state_dict(), strict=True)
    return model.eval()


def random_ids(seed: int = 5, batch: int = 2, n_tokens: int = N_TOKENS, vocab_size: int = 128) -> Tensor:
    """Return token ids [B, T]."""
    return torch.randint(0, vocab_size, (batch, n_tokens), generator=torch.Generator().manual_seed(seed))


def difference(a: Tensor, b: Tensor) -> float:
    """Return the largest absolute difference."""
    return (a - b).abs().max().item()


@torch.no_grad()
def assert_same_logits(theirs: nn.Module, model: CausalLM, ids: Tensor, atol: float = ATOL) -> None:
    """Full pass against transformers'."""
    expected = theirs(ids, use_cache=False).logits
    assert expected.std() > 0.05, "logits too small for the tolerance to bite"
    assert difference(model(ids).logits_BTV, expected) < atol


@torch.no_grad()
def assert_cache_agrees(
    model: CausalLM, ids: Tensor, atol: float = ATOL, chunks: tuple[int, ...] = (7, 1, 1)
) -> None:
    """Chunks, then token by token, against one full pass; and the first half alone against the full pass."""
    full = model(ids).logits_BTV
    cache, parts, start = model.new_cache(), [], 0
    for n in (*chunks, *[1] * (ids.shape[1] - sum(chunks))):
        parts.append(model(ids[:, start : start + n], cache=cache).logits_BTV)
        start += n
    assert cache.n_tokens == ids.shape[1]
    assert difference(torch.cat(parts, 1), full) < atol
    half = ids.shape[1] // 2
    assert difference(model(ids[:, :half]).logits_BTV, full[:, :half]) < atol


def assert_same_gradients(
    theirs: nn.Module,
    model: CausalLM,
    ids: Tensor,
    rtol: float = 2e-5,
    our_name: Callable[[str], str] = lambda name: name,
) -> None:
    """Gradients of the mean cross-entropy, relative to the largest of each parameter."""
    for logits in (theirs(ids, use_cache=False).logits, model(ids).logits_BTV):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    expected = {our_name(name): p.grad for name, p in theirs.named_parameters()}
    found = {name: p.grad for name, p in model.named_parameters()}
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        if gradient is None:
            assert found[name] is None, name
            continue
        got = found[name]
        assert got is not None, name
        scale = max(gradient.abs().max().item(), 5e-3)
        assert difference(got, gradient) < rtol * scale, (name, difference(got, gradient), scale)
