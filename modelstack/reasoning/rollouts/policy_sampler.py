"""Sampler of a policy: unconstrained, with grammars, or in episodes."""

from __future__ import annotations

from dataclasses import dataclass

from modelstack.reasoning.episodes.episode import EpisodePlan, EpisodeWorlds
from modelstack.reasoning.episodes.sampler import EpisodeSampler
from modelstack.reasoning.sampling.continuing import RowPolicy
from modelstack.reasoning.sampling.grammar_sampler import GrammarSampler, gold_grammars
from modelstack.reasoning.sampling.group_sampler import GroupSampler
from modelstack.reasoning.sampling.sampled import Sampler
from modelstack.tokenizer.chat import ChatEncoder


@dataclass(frozen=True, slots=True)
class Episodes:
    """Worlds of episodes, and their limits."""

    worlds: EpisodeWorlds
    plan: EpisodePlan


def sampler_of(
    policy: RowPolicy,
    encoder: ChatEncoder,
    *,
    max_tokens: int,
    temperature: float,
    with_grammar: bool = False,
    episodes: Episodes | None = None,
    one_by_one: bool = False,
) -> Sampler:
    """Return the sampler.

    Args:
        policy: Evaluates the replies.
        encoder: Encoder of the model's chat format.
        max_tokens: Maximum tokens of a reply; for episodes the plan sets the limit.
        temperature: Temperature of sampling; 0 is greedy, for measurements.
        with_grammar: Whether replies are constrained to valid forms: calls of the tools, or JSON of the schema.
        episodes: Worlds and limits of episodes, played prompt by prompt; None: a task is a single reply.
        one_by_one: Whether each prompt has a batch of its own, so that a pool gives the replies of one sampler.
    """
    if episodes is not None:
        return EpisodeSampler(
            policy, encoder, episodes.worlds, episodes.plan, temperature, with_grammar=with_grammar
        )
    if with_grammar:
        return GrammarSampler(
            policy, encoder, gold_grammars(encoder.vocabulary), max_tokens, temperature, one_by_one
        )
    return GroupSampler(policy, frozenset(encoder.end_ids), max_tokens, temperature, one_by_one)
