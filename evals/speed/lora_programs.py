"""A training step of a LoRA adapter in each program, on the same rows with the same labels and optimizer.

Rank 16, alpha 32, no dropout, on all linear layers of the blocks; a bf16 base with fp32 adapters; gradient
clipping to norm 1 and torch's fused AdamW. Rows resemble post-training examples: a prompt without labels, a short
labelled target, padding to the longest row of the batch. modelstack calls `train_step` as `modelstack sft` does.
transformers and peft run as in their Trainer with `bf16=True`: under autocast, with logits at all positions. A
third program is the same with logits at labelled positions only, which a user has to write.

Letters: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

RANK, ALPHA = 16, 32
LEARNING_RATE, BETAS, WEIGHT_DECAY, MAX_NORM = 5e-4, (0.9, 0.95), 0.0, 1.0
N_BATCHES = 4
"""Number of different batches, used in rotation."""
IGNORED = -100
PADDING = 0

Step = Callable[["Rows"], float]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of the examples in tokens."""

    rows: int = 4
    shortest: int = 208
    longest: int = 256
    labelled: int = 32
    """Number of labelled tokens at the end of each example."""


@dataclass(frozen=True, slots=True)
class Task:
    """A program's task in the benchmark."""

    program: str
    lengths: Lengths
    gguf: Path | None
    """GGUF file of the base; None uses a tiny model that only tests that everything works."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch."""

    ids_BT: Tensor
    is_token_BT: Tensor
    """False at padding."""
    labels_BT: Tensor
    """Each labelled token's own id, as in transformers; `IGNORED` elsewhere."""


def batches(lengths: Lengths, vocabulary: int, seed: int = 0) -> list[Rows]:
    """Return batches whose targets repeat the beginning of the prompt, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(N_BATCHES):
        size = (lengths.rows, lengths.longest)
        ids = torch.randint(1, vocabulary, size, generator=generator)
        ends = torch.randint(lengths.shortest, lengths.longest + 1, (lengths.rows,), generator=generator)
        ends[0] = lengths.longest
        labels = torch.full_like(ids, IGNORED)
        for row, end in enumerate(ends.tolist()):
            target = slice(end - lengths.labelled, end)
            ids[row, target] = ids[row, : lengths.labelled]
            ids[row, end:] = PADDING
            labels[row, target] = ids[row, target]
        is_token = torch.arange(lengths.longest) < ends[:, None]
        found.append(Rows(ids, is_token, labels))
    return found


def n_tokens(lengths: Lengths) -> float:
    """Return the tokens of a step without padding, averaged over the batches."""
    return sum(int(rows.is_token_BT.sum()) for rows in batches(lengths, vocabulary=2)) / N_BATCHES


def ready(task: Task) -> tuple[int, Callable[[], float]]:
    """Return a program's number of trained parameters, and a function that makes one step and returns its loss."""
    torch.manual_seed(0)
    config, state_dict = _base(task)
    n_parameters, step = PROGRAMS[task.program](config, state_dict)
    turns = cycle(batches(task.lengths, config.vocab_size))
    return n_parameters, lambda: step(next(turns))


def modelstack(config: Any, state_dict: dict[str, Tensor]) -> tuple[int, Step]:
    """Return modelstack's number of trained parameters and its step."""
    from modelstack.architecture.decoder import CausalLM
    from modelstack.data.batches import Batch
    from modelstack.posttrain.lora.adapters import add_lora, lora_optimizer
    from modelstack.posttrain.lora.config import LoraConfig
    from modelstack.train.optimizers.config import OptimizerConfig
    from modelstack.train.process import set_up_process
    from modelstack.train.step import local_state, train_step

    set_up_process(threads=None)
    model = CausalLM(config)
    model.load_state_dict(state_dict)
    model.to(torch.bfloat16).train()
    lora = LoraConfig(rank=RANK, alpha=ALPHA)
    add_lora(model, lora)
    wanted = OptimizerConfig(name="adamw", lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY)
    state = local_state(model, lora_optimizer(model, lora, wanted))

    def step(rows: Rows) -> float:
        labels = torch.full_like(rows.labels_BT, IGNORED)
        labels[:, :-1] = rows.labels_BT[:, 1:]
        documents = torch.arange(len(labels))[:, None].expand_as(labels)
        ids, labels, documents = (x[rows.is_token_BT][None] for x in (rows.ids_BT, labels, documents))
        batch = Batch(ids, labels, documents, position=0)
        return train_step(state, [batch], max_norm=MAX_NORM).losses["total"]

    return _n_trained(model), step


def peft(config: Any, state_dict: dict[str, Tensor]) -> tuple[int, Step]:
    """Return the step of transformers' Trainer on peft's model, with the model's own loss over all positions."""
    model = _peft_model(config, state_dict)

    def loss_of(rows: Rows) -> Tensor:
        found = model(
            input_ids=rows.ids_BT, attention_mask=rows.is_token_BT.long(), labels=rows.labels_BT, use_cache=False
        )
        return found.loss

    return _n_trained(model), _trainer_step(model, loss_of)


def peft_at_labels(config: Any, state_dict: dict[str, Tensor]) -> tuple[int, Step]:
    """Return the same step with logits at labelled positions only."""
    model = _peft_model(config, state_dict)
    inner: Any = model.get_base_model()  # pyright: ignore

    def loss_of(rows: Rows) -> Tensor:
        mask = rows.is_token_BT.long()
        hidden = inner.model(input_ids=rows.ids_BT, attention_mask=mask, use_cache=False).last_hidden_state
        labels = rows.labels_BT[:, 1:]
        places = labels != IGNORED
        return nn.functional.cross_entropy(inner.lm_head(hidden[:, :-1][places]).float(), labels[places])

    return _n_trained(model), _trainer_step(model, loss_of)


def _peft_model(config: Any, state_dict: dict[str, Tensor]) -> nn.Module:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from modelstack.architecture.presets.registry import to_hf

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**to_hf(config)), dtype=torch.float32)
    model.load_state_dict(state_dict)
    model.tie_weights()
    wanted = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model.to(torch.bfloat16), wanted).train()  # pyright: ignore


def _trainer_step(model: nn.Module, loss_of: Callable[[Rows], Tensor]) -> Step:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)

    def step(rows: Rows) -> float:
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(rows)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, MAX_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def _base(task: Task) -> tuple[Any, dict[str, Tensor]]:
    """Return configuration and weights (fp32) of the base."""
    from modelstack.architecture.decoder import CausalLM
    from modelstack.architecture.gguf.load import load_gguf
    from modelstack.architecture.initialise import initialise
    from modelstack.architecture.presets.registry import published

    if task.gguf is not None:
        loaded = load_gguf(task.gguf)
        return loaded.config, loaded.state_dict
    sizes = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    config = published("smollm2-135m", **sizes, **heads)
    return config, initialise(CausalLM(config)).state_dict()


def _n_trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


OURS, PEER, PEER_AT_LABELS = "modelstack", "transformers + peft", "transformers + peft, labels only"
PROGRAMS: dict[str, Callable[[Any, dict[str, Tensor]], tuple[int, Step]]] = {
    OURS: modelstack,
    PEER: peft,
    PEER_AT_LABELS: peft_at_labels,
}
