"""Episode of a policy with tools: the policy writes a turn, its tool calls are executed, and it reads the results.

The policy reads exactly the tokens that it would read in serving. The chat format closes each turn, every tool
result is a tool turn with the tool's name, and then the next reply is opened. Template and content are encoded
separately, so control tokens spelled in a result stay plain text (`tokenizer.chat`). Tokens written by tools and
templates are part of the episode, but excluded from the loss (`is_chosen`).

Difference from serving: results are truncated to `result_tokens`, since training processes a whole episode at
once.

This module does not import torch.

Letters: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from modelstack.errors import UserError
from modelstack.inference.grammar import Grammar
from modelstack.reasoning.sampling.sampled import Sampled
from modelstack.reasoning.sampling.turn_writer import Draws, TurnWriter, Written
from modelstack.reasoning.tasks.golds import response_format
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.deeds import Ending, EnvironmentTools, EpisodeTools, Performed, Witness
from modelstack.reasoning.verifiers.effects import EffectGold
from modelstack.tokenizer.chat import ChatEncoder, Role
from modelstack.toolcalls.convention import ParsedResponse, ResponseFormat, ResponseParseError, parse_response

CUT = "\n[cut]"
"""Marker at the end of a truncated tool result."""


class EpisodePlan(BaseModel, frozen=True, extra="forbid"):
    """Limits on the length of an episode."""

    max_turns: int = Field(default=4, ge=1)
    """Maximum number of turns that the policy writes. Calls of the last turn are executed, and the episode
    ends.
    """
    turn_tokens: int = Field(default=128, ge=1)
    """Maximum number of tokens in one turn; a grammar closes the turn before this limit."""
    result_tokens: int = Field(default=256, ge=16)
    """Maximum number of tokens of one tool result; the rest is cut off."""
    max_tokens: int = Field(default=1024, ge=1)
    """Maximum number of tokens after the prompt, tool results included."""


class EpisodeWorlds(Protocol):
    """Provider of the worlds in which episodes take place."""

    def prepared(self, task: PolicyTask) -> PolicyTask:
        """Return a task prepared for this provider: with its tools, and the gold for its outcome.

        Raises:
            UserError: The task cannot take place here.
        """
        ...

    def open(self, task: PolicyTask) -> AbstractContextManager[EpisodeTools]:
        """Open a new world for one task, in its start state; leaving the context closes it.

        Raises:
            UserError: There is no world for this task.
        """
        ...


class EffectWorlds:
    """Small in-process worlds, for tasks whose gold is an `EffectGold`."""

    def prepared(self, task: PolicyTask) -> PolicyTask:
        """Return the task unchanged, after checking that it shows tools and has a world."""
        reply_format(task)
        _gold_of(task)
        return task

    def open(self, task: PolicyTask) -> AbstractContextManager[EpisodeTools]:
        """Return a new world built from the task's gold."""
        return nullcontext(EnvironmentTools(_gold_of(task).make()))


def reply_format(task: PolicyTask) -> ResponseFormat:
    """Return the format of a turn: calls of the task's tools, `[]`, or an answer in words.

    Raises:
        UserError: The task has no tools.
    """
    if not task.tools:
        raise UserError(f"task {task.item.id!r} has no tools: an episode needs at least one; add some")
    return response_format([tool.spec() for tool in task.tools])


def _gold_of(task: PolicyTask) -> EffectGold:
    gold = task.item.gold
    if not isinstance(gold, EffectGold):
        raise UserError(
            f"task {task.item.id!r} has no world: its gold is {type(gold).__name__}; only an EffectGold has one"
        )
    return gold


class Conversation:
    """State of one episode, advanced token by token; implements `continuing.Continuation`."""

    def __init__(
        self,
        encoder: ChatEncoder,
        draws: Draws,
        tools: EpisodeTools,
        reply_format: ResponseFormat,
        new_grammar: Callable[[], Grammar | None],
        plan: EpisodePlan,
    ) -> None:
        """Start directly after the prompt, before the policy's first turn.

        Args:
            encoder: Encoder of the model's chat format.
            draws: How the policy's tokens are drawn.
            tools: Tools of this episode only.
            reply_format: Format of a turn.
            new_grammar: Makes the grammar that constrains one turn. If it returns None, turns are unconstrained,
                and a turn that is neither a call nor an answer ends the episode.
            plan: Limits on the episode.
        """
        self._encoder, self._draws, self._plan = encoder, draws, plan
        self._format, self._new_grammar = reply_format, new_grammar
        self._witness = Witness(tools)
        self._written = Written()
        self.turn = self._new_turn()
        """Writer of the current turn."""
        self.n_turns = 1
        """Number of turns that the policy has begun, the current one included."""
        self._reply = ""
        self._ended: Ending | None = None
        self._is_cut = False

    def next_ids(self, logits_V: NDArray[np.float32]) -> Sequence[int]:
        """Advance by one step. If the turn ends in tool calls, execute them and append their results."""
        new = self.turn.step(logits_V)
        if not self.turn.is_over:
            return new
        self._is_cut |= self.turn.is_cut
        self._reply = self._encoder.vocabulary.decode(self.turn.content_ids)
        parsed = self._parsed()
        if parsed is None or not parsed.calls:
            self._end(parsed)
            return ()
        results = [self._witness.perform(name, arguments) for name, arguments in parsed.calls]
        if self.n_turns == self._plan.max_turns:
            self._ended = "turns"
            return ()
        n_before = len(self._written.ids) - len(new)
        if not self._read(results):
            self._ended, self._is_cut = "tokens", True
            return ()
        self.n_turns += 1
        self.turn = self._new_turn()
        return self._written.ids[n_before:]

    def sampled(self) -> Sampled:
        """Return the finished episode in the form that training reads."""
        assert self._ended is not None
        episode = self._witness.episode(self._reply, self._ended, self.n_turns)
        is_truncated = self._is_cut or self._ended == "turns"
        return self._written.sampled(is_truncated=is_truncated, outcome=episode)

    def _new_turn(self) -> TurnWriter:
        n_left = self._plan.max_tokens - len(self._written.ids)
        return TurnWriter(self._written, self._draws, self._new_grammar(), min(self._plan.turn_tokens, n_left))

    def _parsed(self) -> ParsedResponse | None:
        try:
            return parse_response(self._reply, self._format)
        except ResponseParseError:
            return None

    def _end(self, parsed: ParsedResponse | None) -> None:
        if parsed is None:
            self._ended = "tokens" if self.turn.is_cut else "malformed"
        else:
            self._ended = "abstained" if parsed.abstained else "answered"

    def _read(self, results: Sequence[Performed]) -> bool:
        """Close the turn, append the results and open the next turn; False if the token limit leaves no room."""
        ids = self._closing_ids()
        last: Role = "assistant"
        for result in results:
            ids += self._encoder.encode_turn("tool", self._cut(result.shown), previous=last).ids
            last = "tool"
        ids += self._encoder.generation_ids(last)
        if len(self._written.ids) + len(ids) >= self._plan.max_tokens:
            return False
        self._written.give(ids)
        return True

    def _closing_ids(self) -> list[int]:
        """Return the tokens that close the turn after the policy's own tokens.

        Serving drops the token that ended a reply and writes the closing tokens of the chat format. Usually
        these begin with the same token, which then counts as chosen by the policy. A different end token is
        removed and excluded from the loss.
        """
        suffix, ended_by = self._encoder.assistant_suffix_ids, self.turn.ended_by
        if ended_by is None:
            return suffix
        if suffix[:1] != [ended_by]:
            self._written.drop_last()
            return suffix
        return suffix[1:]

    def _cut(self, text: str) -> str:
        ids = self._encoder.content_ids(text)
        if len(ids) <= self._plan.result_tokens:
            return text
        kept = self._encoder.vocabulary.decode(ids[: self._plan.result_tokens])
        return kept.rstrip("\ufffd") + CUT
