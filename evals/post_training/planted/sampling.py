"""Samples a stage's replies to prompts, and computes other models' log-probabilities of them.

Letters: B replies, T tokens of a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from evals.post_training.planted.language import Prompt
from evals.post_training.planted.recipes import MAX_TOKENS
from modelstack.architecture.losses import IGNORED
from modelstack.data.examples import Message
from modelstack.posttrain.base import Base, load_base
from modelstack.posttrain.stages.stage import Stage
from modelstack.preferences.log_probs import label_log_probs
from modelstack.reasoning.sampling.continuing import TorchPolicy
from modelstack.reasoning.sampling.group_sampler import GroupSampler
from modelstack.reasoning.sampling.sampled import Asked, Sampled, completion_of
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.rewards import Item
from modelstack.tokenizer.chat import ChatEncoder
from modelstack.train.evaluation import in_use

ROWS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of a model."""

    text: str
    prompt_ids: tuple[int, ...]
    sampled: Sampled

    @property
    def is_truncated(self) -> bool:
        """Whether the reply has no end token."""
        return self.sampled.is_truncated


def loaded(stage: Stage) -> Base:
    """Load a stage's model."""
    return load_base(stage.weights)


def replies(base: Base, asked: Sequence[Prompt], n_replies: int, seed: int) -> list[list[Reply]]:
    """Return replies at temperature 1 to each prompt; deterministic for the same weights, prompts and seed."""
    encoder = base.encoder
    sampler = GroupSampler(TorchPolicy(base.model), frozenset(encoder.end_ids), MAX_TOKENS)
    questions = [_asked(encoder, prompt, seed) for prompt in asked]
    return [
        [Reply(completion_of(each, encoder).text.strip(), question.prompt_ids, each) for each in group]
        for question, group in zip(questions, sampler.sample(questions, n_replies), strict=True)
    ]


@torch.no_grad()
def log_probs(base: Base, several: Sequence[Reply]) -> list[float]:
    """Return the sum of a model's log-probabilities over each reply's tokens, in nats."""
    sums: list[float] = []
    with in_use(base.model):
        for start in range(0, len(several), ROWS_AT_ONCE):
            rows = several[start : start + ROWS_AT_ONCE]
            T = max(len(row.prompt_ids) + len(row.sampled.ids) for row in rows) - 1
            ids_BT = torch.zeros((len(rows), T), dtype=torch.int64)
            labels_BT = torch.full((len(rows), T), IGNORED)
            for b, row in enumerate(rows):
                whole, first = torch.tensor((*row.prompt_ids, *row.sampled.ids)), len(row.prompt_ids)
                ids_BT[b, : len(whole) - 1] = whole[:-1]
                labels_BT[b, first - 1 : len(whole) - 1] = whole[first:]
            hidden_BTD = base.model(ids_BT, with_logits=False).hidden_BTD
            sums += label_log_probs(hidden_BTD, labels_BT, base.model.logits).log_probs_BT.sum(-1).tolist()
    return sums


def _asked(encoder: ChatEncoder, prompt: Prompt, seed: int) -> Asked:
    task = PolicyTask(Item(prompt.id, None), (Message(role="user", content=prompt.text),))
    own = int.from_bytes(hashlib.sha256(f"{seed} {prompt.id}".encode()).digest()[:7], "big")
    return Asked(task, tuple(task.prompt_ids(encoder)), own)
