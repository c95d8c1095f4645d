"""Moderation of text that another model writes, while it is written.

    moderation = StreamModeration(engine, probe)
    moderation.ask("How do I ...")          # the user's message
    for part in stream:
        if moderation.read(part).level == "unsafe":
            break

A local model reads the conversation, and its monitor judges each token on the model's hidden states, as it does
for replies of its own. Interface and the three levels are those of Qwen3Guard-Stream (arXiv 2510.14276). The last
word of a stream may go on, so it is judged when the next one begins, or at `end`.

Letters: T tokens, L layers, D width of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from modelstack.align.monitor.probe import REPLY, REQUEST, Probe
from modelstack.align.monitor.watch import DEFAULT_REPLY_POINT, DEFAULT_REQUEST_POINT, Watch
from modelstack.inference.engine import Engine
from modelstack.tokenizer.chat_template import chat_encoder

Level = Literal["safe", "controversial", "unsafe"]
CONTROVERSIAL_POINT = "fpr_5"
"""Operating point from which a text is controversial."""
MAX_WORD_CHARACTERS = 48
"""Characters without a space after which a word is judged before it ends: some languages have no spaces."""


class StateEngine(Engine, Protocol):
    """An engine that shows hidden states of given tokens."""

    @property
    def state_layers(self) -> tuple[int, ...]:
        """Layers whose outputs can be read."""
        ...

    def read_states(
        self,
        ids: Sequence[int],
        n_context: int,
        *,
        conversation: str = "read",
        cancelled: Callable[[], bool] | None = None,
    ) -> NDArray[np.float32]:
        """Return the states [T, L, D] of the tokens `ids[n_context:]`."""
        ...


@dataclass(frozen=True, slots=True)
class Risk:
    """Risk of a message so far."""

    level: Level
    log_odds: float
    """Largest log-odds of `unsafe` so far; minus infinity before enough tokens are read."""
    n_tokens: int
    """Number of judged tokens of the message."""

    @property
    def probability(self) -> float:
        """Probability of `unsafe`."""
        return 1 / (1 + math.exp(-self.log_odds)) if self.log_odds > -700 else 0.0


class StreamModeration:
    """Moderation of one conversation; several may share an engine."""

    def __init__(
        self,
        engine: StateEngine,
        probe: Probe,
        *,
        request_point: str = DEFAULT_REQUEST_POINT,
        reply_point: str = DEFAULT_REPLY_POINT,
        system: str = "",
        conversation: str = "moderation",
    ) -> None:
        """Prepare; nothing is evaluated yet.

        Args:
            engine: Engine with the weights that the probe was fitted on, and its layers as `state_layers`.
            probe: Monitor of these weights.
            request_point: Operating point from which a request is unsafe.
            reply_point: Operating point from which a reply is unsafe.
            system: Instructions of the moderated model, if they are known.
            conversation: Name of the conversation in the engine's cache.

        Raises:
            UserError: The probe was fitted on other weights or layers, or has no such operating point.
        """
        probe.require_fitted_to(engine.fingerprint, engine.state_layers)
        self._engine, self._probe, self._conversation = engine, probe, conversation
        self._encoder = chat_encoder(engine)
        self._unsafe = {
            REQUEST: probe.threshold(REQUEST, request_point),
            REPLY: probe.threshold(REPLY, reply_point),
        }
        self._context: list[int] = []
        self._last_role: Literal["system", "user", "assistant"] | None = None
        if system:
            self._add("system", system)
        self._watch, self._waiting = Watch(probe), ""
        self._reply: list[int] = []

    def ask(self, text: str) -> Risk:
        """Add a message of the user, after the reply so far, and judge it.

        Raises:
            EngineError: The engine failed, or the conversation is longer than its window.
        """
        if self._reply or self._waiting:
            self.end()
            self._context += [*self._reply, *self._encoder.assistant_suffix_ids]
            self._last_role = "assistant"
        self._watch, self._reply = Watch(self._probe), []
        n_before = len(self._context)
        self._add("user", text)
        self._context += self._encoder.generation_ids("user")
        states_TLD = self._engine.read_states(
            self._context, len(self._context) - 1, conversation=self._conversation
        )
        self._watch(states_TLD[-1], ())
        assert self._watch.request_log_odds is not None  # it was just read
        return self._risk(REQUEST, self._watch.request_log_odds, len(self._context) - n_before)

    def read(self, text: str) -> Risk:
        """Add the next text of the reply, and judge it up to its last whole word.

        Raises:
            EngineError: The engine failed, or the conversation is longer than its window.
        """
        self._waiting += text
        return self._judge(_end_of_words(self._waiting))

    def end(self) -> Risk:
        """Judge the rest of the reply, which is complete.

        Raises:
            EngineError: The engine failed, or the conversation is longer than its window.
        """
        return self._judge(len(self._waiting))

    def _judge(self, n_characters: int) -> Risk:
        """Judge the next characters of the reply; they begin with the space before a word, as its token does."""
        ids = self._encoder.content_ids(self._waiting[:n_characters])
        self._waiting = self._waiting[n_characters:]
        if ids:
            known = [*self._context, *self._reply]
            states_TLD = self._engine.read_states([*known, *ids], len(known), conversation=self._conversation)
            for token, states_LD in zip(ids, states_TLD, strict=True):
                self._reply.append(token)
                self._watch(states_LD, self._reply)
        return self._risk(REPLY, self._watch.reply_log_odds, len(self._reply))

    def _risk(self, what: str, log_odds: float, n_tokens: int) -> Risk:
        level: Level = "safe"
        if log_odds >= self._unsafe[what]:
            level = "unsafe"
        elif log_odds >= self._probe.threshold(what, CONTROVERSIAL_POINT):
            level = "controversial"
        return Risk(level, log_odds, n_tokens)

    def _add(self, role: Literal["system", "user"], text: str) -> None:
        self._context += self._encoder.encode_turn(role, text, previous=self._last_role).ids
        self._last_role = role


def _end_of_words(text: str) -> int:
    """Return the length of a text without its last word, whose tokens may change with what follows."""
    start = max(0, *(text.rfind(space, 0, len(text.rstrip())) for space in " \n\t"))
    return len(text) if len(text) - start > MAX_WORD_CHARACTERS else start
