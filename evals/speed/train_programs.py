"""Training step of each program, as in its own training script, on the same shapes and tokens.

All have 8 layers, width 256, 8 heads and a tied vocabulary of 4,096. `llama`: 4 KV heads, SwiGLU of 704, RMSNorm,
RoPE. `gpt2`: 8 KV heads, a GELU MLP of 1,024, LayerNorm. For `gpt2`, modelstack uses RoPE and nanoGPT a table of
positions, which gives nanoGPT 0.9 % more parameters. A step is forward, backward, clipping to norm 1 and torch's
fused AdamW for every program, although nanoGPT's and litgpt's scripts use the slower one on a CPU.

bf16 means bf16 products with weights kept in fp32, for every program: modelstack holds fp32 master weights; the
others run under autocast, like transformers' Trainer (`bf16=True`), nanoGPT and litgpt (`bf16-mixed`). modelstack
calls `train_step` as `modelstack train` does, including packed documents and the guard's measurements.

Letters: B rows, T tokens.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# The peers are installed in a separate environment.
from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

Precision = Literal["fp32", "bf16"]
Mode = Literal["eager", "compiled"]
Architecture = Literal["llama", "gpt2"]
Step = Callable[[Tensor, Tensor], float]
"""Takes ids and labels [B, T], updates the weights, and returns the loss."""

LEARNING_RATE, BETAS, WEIGHT_DECAY, MAX_NORM = 1e-3, (0.9, 0.95), 0.1, 1.0
N_BATCHES = 8
"""Number of different batches, used in rotation."""
PREDICTABLE = 0.9
"""Share of the tokens that follow from the one before and can be learned."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Shape of the model and batches that all programs train."""

    layers: int = 8
    width: int = 256
    heads: int = 8
    kv_heads: int = 4
    """KV heads of `llama`; `gpt2` has as many as heads."""
    inner: int = 704
    """MLP width of `llama`; `gpt2` has four times the model width."""
    vocabulary: int = 4096
    tokens: int = 256
    rows: int = 8


@dataclass(frozen=True, slots=True)
class Task:
    """A program's task in the benchmark."""

    program: str
    precision: Precision = "fp32"
    mode: Mode = "eager"
    shape: Shape = Shape()
    nanogpt: Path | None = None
    """Checkout of nanoGPT."""


@dataclass(frozen=True, slots=True)
class Trainer:
    """A program that is ready to take steps."""

    n_parameters: int
    step: Step


def batches(shape: Shape, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Return ids and labels of `N_BATCHES` batches; most tokens follow from the one before."""
    generator = torch.Generator().manual_seed(seed)
    V = shape.vocabulary
    found = []
    for _ in range(N_BATCHES):
        size = (shape.rows, shape.tokens + 1)
        ids = torch.randint(0, V, size, generator=generator)
        follows = torch.rand(size, generator=generator) < PREDICTABLE
        for t in range(1, size[1]):
            ids[:, t] = torch.where(follows[:, t], (ids[:, t - 1] * 5 + 1) % min(V, 64), ids[:, t])
        found.append((ids[:, :-1].contiguous(), ids[:, 1:].contiguous()))
    return found


def losses(trainer: Trainer, shape: Shape) -> Callable[[], float]:
    """Return a function that takes one step on the next batch and returns its loss."""
    turns = cycle(batches(shape))
    return lambda: trainer.step(*next(turns))


def build(task: Task) -> Trainer:
    """Return a program with newly initialised weights."""
    torch.manual_seed(0)
    return PROGRAMS[task.program].build(task)


def modelstack(task: Task, architecture: Architecture) -> Trainer:
    """Return the step of `modelstack.train`."""
    from modelstack.architecture.decoder import CausalLM
    from modelstack.architecture.initialise import initialise
    from modelstack.data.batches import Batch
    from modelstack.train.optimizers.build import build_optimizer
    from modelstack.train.optimizers.config import OptimizerConfig
    from modelstack.train.parallel.blocks import compile_blocks
    from modelstack.train.precision import with_fp32_masters
    from modelstack.train.process import set_up_process
    from modelstack.train.step import local_state, train_step

    set_up_process(threads=None)
    model = initialise(CausalLM(our_config(task.shape, architecture))).train()
    wanted = OptimizerConfig(name="adamw", lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY)
    if task.precision == "bf16":
        optimizer = with_fp32_masters(model, lambda model: build_optimizer(model, wanted))
    else:
        optimizer = build_optimizer(model, wanted)
    if task.mode == "compiled":
        compile_blocks(model)
    state = local_state(model, optimizer)

    def step(ids: Tensor, labels: Tensor) -> float:
        batch = Batch(ids, labels, torch.zeros_like(ids), position=0)
        return train_step(state, [batch], max_norm=MAX_NORM).losses["total"]

    return Trainer(count(model), step)


def our_config(shape: Shape, architecture: Architecture) -> Any:
    """Return modelstack's configuration of an architecture."""
    from modelstack.architecture.presets.registry import published

    same = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": shape.tokens,
    }
    if architecture == "llama":
        own = {"num_key_value_heads": shape.kv_heads, "intermediate_size": shape.inner}
        return published("smollm2-135m", **same, **own)
    config = published("smollm2-135m", **same, num_key_value_heads=shape.heads, intermediate_size=4 * shape.width)
    return config.with_(norm_type="layernorm", mlp_gated=False, hidden_act="gelu")


def transformers(task: Task) -> Trainer:
    """Return LlamaForCausalLM with its own loss."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = task.shape
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.tokens,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    run = prepared(model, task)
    # shift_labels takes labels that are already aligned, so that all programs predict the same tokens.
    return peer(
        model,
        task,
        lambda ids, labels: run(input_ids=ids, labels=labels, shift_labels=labels, use_cache=False).loss,
    )


def litgpt(task: Task) -> Trainer:
    """Return litgpt's GPT with a Llama configuration and its own loss."""
    from litgpt.model import GPT, Config
    from litgpt.utils import chunked_cross_entropy

    shape = task.shape
    config = Config(
        block_size=shape.tokens,
        vocab_size=shape.vocabulary,
        padded_vocab_size=shape.vocabulary,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_embd=shape.width,
        n_query_groups=shape.kv_heads,
        intermediate_size=shape.inner,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )
    model = GPT(config)
    model.lm_head.weight = model.transformer.wte.weight
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
    run = prepared(model, task)
    return peer(model, task, lambda ids, labels: chunked_cross_entropy(run(ids), labels))


def nanogpt(task: Task) -> Trainer:
    """Return the GPT of a nanoGPT checkout, without biases, as in its training script."""
    assert task.nanogpt is not None
    spec = importlib.util.spec_from_file_location("nanogpt_model", task.nanogpt / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shape = task.shape
    config = module.GPTConfig(
        block_size=shape.tokens,
        vocab_size=shape.vocabulary,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_embd=shape.width,
        dropout=0.0,
        bias=False,
    )
    model = module.GPT(config)
    run = prepared(model, task)
    return peer(model, task, lambda ids, labels: run(ids, labels)[1])


def prepared(model: nn.Module, task: Task) -> Callable[..., Any]:
    """Return the callable of a forward pass: the model, or the compiled model in mode "compiled"."""
    model.train()
    return torch.compile(model) if task.mode == "compiled" else model


def peer(model: nn.Module, task: Task, loss_of: Callable[[Tensor, Tensor], Tensor]) -> Trainer:
    """Return a peer's step: its loss, backward, torch's clipping and fused AdamW."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=True)
    is_mixed = task.precision == "bf16"

    def step(ids: Tensor, labels: Tensor) -> float:
        with torch.autocast("cpu", torch.bfloat16) if is_mixed else contextlib.nullcontext():
            loss = loss_of(ids, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return Trainer(count(model), step)


def count(model: nn.Module) -> int:
    """Return the number of parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


@dataclass(frozen=True, slots=True)
class Program:
    """Builder of a program, and the program that it is compared with."""

    build: Callable[[Task], Trainer]
    architecture: Architecture
    beside: str = ""
    """modelstack's program of the same architecture; empty for modelstack itself."""
    least: float = 1.0
    """Minimum ratio of modelstack's speed to this program's."""


PROGRAMS: dict[str, Program] = {
    "modelstack": Program(lambda task: modelstack(task, "llama"), "llama"),
    "transformers": Program(transformers, "llama", "modelstack", 1.3),
    "litgpt": Program(litgpt, "llama", "modelstack"),
    "modelstack (gpt2)": Program(lambda task: modelstack(task, "gpt2"), "gpt2"),
    "nanoGPT": Program(nanogpt, "gpt2", "modelstack (gpt2)"),
}


def smallest(shape: Shape) -> Shape:
    """Return a small shape for runs that only test that everything works."""
    return replace(shape, layers=1, width=64, heads=2, kv_heads=1, inner=64, vocabulary=512, tokens=8, rows=2)
