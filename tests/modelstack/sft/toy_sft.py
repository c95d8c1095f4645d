"""A fine-tuning that takes seconds: a toy base as GGUF and as a checkpoint, examples of two tools, a recipe."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from modelstack.architecture.checkpoint import save_checkpoint
from modelstack.architecture.gguf.export import export_gguf
from modelstack.data.examples import Call, Example, Message, Tool, write_examples
from modelstack.posttrain.base import load_base
from modelstack.recipe_file import checked_recipe
from modelstack.sft.recipe import SftRecipe
from modelstack.tokenizer.tokenizer_folder import save_text_tokenizer
from tests.modelstack.architecture.gguf_models import toy_config, toy_model, toy_tokenizer

TOOLS = (
    Tool(
        name="lamp",
        parameters={"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]},
    ),
    Tool(
        name="oven",
        parameters={"type": "object", "properties": {"heat": {"type": "integer"}}, "required": ["heat"]},
    ),
)
ROW_TOKENS = 512
STILL = {
    "shuffle_tools": False,
    "shuffle_parameters": False,
    "mask_names": 0,
    "drop_optional": 0,
    "swap_values": 0,
}
"""No augmentation: what is seen again is the same."""


def write_base(folder: Path, family: str = "llama", type_name: str = "f32", **changes: Any) -> Path:
    """Write a toy model as GGUF, and beside it as a checkpoint folder; return the file.

    Args:
        folder: Folder of both.
        family: A name in `gguf_models.MODELS`.
        type_name: Number type of the file; its numbers are in full by default.
        changes: Other values of the config.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = toy_model(toy_config(family, max_position_embeddings=2 * ROW_TOKENS, **changes))
    with torch.no_grad():
        model.lm_head.weight.mul_(10)  # of numbers so small that no adapter could be sure of a token
    tokenizer = toy_tokenizer() | {"tokenizer.ggml.pre": "gpt-2"}
    file = export_gguf(model.config, model.state_dict(), tokenizer, folder / "toy.gguf", type_name=type_name).path
    save_text_tokenizer(load_base(file).tokenizer, folder / "tokenizer")
    save_checkpoint(model, folder / "checkpoint", tokenizer=folder / "tokenizer")
    return file


def toy_example(n: int, seed: int = 0) -> Example:
    """Return one of a few kinds, by its number."""
    draw = random.Random(f"{seed}/{n}")
    heat = draw.randrange(30, 250)
    kind, words, calls = [
        ("call", f"heat it to {heat}", (Call(name="oven", arguments={"heat": heat}),)),
        ("call", "light please", (Call(name="lamp", arguments={"on": True}),)),
        ("irrelevant", f"what is {heat}?", ()),
    ][n % 3]
    return Example.model_validate(
        {
            "id": f"toy-{seed}-{n}",
            "source": "toy",
            "license": "CC0-1.0",
            "kind": kind,
            "tools": TOOLS,
            "messages": (Message(role="user", content=words),),
            "calls": calls,
        }
    )


def write_data(folder: Path, n_training: int = 12, n_validation: int = 4) -> None:
    """Write `train.jsonl` and `validation.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_examples(folder / "train.jsonl", [toy_example(n) for n in range(n_training)])
    write_examples(folder / "validation.jsonl", [toy_example(n, seed=1) for n in range(n_validation)])


def toy_values(base: Path, examples: Path, **changes: Any) -> dict[str, Any]:
    """Return a recipe's tables."""
    return {
        "name": "toy",
        "base": str(base),
        "precision": "fp32",
        "device": "cpu",
        "threads": 1,
        "steps": 8,
        "rows": 2,
        "micro_batches": 2,
        "data": {
            "training": [str(examples / "train.jsonl")],
            "validation": [str(examples / "validation.jsonl")],
            "row_tokens": ROW_TOKENS,
        },
        "lora": {"rank": 4, "alpha": 8},
        "optimizer": {"lr": 1e-2},
        "checkpoints": {"every": 3, "keep": 2},
        "evaluation": {"every": 4},
        **changes,
    }


def toy_recipe(base: Path, examples: Path, **changes: Any) -> SftRecipe:
    """Return the checked recipe."""
    return checked_recipe(
        SftRecipe, {k: v for k, v in toy_values(base, examples, **changes).items() if v is not None}
    )
