"""Small torch engines: toy models with a tokenizer that chats, and a reply by whole forward passes."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from modelstack.architecture.decoder import CausalLM
from modelstack.inference.engine import GenerateRequest
from modelstack.inference.torch.engine import TorchEngine
from tests.modelstack.architecture.gguf_models import toy_chat_tokenizer, toy_config, toy_model

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"max_position_embeddings": 256}),
    "qwen2": ("qwen2", {"max_position_embeddings": 256}),
    "qwen3": ("qwen3", {"max_position_embeddings": 256}),
    "qwen3-moe": ("qwen3_moe", {"norm_topk_prob": True, "max_position_embeddings": 256}),
    "deepseek-v3": ("deepseek_v3", {"max_position_embeddings": 256}),
}
"""Kinds that serve as examples of the paged ones."""
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "windows and caps": ("gemma3", {}),
    "layers without positions": ("smollm3", {}),
    "post-norm": ("olmo3", {}),
    "sinks": ("gpt_oss", {}),
    "ALiBi": ("llama", {}),
}


@cache
def model_of(name: str) -> CausalLM:
    """Return the model of a family, float32, whose next tokens are neither certain nor all alike."""
    family, keys = (FAMILIES | OTHERS)[name]
    config = toy_config(family, **keys)
    if name == "ALiBi":
        config = config.with_(position_embedding="alibi")
    model = toy_model(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(10)
    return model


def engine_of(name: str = "llama", **options: Any) -> TorchEngine:
    """Return an engine of a family."""
    given: dict[str, Any] = {"block_tokens": 4, "seed": 0} | options
    return TorchEngine(model_of(name), toy_chat_tokenizer(), **given)


def prompt_of(number: int, n_tokens: int) -> list[int]:
    """Return a prompt of random text tokens."""
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, 256, (n_tokens,), generator=generator).tolist()


def greedy(name: str, prompt: list[int], max_tokens: int) -> list[int]:
    """Return the reply by whole forward passes without a cache, and without an end."""
    return list(_greedy(name, tuple(prompt), max_tokens))


@cache
def _greedy(name: str, prompt: tuple[int, ...], max_tokens: int) -> tuple[int, ...]:
    return tuple(greedy_of(model_of(name), list(prompt), max_tokens))


def greedy_of(model: CausalLM, prompt: list[int], max_tokens: int) -> list[int]:
    """Return what `greedy` does, for any model."""
    forbidden = sorted(toy_chat_tokenizer().vocabulary.special_ids)
    n_vocab = len(toy_chat_tokenizer().vocabulary)
    ids = list(prompt)
    for _ in range(max_tokens):
        with torch.no_grad():
            logits_V = model(torch.tensor([ids])).logits_BTV[0, -1, :n_vocab]
        logits_V[forbidden] = -torch.inf
        ids.append(int(logits_V.argmax()))
    return ids[len(prompt) :]


def request(prompt: list[int], max_tokens: int = 8, **keys: Any) -> GenerateRequest:
    """Return a request that no token ends."""
    given: dict[str, Any] = {"end_ids": frozenset()} | keys
    return GenerateRequest(prompt, max_tokens, **given)
