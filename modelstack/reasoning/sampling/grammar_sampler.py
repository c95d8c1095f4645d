"""Samples groups of replies under a grammar from a policy.

Serving masks every token with the grammar of the available tools. A policy trained without the mask would spend
its updates on replies that cannot occur. Here each reply has its own grammar and is written as in serving
(`turn_writer`). The legal tokens at each position are returned, so that the training pass uses the same softmax
(`losses.masked_log_probs`).

Letters: G replies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstack.errors import UserError
from modelstack.inference.grammar import Grammar
from modelstack.reasoning.sampling.continuing import RowPolicy, continue_together
from modelstack.reasoning.sampling.json_grammar import JsonCompiler
from modelstack.reasoning.sampling.sampled import Asked, Sampled, parts, row_seed
from modelstack.reasoning.sampling.turn_writer import Draws, TurnWriter, Written
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.calls import CallGold
from modelstack.reasoning.verifiers.effects import EffectGold
from modelstack.tokenizer.chat import ChatEncoder
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.convention import ResponseFormat
from modelstack.toolcalls.grammar.compiler import GrammarCompiler, text_grammar
from modelstack.toolcalls.grammar.coverage import UnsupportedSchemaError

GrammarOf = Callable[[PolicyTask], Grammar | None]
"""Makes a new grammar for a reply to a task; None as the result allows any text."""


@dataclass(frozen=True, slots=True)
class GrammarSampler:
    """Sampler of replies under grammars."""

    policy: RowPolicy
    encoder: ChatEncoder
    grammar_of: GrammarOf
    max_tokens: int
    """Maximum number of tokens in a reply. A reply that the grammar closes for this limit counts as truncated."""
    temperature: float = 1.0
    one_by_one: bool = False
    """Whether each prompt has a batch of its own; see `GroupSampler`."""

    def sample(self, asked: Sequence[Asked], n_replies: int) -> list[list[Sampled]]:
        """Return the replies to each prompt.

        A reply that its grammar does not allow to continue ends without an end token.

        Raises:
            UserError: A prompt and its reply exceed the model's context length, or a task's grammar cannot be
                enforced.
        """
        rows = [[self._row(each.task, row_seed(each.seed, g)) for g in range(n_replies)] for each in asked]
        prompts = [each.prompt_ids for each in asked]
        for part in parts(list(zip(prompts, rows, strict=True)), one_by_one=self.one_by_one):
            continue_together(self.policy, [p for p, _ in part], [r for _, r in part], self.max_tokens)
        return [[row.sampled() for row in of_prompt] for of_prompt in rows]

    def _row(self, task: PolicyTask, seed: int) -> _Row:
        draws = Draws(self.encoder.vocabulary, self.encoder.end_ids, self.temperature, seed)
        return _Row.begun(draws, self.grammar_of(task), self.max_tokens)


class TextReplies:
    """Most probable replies to conversations without tools, as serving writes them: text that no call begins.

    A model that was taught calls writes some even where no tool is given. Serving masks them, in the form of
    `toolcalls.conventions.JSON_LIST`.
    """

    def __init__(self, policy: RowPolicy, encoder: ChatEncoder, max_tokens: int) -> None:
        """Compile the mask; replies have at most `max_tokens` tokens.

        Raises:
            UserError: The vocabulary lacks single characters, so that it cannot be masked.
        """
        self._policy, self._encoder, self._max_tokens = policy, encoder, max_tokens
        self._grammar = text_grammar(encoder.vocabulary)

    def to(self, prompts: Sequence[Sequence[int]], given: Sequence[Sequence[int]] = ()) -> list[Sampled]:
        """Return the reply to each prompt, behind the tokens that are `given` as its beginning.

        Raises:
            UserError: A prompt and its reply exceed the model's context length.
        """
        given = given or [()] * len(prompts)
        rows = [self._row(beginning) for beginning in given]
        begun = [[*prompt, *beginning] for prompt, beginning in zip(prompts, given, strict=True)]
        continue_together(self._policy, begun, [[row] for row in rows], self._max_tokens)
        return [row.sampled() for row in rows]

    def _row(self, given: Sequence[int]) -> _Row:
        draws = Draws(self._encoder.vocabulary, self._encoder.end_ids, 0.0, 0)
        return _Row.begun(draws, self._grammar.start_behind(given), self._max_tokens)


@dataclass(frozen=True, slots=True)
class _Row:
    written: Written
    turn: TurnWriter

    @classmethod
    def begun(cls, draws: Draws, grammar: Grammar | None, max_tokens: int) -> _Row:
        written = Written()
        return cls(written, TurnWriter(written, draws, grammar, max_tokens))

    def sampled(self) -> Sampled:
        return self.written.sampled(is_truncated=self.turn.is_cut)

    def next_ids(self, logits_V: NDArray[np.float32]) -> Sequence[int]:
        ids = self.turn.step(logits_V)
        return () if self.turn.is_over else ids


def gold_grammars(vocabulary: Vocabulary) -> GrammarOf:
    """Return grammars chosen by the task's gold: calls of its tools, or bare JSON of its schema.

    A canary has an impossible gold and may therefore have no grammar: then any text is legal.

    Raises:
        UserError: Raised when a grammar is requested: the gold has another type, or its grammar cannot be
            enforced.
    """
    calls = format_grammars(vocabulary, lambda task: task.item.gold.format)
    values = json_grammars(vocabulary, lambda task: task.item.gold)

    def grammar_of(task: PolicyTask) -> Grammar | None:
        gold = task.item.gold
        if not isinstance(gold, CallGold | EffectGold | Mapping):
            raise UserError(
                f"task {task.item.id!r}: there is no grammar for a gold of type {type(gold).__name__}; "
                f"grammars are for the verifiers calls, effects and json"
            )
        try:
            return values(task) if isinstance(gold, Mapping) else calls(task)
        except UserError:
            if task.item.is_canary:
                return None
            raise

    return grammar_of


def format_grammars(vocabulary: Vocabulary, format_of: Callable[[PolicyTask], ResponseFormat | None]) -> GrammarOf:
    """Return grammars of calls and answers in the convention of the tools that each task shows.

    The masks are the same as in serving: schema keywords that no mask can enforce are left to the validator of
    the call.

    Args:
        vocabulary: Vocabulary of the model.
        format_of: Returns the format of a reply to a task, as in the golds of `verifiers.effects` and
            `verifiers.calls`.
    """
    compiler = GrammarCompiler(vocabulary, unsupported="check")

    def grammar_of(task: PolicyTask) -> Grammar | None:
        wanted = format_of(task)
        try:
            return None if wanted is None else compiler.compile(wanted).start()
        except UnsupportedSchemaError as error:
            raise UserError(f"task {task.item.id!r}: {error}") from error

    return grammar_of


def json_grammars(vocabulary: Vocabulary, schema_of: Callable[[PolicyTask], Mapping[str, Any]]) -> GrammarOf:
    """Return grammars of bare JSON: replies consist of one value of the task's schema only."""
    compiler = JsonCompiler(vocabulary)

    def grammar_of(task: PolicyTask) -> Grammar:
        try:
            return compiler.start(schema_of(task))
        except UnsupportedSchemaError as error:
            raise UserError(f"task {task.item.id!r}: {error}") from error

    return grammar_of
