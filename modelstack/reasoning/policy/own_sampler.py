"""The model in training as its own sampler: free, under grammars, or in episodes, as a recipe says."""

from __future__ import annotations

from dataclasses import dataclass

from modelstack.architecture.decoder import CausalLM
from modelstack.reasoning.episodes.episode import EpisodePlan, EpisodeWorlds
from modelstack.reasoning.episodes.sampler import EpisodeSampler
from modelstack.reasoning.sampling.grammar_sampler import GrammarSampler, gold_grammars
from modelstack.reasoning.sampling.group_sampler import TorchSampler
from modelstack.reasoning.sampling.sampled import Sampler
from modelstack.tokenizer.chat import ChatEncoder


@dataclass(frozen=True, slots=True)
class Episodes:
    """Where episodes take place, and how long they may be."""

    worlds: EpisodeWorlds
    plan: EpisodePlan


def own_sampler(
    model: CausalLM,
    encoder: ChatEncoder,
    *,
    max_tokens: int,
    temperature: float,
    with_grammar: bool = False,
    episodes: Episodes | None = None,
) -> Sampler:
    """Return the sampler.

    Args:
        model: That is trained.
        encoder: Of its chat format.
        max_tokens: Of a reply; of an episode its plan says that.
        temperature: 0 for answers to be measured.
        with_grammar: Whether replies are held to what can be right by their form: calls of the tools, JSON of the
            schema.
        episodes: None: a task is one reply.
    """
    if episodes is not None:
        return EpisodeSampler(
            model, encoder, episodes.worlds, episodes.plan, temperature, with_grammar=with_grammar
        )
    if with_grammar:
        return GrammarSampler(model, encoder, gold_grammars(encoder.vocabulary), max_tokens, temperature)
    return TorchSampler(model, frozenset(encoder.end_ids), max_tokens, temperature)
