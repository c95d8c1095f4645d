"""Groups of replies under a grammar, by the model in training: what is drawn is what is learnt from.

Serving masks every token with the grammar of the live tools, so a policy that is trained without the mask spends
its updates on replies that can never be given. Here each reply has its own grammar, is written as serving writes
(`turn_writer`), and comes back with what was legal at each token: the training pass takes the same softmax
(`losses.masked_log_probs`).

Letters: G replies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.inference.grammar import Grammar
from modelstack.reasoning.sampling.json_grammar import JsonCompiler
from modelstack.reasoning.sampling.lockstep import continue_together
from modelstack.reasoning.sampling.sampled import Asked, Sampled
from modelstack.reasoning.sampling.turn_writer import Draws, TurnWriter, Written
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.calls import CallGold
from modelstack.reasoning.verifiers.effects import EffectGold
from modelstack.tokenizer.chat import ChatEncoder
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.convention import ResponseFormat
from modelstack.toolcalls.grammar.compiler import GrammarCompiler
from modelstack.toolcalls.grammar.coverage import UnsupportedSchemaError

GrammarOf = Callable[[PolicyTask], Grammar | None]
"""Returns a fresh grammar of a reply to a task; None: any text."""


@dataclass(frozen=True, slots=True)
class GrammarSampler:
    """The model in training samples itself under grammars; one prompt at a time."""

    model: CausalLM
    encoder: ChatEncoder
    grammar_of: GrammarOf
    max_tokens: int
    """Of a reply; the grammar closes it in time, and such a reply counts as cut off."""
    temperature: float = 1.0

    def sample(self, asked: Sequence[Asked], n_replies: int) -> list[list[Sampled]]:
        """Return the replies to each prompt.

        A reply to which its grammar lets nothing be added ends without an end token.

        Raises:
            UserError: A prompt and its reply are longer than the model's context, or a task's grammar cannot be
                enforced.
        """
        return [self._group(each, n_replies) for each in asked]

    def _group(self, asked: Asked, n_replies: int) -> list[Sampled]:
        rows = [self._row(asked.task, row_seed(asked.seed, g)) for g in range(n_replies)]
        continue_together(self.model, asked.prompt_ids, rows, self.max_tokens)
        return [row.written.sampled(is_truncated=row.turn.is_cut) for row in rows]

    def _row(self, task: PolicyTask, seed: int) -> _Row:
        written = Written()
        draws = Draws(self.encoder.vocabulary, self.encoder.end_ids, self.temperature, seed)
        return _Row(written, TurnWriter(written, draws, self.grammar_of(task), self.max_tokens))


@dataclass(frozen=True, slots=True)
class _Row:
    written: Written
    turn: TurnWriter

    def next_ids(self, logits_V: NDArray[np.float32]) -> Sequence[int]:
        ids = self.turn.step(logits_V)
        return () if self.turn.is_over else ids


def row_seed(seed: int, row: int) -> int:
    """Return the seed of one row of a group, so that rows draw independently of each other."""
    return int.from_bytes(hashlib.sha256(f"{seed} {row}".encode()).digest()[:7], "big")


def gold_grammars(vocabulary: Vocabulary) -> GrammarOf:
    """Return grammars by what tasks are judged by: calls of the tools of a gold, bare JSON of a schema.

    A canary, which no reply can do, may have no grammar: then any text is legal.

    Raises:
        UserError: Where a grammar is asked for: the task is of neither kind, or its grammar cannot be enforced.
    """
    calls = format_grammars(vocabulary, lambda task: task.item.gold.format)
    values = json_grammars(vocabulary, lambda task: task.item.gold)

    def grammar_of(task: PolicyTask) -> Grammar | None:
        gold = task.item.gold
        if not isinstance(gold, CallGold | EffectGold | Mapping):
            raise UserError(
                f"task {task.item.id!r}: no grammar holds a reply that is judged by {type(gold).__name__}; "
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
    """Return grammars of calls and answers: replies in the convention of the tools that each task offers.

    The masks are serving's: keywords of a schema that none can hold are left to whoever validates the call.

    Args:
        vocabulary: Of the model.
        format_of: What a reply to a task may be, as golds of `verifiers.effects` and `verifiers.calls` have it.
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
    """Return grammars of bare JSON: replies that are one value of a task's schema and nothing else."""
    compiler = JsonCompiler(vocabulary)

    def grammar_of(task: PolicyTask) -> Grammar:
        try:
            return compiler.start(schema_of(task))
        except UnsupportedSchemaError as error:
            raise UserError(f"task {task.item.id!r}: {error}") from error

    return grammar_of
