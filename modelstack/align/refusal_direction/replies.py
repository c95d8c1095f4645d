"""Replies of a model at several strengths of its direction of refusal: how many requests it refuses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from modelstack.align.guards.refusal_judge import judge_refusal
from modelstack.align.refusal_direction.direction import RefusalDirection
from modelstack.align.refusal_direction.find import ablated, added, prompt_ids
from modelstack.architecture.decoder import CausalLM
from modelstack.reasoning.sampling.continuing import TorchPolicy
from modelstack.reasoning.sampling.grammar_sampler import TextReplies
from modelstack.reasoning.sampling.group_sampler import sample_groups
from modelstack.reasoning.sampling.sampled import Sampled, completion_of
from modelstack.tokenizer.chat import ChatEncoder

STRENGTHS = (-1.0, -0.5, 0.5, 1.0)
ABLATED = "projected out"
MAX_TOKENS, AT_ONCE = 48, 32


@dataclass(frozen=True, slots=True)
class Refused:
    """Refusals of a model in one state, in full or in part."""

    state: str
    n_harmful: int
    """Refused harmful requests."""
    n_harmless: int
    """Refused harmless requests."""


def refused_by_strength(
    model: CausalLM,
    encoder: ChatEncoder,
    direction: RefusalDirection,
    harmful: Sequence[str],
    harmless: Sequence[str],
    told: Callable[[int, int], object] = lambda done, total: None,
) -> list[Refused]:
    """Return the refusals of the plain model, with the direction projected out, and at each of `STRENGTHS`."""
    unit_D = torch.from_numpy(direction.unit_D)

    def moved(strength: float) -> AbstractContextManager[None]:
        return added(model, direction.layer, strength * direction.size * unit_D)

    states: list[tuple[str, Callable[[], AbstractContextManager[None]]]] = [
        ("as it is", nullcontext),
        (ABLATED, lambda: ablated(model, unit_D)),
        *((f"strength {strength:+g}", lambda strength=strength: moved(strength)) for strength in STRENGTHS),
    ]
    found: list[Refused] = []
    for name, state in states:
        with state():
            counts = [n_refused(model, encoder, texts) for texts in (harmful, harmless)]
        found.append(Refused(name, *counts))
        told(len(found), len(states))
    return found


def n_refused(model: CausalLM, encoder: ChatEncoder, texts: Sequence[str]) -> int:
    """Return the number of requests that a model refuses, in full or in part."""
    n, replies = 0, TextReplies(TorchPolicy(model), encoder, MAX_TOKENS)
    for start in range(0, len(texts), AT_ONCE):
        several = texts[start : start + AT_ONCE]
        for text, reply in zip(several, replies.to([prompt_ids(encoder, text) for text in several]), strict=True):
            n += judge_refusal(text, completion_of(reply, encoder).text).kind != "compliance"
    return n


def greedy_replies(
    model: CausalLM, end_ids: Collection[int], prompts: Sequence[Sequence[int]], max_tokens: int
) -> list[Sampled]:
    """Return the most probable reply to each prompt, in one batch; `end_ids` end a reply.

    Raises:
        UserError: A prompt and its reply exceed the model's context length.
    """
    groups = sample_groups(
        TorchPolicy(model),
        prompts,
        1,
        max_tokens=max_tokens,
        temperature=0,
        end_ids=frozenset(end_ids),
        seeds=[0] * len(prompts),
    )
    return [reply for (reply,) in groups]
