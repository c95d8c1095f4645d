"""Groups of episodes sampled from a policy: G conversations for one prompt, each in its own world.

The conversations advance together in one batch (`sampling.continuing`): while one reads a tool result, another
writes. Results of different lengths therefore need no padding, and no cache is rebuilt between turns. Tools are
called one at a time in row order, so the same weights, prompt and seed give the same calls in the same order.

Letters: G episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from modelstack.reasoning.episodes.episode import Conversation, EpisodePlan, EpisodeWorlds, reply_format
from modelstack.reasoning.sampling.continuing import RowPolicy, continue_together
from modelstack.reasoning.sampling.grammar_sampler import format_grammars
from modelstack.reasoning.sampling.sampled import Asked, Sampled, row_seed
from modelstack.reasoning.sampling.turn_writer import Draws
from modelstack.tokenizer.chat import ChatEncoder


class EpisodeSampler:
    """Sampler of episodes, one prompt at a time."""

    def __init__(
        self,
        policy: RowPolicy,
        encoder: ChatEncoder,
        worlds: EpisodeWorlds,
        plan: EpisodePlan,
        temperature: float = 1.0,
        *,
        with_grammar: bool = True,
    ) -> None:
        """Prepare the sampler without opening any world.

        Args:
            policy: Evaluates the conversations.
            encoder: Encoder of the model's chat format.
            worlds: Provider of the worlds.
            plan: Limits on an episode.
            temperature: Divisor of the logits; 0 selects greedy decoding, which makes all episodes of a prompt
                equal.
            with_grammar: Whether a grammar restricts each turn to calls of the task's tools, `[]` and answers in
                words, as in serving. Without it, a malformed turn ends its episode.
        """
        self._policy, self._encoder, self._worlds = policy, encoder, worlds
        self._plan, self._temperature = plan, temperature
        self._grammar_of = format_grammars(encoder.vocabulary, reply_format if with_grammar else lambda task: None)

    def sample(self, asked: Sequence[Asked], n_replies: int) -> list[list[Sampled]]:
        """Return the episodes of each prompt: all tokens after the prompt; the policy's own are marked.

        Raises:
            UserError: A task has no tools or no world, or prompt and episode exceed the context length.
        """
        return [self._group(each, n_replies) for each in asked]

    def _group(self, asked: Asked, n_replies: int) -> list[Sampled]:
        with ExitStack() as worlds:  # the worlds of one prompt at a time: each may be a process
            rows = [self._conversation(asked, g, worlds) for g in range(n_replies)]
            continue_together(self._policy, [asked.prompt_ids], [rows], self._plan.max_tokens)
            return [row.sampled() for row in rows]

    def _conversation(self, asked: Asked, row: int, worlds: ExitStack) -> Conversation:
        task, encoder = asked.task, self._encoder
        return Conversation(
            encoder,
            Draws(encoder.vocabulary, encoder.end_ids, self._temperature, row_seed(asked.seed, row)),
            worlds.enter_context(self._worlds.open(task)),
            reply_format(task),
            lambda: self._grammar_of(task),
            self._plan,
        )
