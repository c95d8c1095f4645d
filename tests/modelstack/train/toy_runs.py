"""A toy run with a tokenizer and documents, for the tests of hooks."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch

from modelstack.architecture.config import ModelConfig, build
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.initialise import initialise
from modelstack.architecture.losses import next_token_labels
from modelstack.data.batches import Batch
from modelstack.tokenizer.special_tokens import SpecialTokens
from modelstack.tokenizer.text_tokenizer import TextTokenizer
from modelstack.tokenizer.training import TokenizerConfig, train_tokenizer
from modelstack.train.loop import LoopConfig, Run
from modelstack.train.step import local_state

TEXTS = (
    "the cat sat on the mat, and the dog sat on the cat. " * 4,
    "a dog ran to the house; the house was red.",
    "naïve cats, 24 of them: größer als der Hund! \N{CAT FACE} " * 3,
    "so",
)


@functools.cache
def toy_tokenizer(*, begin: bool = True) -> TextTokenizer:
    """Return a byte-level tokenizer with or without a begin-of-text token."""
    special = SpecialTokens() if begin else SpecialTokens(begin_of_text=None)
    return train_tokenizer(TEXTS * 4, TokenizerConfig(vocab_size=340, special_tokens=special)).text_tokenizer()


def toy_config(**keys: Any) -> ModelConfig:
    """Return a one-layer model of the tokenizer's ids."""
    values: dict[str, Any] = {
        "model_type": "llama",
        "vocab_size": len(toy_tokenizer().vocabulary),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "layer_types": ("full_attention",),
        "mlp_layer_types": ("dense",),
    }
    return build(values | keys)


def toy_model(seed: int = 0) -> CausalLM:
    """Return it with values of a seed."""
    return initialise(CausalLM(toy_config()), seed)


class Counting:
    """A loader: rows that count up from a number that its position decides."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            start = torch.randint(0, 32, (4, 1), generator=torch.Generator().manual_seed(self.position))
            ids = (start + torch.arange(10)) % 32
            self.position += 4
            yield Batch(ids, next_token_labels(ids), torch.zeros_like(ids), self.position - 4)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def toy_run(n_steps: int) -> Run:
    """Return a run of 40 tokens a step, without hooks and supervisor."""
    model = toy_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return Run(LoopConfig(n_steps=n_steps), local_state(model, optimizer), Counting(), lambda step: 1.0)
