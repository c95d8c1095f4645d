"""The grammar that a decode loop drives: an engine's masks, with the knowledge of the convention.

An `EngineState` decides which tokens are legal. This module adds, for every engine: end tokens exactly where the
reply may end, the position in the reply (`choosing`), and the way to finish in time (`closing`,
`closing_reserve`).

Finishing works by plan: the recogniser writes a shortest completion from its position, the engine checks it, and
`closing` returns its tokens in turn. If the engine refuses the plan, because of keywords that the recogniser only
approximates, closing quotes, braces and brackets are preferred among the legal tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from modelstack.inference.grammar import GrammarError, TokenMask
from modelstack.toolcalls.grammar.frames import Frame, Number
from modelstack.toolcalls.grammar.recogniser import choosing, may_call, names_or_closes, step_text
from modelstack.toolcalls.grammar.replies import Prose
from modelstack.toolcalls.grammar.shapes import UNREACHABLE, Calls, LargestSteps, Literals, Response, Text
from modelstack.toolcalls.grammar.tokens import TokenTable, is_set, legal_ids, split_utf8
from modelstack.toolcalls.grammar.values import Value

LOST_RESERVE = 48
"""Number of tokens reserved when the recogniser has lost its position and no exact price is known."""
_MARGIN = 4
"""Number of tokens added to every reserve, for an incomplete character and for texts that encode worse together.
"""


class EngineState(Protocol):
    """The state of an engine in one generation; it never receives end tokens."""

    def fill(self, mask: TokenMask) -> None:
        """Write the legal tokens; the bits of end tokens are undefined."""
        ...

    def accepting(self) -> bool:
        """Return whether the reply may end here."""
        ...

    def stopped(self) -> bool:
        """Return whether nothing may follow."""
        ...

    def forced(self) -> list[int]:
        """Return the tokens that must come next."""
        ...

    def advance(self, token_id: int) -> None:
        """Take a token.

        Raises:
            GrammarError: the token is not legal here; the state is unchanged.
        """
        ...

    def rollback(self, n_tokens: int) -> None:
        """Undo the last `n_tokens` tokens."""
        ...

    def n_legal(self, ids: Sequence[int]) -> int:
        """Return the number of leading tokens that could be taken one after the other."""
        ...

    def permits(self, ids: list[int]) -> bool:
        """Return whether the sequence `ids` is legal and completes the reply."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a reply.

    The recogniser's frames (None: complete), and the bytes of an incomplete character.
    """

    frames: tuple[Frame | None, ...]
    pending: bytes = b""


class TrackedGrammar:
    """Implements `modelstack.inference.grammar.Grammar` over any engine."""

    def __init__(self, engine: EngineState, tokens: TokenTable, response: Response, steps: LargestSteps) -> None:
        """Initialise before the first token."""
        self._engine = engine
        self._tokens = tokens
        self._steps = steps
        self._response = response
        self._places = [Place((Value(response, None),))]
        self._ended = 0
        self._mask: TokenMask = np.zeros(tokens.n_words, dtype=np.uint32)
        self._closing: TokenMask = np.zeros(tokens.n_words, dtype=np.uint32)
        self._plan: tuple[int, list[int]] | None = None
        """Length of the reply for which the plan was made, and the plan's tokens."""

    @property
    def finished(self) -> bool:
        """Whether only an end token may follow."""
        return bool(self._ended) or self._engine.stopped()

    @property
    def accepting(self) -> bool:
        """Whether an end token is legal."""
        return bool(self._ended) or self._engine.accepting()

    @property
    def choosing(self) -> bool:
        """Whether the next token takes part in choosing a tool or an alternative to a call."""
        return not self._ended and any(choosing(frame) for frame in self._places[-1].frames)

    @property
    def decision(self) -> TokenMask | None:
        """Tokens that begin a call, where the reply may be a call or an answer; None elsewhere."""
        frames = self._places[-1].frames
        if self._ended:
            return None
        if (calls := may_call(frames)) is not None:
            return self._beginning(calls)
        named = names_or_closes(frames)
        return None if named is None else self._tokens.beginning(named.options[0][0][0])

    @property
    def stand_in(self) -> tuple[TokenMask, int] | None:
        """Illegal tokens that mean a call, and the legal token that begins one; None after the start of a reply.

        Many models begin a call with a fence or a brace in any convention. The probability of those tokens is the
        probability of a call.
        """
        calls = may_call(self._places[-1].frames) if len(self._places) == 1 and not self._ended else None
        text = next((o for o in self._response.options if isinstance(o, Text)), None)
        if calls is None or text is None or not text.not_begun:
            return None
        meant = self._tokens.starting(("{", "[", *text.not_begun)) & ~self.mask()
        return meant, self._tokens.encode(calls.opening + calls.item.options[0][0])[0]

    def _beginning(self, calls: Calls) -> TokenMask:
        """Return the tokens that begin calls."""
        abstention = next((o.texts[0] for o in self._response.options if isinstance(o, Literals)), None)
        return self._tokens.beginning(calls.opening, abstention)

    @property
    def lost(self) -> bool:
        """Whether the recogniser could not follow the engine; closing then works by preference only."""
        return not self._places[-1].frames

    @property
    def closing_reserve(self) -> int:
        """Upper bound on the tokens of a completion after any next token; 0 inside text."""
        if self.finished or self._may_be_text:
            return 0
        place = self._places[-1]
        if any(isinstance(frame, Prose) for frame in place.frames):
            return _n_missing(place.pending)
        step = self._steps.naming if self.choosing else self._steps.inside
        return self._price(place) + step + _MARGIN

    @property
    def _may_be_text(self) -> bool:
        """Whether nothing is written yet and a text answer is legal."""
        frame = self._places[-1].frames[0] if len(self._places) == 1 else None
        shape = frame.shape if isinstance(frame, Value) else None
        return isinstance(shape, Response) and any(isinstance(option, Text) for option in shape.options)

    def mask(self) -> TokenMask:
        """Return the legal tokens; valid until the next call."""
        if self.finished:
            self._mask[:] = self._tokens.end_mask
            return self._mask
        self._engine.fill(self._mask)
        if self._engine.accepting():
            self._mask |= self._tokens.end_mask
        else:
            self._mask &= ~self._tokens.end_mask
        if self._may_overflow:
            self._drop_overflows()
        return self._mask

    def closing(self) -> TokenMask:
        """Return the legal tokens of a shortest completion; valid until the next call."""
        legal = self.mask()
        if self.accepting:
            self._closing[:] = self._tokens.end_mask
            return self._closing
        if self._may_be_text:  # text can end in time, a call cannot
            calls = may_call(self._places[-1].frames)
            begins = self._tokens.beginning("[") if calls is None else self._beginning(calls)
            np.bitwise_and(legal, ~begins, out=self._closing)
            return self._closing if self._closing.any() else legal
        plan = self._current_plan()
        if plan and is_set(legal, plan[0]):
            self._closing[:] = 0
            self._closing[plan[0] >> 5] = np.uint32(1 << (plan[0] & 31))
            return self._closing
        if self._engine.forced():
            return legal
        return self._preferred(legal)

    def forced(self) -> list[int]:
        """Return the tokens that must come next; empty if there is a choice."""
        return [] if self.finished else self._engine.forced()

    def n_legal(self, ids: Sequence[int]) -> int:
        """Return the number of leading tokens that could be taken one after the other; end tokens never."""
        if self.finished:
            return 0
        withheld, marks = self._tokens.withheld, self._tokens.marks.characters
        known = itertools.takewhile(lambda token: token in marks or token not in withheld, ids)
        return self._engine.n_legal(list(known))

    def advance(self, token_id: int) -> None:
        """Take one token.

        Raises:
            GrammarError: the token is not legal here; the state is unchanged.
        """
        if token_id in self._tokens.end_ids:
            if not self.accepting:
                raise GrammarError("an end token came before the reply was complete")
            self._ended += 1
            self._places.append(self._places[-1])
            return
        if self._ended:
            raise GrammarError("a token followed the end token")
        is_mark = token_id in self._tokens.marks.characters
        withheld = token_id in self._tokens.withheld and not is_mark
        if not 0 <= token_id < len(self._tokens.vocabulary) or withheld:
            raise GrammarError(f"token {token_id} is a control token or not in the vocabulary")
        if self._may_overflow and self._overflows(token_id):
            raise GrammarError(f"token {token_id} makes a number too long")
        self._engine.advance(token_id)
        self._places.append(self._follow(self._places[-1], token_id))
        self._keep_plan(token_id)

    def rollback(self, n_tokens: int) -> None:
        """Undo the last `n_tokens` tokens.

        Raises:
            GrammarError: fewer tokens were taken.
        """
        if not 0 <= n_tokens < len(self._places):
            raise GrammarError(f"cannot undo {n_tokens} tokens: {len(self._places) - 1} were taken")
        if n_tokens == 0:
            return
        ends = min(self._ended, n_tokens)
        self._ended -= ends
        if n_tokens > ends:
            self._engine.rollback(n_tokens - ends)
        del self._places[-n_tokens:]
        self._plan = None

    def _drop_overflows(self) -> None:
        """Remove the tokens that would write a number that is too long, or too large for a double (`1e999`)."""
        for i in legal_ids(self._mask, len(self._tokens.vocabulary)).tolist():
            if self._overflows(i):
                self._mask[i >> 5] &= np.uint32(~(1 << (i & 31)) & 0xFFFFFFFF)

    @property
    def _may_overflow(self) -> bool:
        """Whether one more token could make the current number too long."""
        longest = self._tokens.longest_number
        return any(isinstance(frame, Number) and frame.may_overflow(longest) for frame in self._places[-1].frames)

    def _overflows(self, token_id: int) -> bool:
        text = None if token_id in self._tokens.withheld else self._tokens.text(token_id)
        return text is not None and not step_text(self._places[-1].frames, text)

    def _follow(self, place: Place, token_id: int) -> Place:
        """Return the recogniser's position after one token."""
        frames = place.frames
        if not frames:
            return place
        text = None if place.pending else self._tokens.text(token_id)
        pending = b""
        if text is None:
            split = split_utf8(place.pending + self._tokens.vocabulary.token_bytes[token_id])
            if split is None:
                return Place(())
            text, pending = split
        return Place(step_text(frames, text), pending)

    def _price(self, place: Place) -> int:
        prices = [0 if frame is None else frame.price(self._tokens.price) for frame in place.frames]
        price = min(prices, default=LOST_RESERVE)
        return price if price < UNREACHABLE else LOST_RESERVE

    def _current_plan(self) -> list[int]:
        """Return the tokens of a checked completion of the reply so far; empty if none was found."""
        length = len(self._places) - 1
        if self._plan is None or self._plan[0] != length:
            self._plan = (length, self._make_plan(self._places[-1]))
        return self._plan[1]

    def _make_plan(self, place: Place) -> list[int]:
        tokens = self._tokens
        living = [frame for frame in place.frames if frame is not None]
        for frame in sorted(living, key=lambda f: f.price(tokens.price)):
            for lead in _endings(place.pending):
                start, rest = _behind(frame, place.pending + lead)
                ids = [tokens.single[bytes([b])] for b in lead if bytes([b]) in tokens.single]
                if len(ids) != len(lead) or rest is None:
                    continue
                plan = ids + (tokens.encode(rest) if start is not None else [])
                if self._engine.permits(plan):
                    return plan
        return []

    def _keep_plan(self, token_id: int) -> None:
        """Keep the rest of the plan if this token was its next one."""
        length = len(self._places) - 1
        if self._plan is not None and self._plan[0] == length - 1 and self._plan[1][:1] == [token_id]:
            self._plan = (length, self._plan[1][1:])
        else:
            self._plan = None

    def _preferred(self, legal: TokenMask) -> TokenMask:
        """Return the legal tokens that close most, without knowledge of the schema."""
        tokens = self._tokens
        np.bitwise_and(legal, tokens.closers, out=self._closing)
        if self._closing.any():
            return self._closing
        singles = tokens.mask_of(tokens.single.values())
        np.bitwise_and(legal, singles, out=self._closing)
        return self._closing if self._closing.any() else legal


def _n_missing(pending: bytes) -> int:
    """Return the number of missing bytes of the incomplete character `pending`; 0 if there is none."""
    if not pending:
        return 0
    return (2 if pending[0] < 0xE0 else 3 if pending[0] < 0xF0 else 4) - len(pending)


def _endings(pending: bytes) -> list[bytes]:
    """Return bytes that complete the character `pending`."""
    if not pending:
        return [b""]
    need = _n_missing(pending)
    return [bytes([b]) + b"\x80" * (need - 1) for b in (0xA0, 0x80, 0x90, 0x85)]


def _behind(frame: Frame, data: bytes) -> tuple[Frame | None, str | None]:
    """Return the position after the characters `data`, and the text that completes the reply from there."""
    try:
        after = step_text((frame,), data.decode())
    except UnicodeDecodeError:
        return None, None
    if not after:
        return None, None
    return after[0], "" if after[0] is None else after[0].plan()
