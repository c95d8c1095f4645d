"""Shares of valid and right tool calls in a model's greedy replies: what a change of its weights costs in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from modelstack.errors import UserError
from modelstack.reasoning.rollouts.policy_sampler import sampler_of
from modelstack.reasoning.sampling.continuing import RowPolicy
from modelstack.reasoning.sampling.sampled import Asked, completion_of
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.calls import CallVerifier, has_valid_calls
from modelstack.reasoning.verifiers.rewards import Completion
from modelstack.tokenizer.chat import ChatEncoder

MAX_TOKENS = 256
"""Maximum number of tokens of a reply."""


@dataclass(frozen=True, slots=True)
class CallShares:
    """Shares of the replies to some tasks."""

    n_tasks: int
    valid: float
    """Free replies that follow the convention and whose calls are valid under the tools' schemas."""
    right: float
    """Free replies whose calls are the expected ones."""
    right_with_grammar: float
    """Replies under the grammar of the tools, as they are served, whose calls are the expected ones."""


def call_shares(
    policy: RowPolicy, encoder: ChatEncoder, tasks: Sequence[PolicyTask], max_tokens: int = MAX_TOKENS
) -> CallShares:
    """Answer tasks greedily, freely and under the grammar of their tools.

    Args:
        policy: Evaluates the replies.
        encoder: Encoder of the model's chat format.
        tasks: Tasks with golds of the verifier `calls`.
        max_tokens: Maximum tokens of a reply.

    Raises:
        UserError: There are no tasks, a gold cannot be met, or a prompt exceeds the model's context length.
    """
    if not tasks:
        raise UserError("there are no tasks to measure tool calls on: name a file with tasks")
    free, legal = (
        _answered(policy, encoder, tasks, max_tokens, with_grammar=with_grammar) for with_grammar in (False, True)
    )
    pairs = zip(tasks, free, strict=True)
    valid = fmean(has_valid_calls(reply.text, task.item.gold.format) for task, reply in pairs)
    return CallShares(len(tasks), valid, _right(tasks, free), _right(tasks, legal))


def _answered(
    policy: RowPolicy, encoder: ChatEncoder, tasks: Sequence[PolicyTask], max_tokens: int, *, with_grammar: bool
) -> list[Completion]:
    asked = [Asked(task, tuple(task.prompt_ids(encoder)), seed=0) for task in tasks]
    sampler = sampler_of(policy, encoder, max_tokens=max_tokens, temperature=0.0, with_grammar=with_grammar)
    return [completion_of(group[0], encoder) for group in sampler.sample(asked, 1)]


def _right(tasks: Sequence[PolicyTask], replies: Sequence[Completion]) -> float:
    verifier = CallVerifier()
    values: list[float] = []
    for task, reply in zip(tasks, replies, strict=True):
        reward = verifier.score(task.item, reply)
        if reward.value is None:
            raise UserError(f"task {task.item.id!r} cannot be judged: {reward.reason}")
        values.append(reward.value)
    return fmean(values)
