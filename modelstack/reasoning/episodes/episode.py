"""Conversations with tools, as a policy lives through them: it writes a turn, its calls run, it reads the results.

What the policy reads is what serving would have it read, token for token: a turn is closed by the chat format,
each result stands in a tool turn with the tool's name, and then the reply is opened. Template and content are
encoded apart, so a result that spells control tokens is text (`tokenizer.chat`). What tools and templates wrote is
in the episode and is not learnt (`is_chosen`).

One thing is not as in serving: a result is cut to `result_tokens`, as all of an episode is trained on at once.

This file needs no torch.

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
"""Ends a result that was longer than a policy may read."""


class EpisodePlan(BaseModel, frozen=True, extra="forbid"):
    """How long an episode may be."""

    max_turns: int = Field(default=4, ge=1)
    """Of the policy. The calls of the last one are performed, and end the episode."""
    turn_tokens: int = Field(default=128, ge=1)
    """Of one of them; a grammar closes it in time."""
    result_tokens: int = Field(default=256, ge=16)
    """Of one result, which is cut behind."""
    max_tokens: int = Field(default=1024, ge=1)
    """Of all that follows the prompt, results included."""


class EpisodeWorlds(Protocol):
    """Where episodes take place."""

    def prepared(self, task: PolicyTask) -> PolicyTask:
        """Return a task as it is asked here, with its tools, and with its gold as outcomes are judged by.

        Raises:
            UserError: It cannot take place here.
        """
        ...

    def open(self, task: PolicyTask) -> AbstractContextManager[EpisodeTools]:
        """Return a world of a task's own, as it is at the start; left, it is gone.

        Raises:
            UserError: There is none for this task.
        """
        ...


class EffectWorlds:
    """Small worlds in this process, those of golds by their effects."""

    def prepared(self, task: PolicyTask) -> PolicyTask:
        """Return the task as it is; it shows its tools and has a world."""
        reply_format(task)
        _gold_of(task)
        return task

    def open(self, task: PolicyTask) -> AbstractContextManager[EpisodeTools]:
        """Return a fresh world of the task's gold."""
        return nullcontext(EnvironmentTools(_gold_of(task).make()))


def reply_format(task: PolicyTask) -> ResponseFormat:
    """Return what a turn of a task may be: calls of its tools, `[]`, an answer in words.

    Raises:
        UserError: It shows no tools.
    """
    if not task.tools:
        raise UserError(f"task {task.item.id!r} shows no tools: an episode is a conversation with some")
    return response_format([tool.spec() for tool in task.tools])


def _gold_of(task: PolicyTask) -> EffectGold:
    gold = task.item.gold
    if not isinstance(gold, EffectGold):
        raise UserError(
            f"task {task.item.id!r} has no world of its own: its gold is {type(gold).__name__}, not of effects"
        )
    return gold


class Conversation:
    """One episode, token by token; a `lockstep.Continuation`."""

    def __init__(
        self,
        encoder: ChatEncoder,
        draws: Draws,
        tools: EpisodeTools,
        reply_format: ResponseFormat,
        new_grammar: Callable[[], Grammar | None],
        plan: EpisodePlan,
    ) -> None:
        """Stand behind a prompt, before the policy's first turn.

        Args:
            encoder: Of the model's chat format.
            draws: How the policy's tokens are drawn.
            tools: Of this episode alone.
            reply_format: What a turn may be.
            new_grammar: Gives what holds one turn to that; None: nothing does, and a turn that is neither call nor
                answer ends the episode.
            plan: Its limits.
        """
        self._encoder, self._draws, self._plan = encoder, draws, plan
        self._format, self._new_grammar = reply_format, new_grammar
        self._witness = Witness(tools)
        self._written = Written()
        self.turn = self._new_turn()
        """What is being written."""
        self.n_turns = 1
        """Of the policy, the present one included."""
        self._reply = ""
        self._ended: Ending | None = None
        self._is_cut = False

    def next_ids(self, logits_V: NDArray[np.float32]) -> Sequence[int]:
        """Write on; where a turn ends in calls, perform them and read what they gave."""
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
        """Return the episode as training takes it; it must have ended."""
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
        """Close the turn, append the results and open the next one; False where that leaves no room for it."""
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
        """Return what closes the turn behind what the policy wrote of it.

        Serving drops the token that ended a reply and writes what the chat format closes turns with. Mostly that
        begins with the same token, which then counts as the policy's; another one is taken back, and not learnt.
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
