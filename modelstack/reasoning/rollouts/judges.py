"""Judges of sampled replies: a reward model, or a verifier.

Letters: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.posttrain.stages.stage import Stage
from modelstack.preferences.reward.loader import scored_rows
from modelstack.preferences.reward.passes import rewards_of
from modelstack.preferences.reward.value_model import ValueModel, head_file, load_value_model
from modelstack.reasoning.sampling.sampled import Asked, Sampled, completion_of
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.reasoning.verifiers.rewards import Reward
from modelstack.tokenizer.chat import ChatEncoder
from modelstack.tokenizer.text_tokenizer import TextTokenizer
from modelstack.tokenizer.tokenizer_folder import load_tokenizer

ROWS_AT_ONCE = 32


class Judge(Protocol):
    """Judge of sampled replies."""

    def rewards(self, replies: Sequence[tuple[Asked, Sampled]]) -> list[Reward]:
        """Return the rewards of prompts with replies, in order."""
        ...


@dataclass(frozen=True, slots=True)
class ModelJudge:
    """Judge by a frozen reward model, which reads the sampled tokens directly."""

    model: ValueModel

    @torch.no_grad()
    def rewards(self, replies: Sequence[tuple[Asked, Sampled]]) -> list[Reward]:
        """Return the model's rewards, in order."""
        values: list[float] = []
        for start in range(0, len(replies), ROWS_AT_ONCE):
            rows = [(*asked.prompt_ids, *sampled.ids) for asked, sampled in replies[start : start + ROWS_AT_ONCE]]
            values += rewards_of(self.model, scored_rows(rows)).tolist()
        return [Reward(value) for value in values]


@dataclass(frozen=True, slots=True)
class VerifierJudge:
    """Judge by a verifier with its canaries."""

    reward: GuardedReward
    encoder: ChatEncoder

    def rewards(self, replies: Sequence[tuple[Asked, Sampled]]) -> list[Reward]:
        """Return the verifier's rewards, in order; the value is None if a reply cannot be judged."""
        return self.reward.score_batch(
            [(asked.task.item, completion_of(sampled, self.encoder)) for asked, sampled in replies]
        )


def model_judge(stage: Stage, policy: CausalLM, tokenizer: TextTokenizer) -> ModelJudge:
    """Return the judge for a reward model's stage, on the policy's device and in its number type.

    Raises:
        UserError: The stage has no head, or another vocabulary than the policy.
    """
    head_file(stage.weights)
    theirs, ours = load_tokenizer(stage.weights).vocabulary, tokenizer.vocabulary
    if (theirs.token_bytes, theirs.special_ids) != (ours.token_bytes, ours.special_ids):
        raise UserError(
            f"reward model {stage.path} has another vocabulary than the policy ({len(theirs.token_bytes)} and "
            f"{len(ours.token_bytes)} tokens): train a reward model from the policy's own base"
        )
    weight = policy.lm_head.weight
    model = load_value_model(stage.weights, dtype=weight.dtype).to(weight.device)
    return ModelJudge(model.requires_grad_(False).eval())
