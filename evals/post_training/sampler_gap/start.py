"""The task (repeat a number's digits), and a start model that solves about half of it.

A base of a hundred thousand weights learns from examples in which each digit is wrong with some probability. It
therefore knows the task and gives correct and wrong replies about equally often, so that a reward can sharpen it
within minutes on one core. Everything is generated from a seed; held-back numbers occur in no example and no task.

Letters: B examples, T tokens.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field
from torch.nn import functional as F

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.gguf.export import export_gguf
from modelstack.architecture.initialise import initialise
from modelstack.architecture.losses import IGNORED
from modelstack.architecture.presets.registry import published
from modelstack.files import replacing
from modelstack.tokenizer.chat import ChatEncoder
from modelstack.tokenizer.chat_template import chat_encoder
from modelstack.tokenizer.gguf_tokenizer import tokenizer_from_fields
from modelstack.tokenizer.text_tokenizer import byte_alphabet

BASE, TRAINING, HELD_BACK = "base.gguf", "train.jsonl", "held-back.jsonl"
DIGITS = "123456789"
SIZES: dict[str, Any] = {
    "vocab_size": 288,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
}
BEHIND_NORMS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}
"""Weights that read the output of each norm of a layer."""
BATCH = 64
LEARNING_RATE = 3e-3


class StartPlan(BaseModel, frozen=True, extra="forbid"):
    """Settings of the base and the tasks."""

    n_digits: int = Field(default=6, ge=1)
    p_wrong: float = Field(default=0.12, ge=0, lt=1)
    """Probability that a digit of an example is wrong."""
    spread: float = Field(default=0.7, ge=0)
    """Spread of the channel scales, see `spread_channels`."""
    base_steps: int = Field(default=700, ge=1)
    n_training: int = Field(default=512, ge=1)
    n_held_back: int = Field(default=200, ge=1)
    seed: int = 0


def make_start(plan: StartPlan, folder: Path, told: Callable[[str], None]) -> None:
    """Write tasks and base unless they exist."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(plan.seed)
    numbers = {_number(draw, plan.n_digits) for _ in range(2 * (plan.n_training + plan.n_held_back))}
    drawn = draw.sample(sorted(numbers), plan.n_training + plan.n_held_back)
    held_back, training = drawn[: plan.n_held_back], drawn[plan.n_held_back :]
    _write_tasks(folder / HELD_BACK, held_back)
    _write_tasks(folder / TRAINING, training)
    if not (folder / BASE).exists():
        _train_base(plan, frozenset(held_back), folder / BASE, told)


@torch.no_grad()
def spread_channels(model: CausalLM, spread: float, seed: int) -> None:
    """Give channels very different scales without changing the function that the model computes.

    A norm's gain is divided by the scales, and the columns after it are multiplied by them. The scale of a
    quantisation block is that of its largest number, so a large channel leaves its neighbours few of the sixteen
    values of four bits. Large models develop such channels by themselves (LLM.int8(), arXiv 2208.07339). A nano
    model has none, and without them its four-bit error would be too small to measure.

    Args:
        model: A llama.
        spread: Standard deviation of the logarithm of the scales.
        seed: Seed of the scales.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = dict(model.named_parameters())
    for layer in range(model.config.num_hidden_layers):
        for norm, readers in BEHIND_NORMS.items():
            before = f"model.layers.{layer}."
            gain_D = weights[f"{before}{norm}.weight"]
            sizes_D = torch.exp(spread * torch.randn(len(gain_D), generator=generator))
            gain_D.div_(sizes_D)
            for reader in readers:
                weights[f"{before}{reader}.weight"].mul_(sizes_D)


def byte_tokenizer() -> dict[str, Any]:
    """Return GGUF metadata of a byte-level tokenizer."""
    tokens = [*byte_alphabet(), "th", "<|end|>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * (len(tokens) - 1) + [3],
        "tokenizer.ggml.merges": ["t h"],  # llama.cpp requires at least one
        "tokenizer.ggml.eos_token_id": len(tokens) - 1,
    }


def _number(draw: random.Random, n_digits: int) -> str:
    return "".join(draw.choice(DIGITS) for _ in range(n_digits))


def _write_tasks(file: Path, numbers: list[str]) -> None:
    lines = [
        {"id": f"{file.stem}-{n}", "prompt": number, "gold": number, "license": "CC0-1.0"}
        for n, number in enumerate(numbers)
    ]
    with replacing(file) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _train_base(plan: StartPlan, held_back: frozenset[str], file: Path, told: Callable[[str], None]) -> None:
    """Train the base on examples with wrong digits, and write it in fp32."""
    torch.manual_seed(plan.seed)
    tokenizer = tokenizer_from_fields(byte_tokenizer(), file)
    encoder = chat_encoder(tokenizer)
    model = initialise(CausalLM(published("smollm2-135m", **SIZES)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    draw = random.Random(f"{plan.seed} base")
    (end_id,) = tokenizer.vocabulary.end_ids
    for step in range(plan.base_steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, step / 50, 2 * (1 - step / plan.base_steps))
        ids_BT, labels_BT = _examples(plan, held_back, encoder, end_id, draw)
        logits_BTV = model(ids_BT).logits_BTV
        loss = F.cross_entropy(logits_BTV.flatten(0, 1), labels_BT.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0 or step == plan.base_steps - 1:
            told(f"base, step {step} of {plan.base_steps}: loss {loss.item():.3f}")
    spread_channels(model, plan.spread, plan.seed)
    export_gguf(model.config, model.state_dict(), byte_tokenizer(), file, type_name="f32", name="repeats")


def _examples(
    plan: StartPlan, held_back: frozenset[str], encoder: ChatEncoder, end_id: int, draw: random.Random
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and labels [B, T] of one batch; all examples have the same length."""
    ids, labels = list[list[int]](), list[list[int]]()
    while len(ids) < BATCH:
        number = _number(draw, plan.n_digits)
        if number in held_back:
            continue
        said = "".join(draw.choice(DIGITS) if draw.random() < plan.p_wrong else digit for digit in number)
        prompt = [*encoder.encode_turn("user", number, previous=None).ids, *encoder.generation_ids("user")]
        whole = [*prompt, *encoder.vocabulary.encode(said), end_id]
        ids.append(whole[:-1])
        labels.append([IGNORED] * (len(prompt) - 1) + whole[len(prompt) :])
    return torch.tensor(ids), torch.tensor(labels)
