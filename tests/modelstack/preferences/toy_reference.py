"""The tiny model that trl is asked about, the same model here, and how the two are compared."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.presets.registry import from_hf
from modelstack.preferences.log_probs import LabelLogProbs, completion_labels, label_log_probs

V = 64
WORDS = [f"w{n}" for n in range(V - 4)]
ARGS: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": [],
    "save_strategy": "no",
    "per_device_train_batch_size": 2,
    "disable_tqdm": True,
}
"""trl's own defaults are for GPUs."""


def tokenizer() -> Any:
    """Return a tokenizer whose words are tokens, in transformers."""
    transformers = pytest.importorskip("transformers", reason="the reference; extra `dev`")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    special = ["<pad>", "<unk>", "<bos>", "<eos>"]
    inner = Tokenizer(WordLevel({word: n for n, word in enumerate([*special, *WORDS])}, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()  # pyright: ignore
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>", eos_token="<eos>"
    )


def config() -> Any:
    transformers = pytest.importorskip("transformers", reason="the reference; extra `dev`")
    return transformers.LlamaConfig(
        vocab_size=V,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )


def theirs(seed: int) -> Any:
    """Return a model of transformers."""
    transformers = pytest.importorskip("transformers", reason="the reference; extra `dev`")
    torch.manual_seed(seed)
    return transformers.LlamaForCausalLM(config()).eval()


@functools.cache
def ours(seed: int) -> CausalLM:
    """Return the same model here: its parameters are named the same."""
    model = CausalLM(from_hf(config().to_dict() | {"model_type": "llama"}))
    model.load_state_dict(theirs(seed).state_dict(), strict=True)
    return model


def trainer(
    kind: str, folder: Path, rows: list[dict[str, Any]], *, ref: bool = False, seed: int = 0, **options: Any
) -> Any:
    """Return a trainer of trl, e.g. of kind `DPO`, on the model of a seed; the other one is its reference."""
    trl = pytest.importorskip("trl", reason="the reference; extra `dev`")
    datasets = pytest.importorskip("datasets", reason="the reference; extra `dev`")
    module = importlib.import_module(f"trl.experimental.{kind.lower()}") if kind in ("CPO", "ORPO") else trl
    args = getattr(module, f"{kind}Config")(output_dir=str(folder), **(ARGS | options))
    more: dict[str, Any] = {"ref_model": theirs(1 - seed)} if ref else {}
    if kind in ("GRPO", "RLOO"):
        more["reward_funcs"] = lambda completions, **_: [0.0] * len(completions)
    made = getattr(module, f"{kind}Trainer")(
        theirs(seed),
        args=args,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer(),
        **more,
    )
    made.model.eval()
    return made


def log_probs_of(seed: int, ids_BT: Tensor, is_completion_BT: Tensor, statistics: bool = False) -> LabelLogProbs:
    """Return what the model of a seed says here; padding lies right, so it need not be told."""
    model = ours(seed)
    hidden = model(ids_BT, with_logits=False).hidden_BTD
    return label_log_probs(
        hidden, completion_labels(ids_BT, is_completion_BT), model.logits, with_statistics=statistics
    )


def compare(
    their_model: Any,
    their_loss: Callable[[], Tensor],
    our_loss: Callable[[], Tensor],
    *,
    seed: int = 0,
    tolerance: float = 2e-6,
) -> None:
    """Hold that losses and gradients of all parameters are the same.

    Args:
        their_model: Whose gradients trl's loss has.
        their_loss: With gradient.
        our_loss: Of the model `ours(seed)`.
        seed: Of that model.
        tolerance: Of the loss, relative above 1; of gradients five times that, relative to the largest.
    """
    their_model.zero_grad()
    expected = their_loss()
    expected.backward()
    model = ours(seed)
    model.zero_grad()
    found = our_loss()
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=tolerance, abs=tolerance)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    largest = max(p.grad.abs().max().item() for p in their_model.parameters() if p.grad is not None)
    assert largest > 0
    for name, parameter in their_model.named_parameters():
        gradient = gradients.pop(name)
        if parameter.grad is None:  # a head that is tied
            continue
        assert gradient is not None, name
        assert (gradient - parameter.grad).abs().max() <= 5 * tolerance * max(1.0, largest), name
    assert not gradients
