"""The requests of the llama.cpp engine: waiting or running, and the next evaluation.

A running request owns a sequence of the cache. One `step` is one call of llama.cpp, and there are two kinds:

- a piece of one prompt, up to `n_batch` tokens, or
- a few tokens of every running request: the last drawn one and what the grammar forced after it, and the ends of
  prompts. All together are at most `MAX_REPLY_BATCH`, or one per request.

The two kinds take turns, so that a long prompt does not stop the replies of others. They are not mixed: a reply is
computed by the same kernels whether its tokens come singly, as a forced block or beside others.

A request is admitted when those before it have little left to read, and borrows what the cache holds by then. It
waits while another request reads a beginning that both share. Requests with a common beginning therefore read it
once, even if they arrive together.

A request with a seed runs alone: cells of other requests between its own would change the order in which attention
sums up, and with it the reply. It waits until the running requests have ended, and those behind it wait for it.

Cells: if llama.cpp has no cell left, sequences without a running request are evicted, then the last running
request in the order of service goes back to the line and is evaluated again later. A request is admitted only if
there are cells for all of its tokens so far, so one that was sent back waits until another one has ended.

Letters: R requests whose logits are known, V vocabulary size.
"""

from __future__ import annotations

import itertools
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from time import perf_counter
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.engine import ContextWindowError, EngineError, GenerationStats
from modelstack.inference.evaluation import Ready, n_kept
from modelstack.inference.llama.batch import DECODE_NO_ROOM, DECODE_OK, MAX_REPLY_BATCH, SequencePart
from modelstack.inference.prompt_states import PromptStates
from modelstack.inference.scheduler import service_rank
from modelstack.inference.sequences import PrefixCache, Reuse, Slot, common_prefix_length


class SequenceEvaluation(Protocol):
    """The evaluation of `llama.model.LlamaContext`."""

    def evaluate_parts(self, parts: Sequence[SequencePart]) -> int:
        """Append tokens to several sequences in one pass; return llama_decode's code."""
        ...

    def logits_of_rows(self, n_rows: int) -> NDArray[np.float32]:
        """Return the R requested logits [R, V] of the last batch, as a view that the next call overwrites."""
        ...

    def layer_states(self) -> NDArray[np.float32] | None:
        """Return the states [R, L, D] of the same tokens; None if the context has no `state_layers`."""
        ...


MIN_BORROWED = 4
"""Number of tokens that are worth waiting for until another request has read them."""


@dataclass(slots=True, eq=False)
class SequenceStream:
    """The tokens of one request."""

    number: int
    priority: int
    conversation: str
    tokens: list[int]
    """Prompt and reply so far."""
    n_prompt: int
    n_fixed: int
    """Number of leading tokens that are evaluated in separate batches, so that their state can be stored."""
    stats: GenerationStats
    runs_alone: bool = False
    """Whether no other request may run beside it."""
    reuse: Reuse = "any"
    """Entries of the cache that its prompt may reuse."""
    slot: Slot | None = None
    """Sequence that holds the evaluated tokens; None: the request waits."""
    n_seen: int = 0
    """Number of tokens that were cached or evaluated at any time; more only after these count as work."""
    is_alone: bool = False
    """Whether the cache held no other request while this one was evaluated."""
    n_preempted: int = 0
    draft: list[int] = field(default_factory=list[int])
    """Tokens that the next evaluation appends to the last one, if there is room."""
    drafted: list[int] = field(default_factory=list[int])
    """Tokens that the last evaluation appended. The cache holds them after those that `slot` lists."""

    @property
    def rank(self) -> tuple[int, int]:
        """Place in the order of service."""
        return service_rank(self.number, self.priority)

    @property
    def held(self) -> Slot:
        """The sequence of a running request."""
        assert self.slot is not None
        return self.slot

    @property
    def fixed(self) -> list[int]:
        """The tokens that later processes share."""
        return self.tokens[: self.n_fixed]


class _Piece(NamedTuple):
    """Tokens of a request that are evaluated next."""

    stream: SequenceStream
    ids: list[int]
    draft: Sequence[int] = ()

    @property
    def position(self) -> int:
        return len(self.stream.held.tokens)

    @property
    def is_last(self) -> bool:
        """Whether logits are wanted after it."""
        return self.position + len(self.ids) == len(self.stream.tokens)

    @property
    def part(self) -> SequencePart:
        ids, n_logits = [*self.ids, *self.draft], int(self.is_last) + len(self.draft)
        return SequencePart(self.stream.held.sequence, self.position, ids, n_logits)

    @property
    def n_evaluated(self) -> int:
        """Number of tokens, including the draft."""
        return len(self.ids) + len(self.draft)


@dataclass(slots=True)
class SequenceQueue:
    """Requests that wait and requests that run."""

    context: SequenceEvaluation
    cache: PrefixCache
    n_cells: int
    n_batch: int
    """Maximum number of tokens of a prompt that are evaluated at once."""
    n_reply_batch: int = MAX_REPLY_BATCH
    """Maximum number of tokens of all replies that are evaluated at once."""
    keeps_ended: bool = True
    """Whether the tokens of ended requests stay cached."""
    states: PromptStates | None = None
    """Restores and keeps the fixed parts of prompts."""
    _drops_parts: bool = True
    """Whether the cache can drop a part of a sequence; False after it refused, as recurrent states do."""
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _waiting: list[SequenceStream] = field(default_factory=list[SequenceStream])
    """In the order of service."""
    _running: list[SequenceStream] = field(default_factory=list[SequenceStream])
    """In the order of service."""
    _is_prompts_turn: bool = True

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self._running) + len(self._waiting)

    @property
    def n_running(self) -> int:
        """Number of requests that own a sequence."""
        return len(self._running)

    @property
    def is_reserved(self) -> bool:
        """Whether the running request runs alone, so that no other sequence may open."""
        return any(stream.runs_alone for stream in self._running)

    @property
    def n_waiting(self) -> int:
        """Number of requests that wait for a sequence or for cells."""
        return len(self._waiting)

    def submit(
        self,
        prompt_ids: Sequence[int],
        forced_ids: Sequence[int],
        stats: GenerationStats,
        *,
        conversation: str,
        n_fixed: int = 0,
        priority: int = 0,
        runs_alone: bool = False,
        reuse: Reuse = "any",
    ) -> SequenceStream:
        """Append a request to the line.

        Args:
            prompt_ids: The prompt, at least one token.
            forced_ids: Beginning of the reply.
            stats: Receives the work on the request.
            conversation: Conversation that owns the sequence afterwards.
            n_fixed: Number of leading tokens of the prompt whose state is worth storing.
            priority: Larger is more urgent.
            runs_alone: Whether no other request may run beside it.
            reuse: Entries of the cache that the prompt may reuse.
        """
        stream = SequenceStream(
            next(self._numbers),
            priority,
            conversation,
            [*prompt_ids, *forced_ids],
            len(prompt_ids),
            n_fixed,
            stats,
            runs_alone,
            reuse,
        )
        self._wait(stream)
        return stream

    def extend(self, stream: SequenceStream, ids: Sequence[int]) -> None:
        """Append tokens to a request; draft tokens that equal them count as evaluated."""
        stream.tokens.extend(ids)
        if stream.drafted:
            n = n_kept(stream.drafted, ids)
            self.cache.extend(stream.held, stream.drafted[:n])
            stream.n_seen = max(stream.n_seen, len(stream.held.tokens))
            stream.drafted = stream.drafted[n:]
            self._drop_drafted(stream)
        stream.draft = []

    @property
    def max_step_tokens(self) -> int:
        """Number of tokens of a step that drafts are part of; 0: the cache cannot drop a part of a sequence."""
        return min(self.n_batch, self.n_reply_batch) if self._drops_parts else 0

    def draft(self, stream: SequenceStream, ids: Sequence[int]) -> None:
        """Set what the next evaluation appends to a request's last token, if there is room."""
        stream.draft = list(ids)

    def remove(self, stream: SequenceStream) -> None:
        """Remove an ended or cancelled request; what was evaluated stays cached."""
        if stream.slot is None:
            self._waiting.remove(stream)
            return
        self._drop_drafted(stream)
        if self.states is not None and stream.is_alone and stream.n_fixed:
            self.states.keep(stream.slot, stream.fixed)
        conversation = stream.held.conversation
        self._stop(stream)
        if not self.keeps_ended and conversation is not None:
            self.cache.forget(conversation)

    def step(self) -> Ready[SequenceStream]:
        """Evaluate the next batch; return the requests whose last token was evaluated.

        A request that does not fit into the cells even alone fails with a `ContextWindowError`.

        Raises:
            EngineError: llama.cpp failed; all requests wait, and their sequences are empty.
        """
        self._admit()
        pieces = self._next_pieces()
        started = perf_counter()
        try:
            pieces = self._evaluated(pieces)
        except ContextWindowError as error:
            return Ready((), self.context.logits_of_rows(0), [(pieces[0].stream, error)])
        self._account(pieces, perf_counter() - started)
        ready = [piece for piece in pieces if piece.is_last]
        for piece in pieces:
            self.cache.extend(piece.stream.held, piece.ids)
            piece.stream.n_seen = max(piece.stream.n_seen, len(piece.stream.held.tokens))
            piece.stream.drafted = list(piece.draft)
        drafts = [piece.draft for piece in ready]
        return Ready(
            [piece.stream for piece in ready],
            self.context.logits_of_rows(len(ready) + sum(map(len, drafts))),
            drafts=drafts if any(drafts) else None,
            n_tokens=sum(piece.n_evaluated for piece in pieces),
            states_RLD=self.context.layer_states(),
        )

    def evaluate_alone(self, slot: Slot, ids: Sequence[int], n_logits: int) -> None:
        """Append tokens to an open slot that belongs to no request.

        Raises:
            ContextWindowError: the tokens do not fit into the cells.
            EngineError: llama.cpp failed.
        """
        part = SequencePart(slot.sequence, len(slot.tokens), ids, n_logits)
        while (code := self.context.evaluate_parts([part])) == DECODE_NO_ROOM and self._makes_room():
            pass
        if code != DECODE_OK:
            self.cache.shorten(slot, len(slot.tokens))
            raise self._failure(code, len(ids), len(slot.tokens))
        self.cache.extend(slot, ids)

    def _admit(self) -> None:
        """Start waiting requests, as long as the next evaluation has room for more tokens."""
        n_next = [len(self._piece(stream).ids) for stream in self._running]
        for stream in list(self._waiting):
            if sum(n_next) >= self.n_reply_batch or self.is_reserved or (stream.runs_alone and self._running):
                return
            if any(_is_reading_for(other, stream) for other in self._running):
                continue
            if self._running and self.cache.n_new_cells(stream.tokens) >= self.n_cells - self.cache.n_open_cells:
                return
            is_alone = self.cache.is_empty
            slot = self.cache.open(stream.conversation, stream.tokens, stream.reuse)
            if slot is None:
                return
            for other in self._running:
                other.is_alone = False
            self._waiting.remove(stream)
            stream.slot, stream.is_alone = slot, is_alone
            insort(self._running, stream, key=attrgetter("rank"))
            if stream.n_seen == 0:
                if self.states is not None and stream.n_fixed:
                    stream.stats.restored_tokens = self.states.restore(slot, stream.fixed)
                stream.n_seen = stream.stats.reused_tokens = min(len(slot.tokens), stream.n_prompt)
            n_next.append(len(self._piece(stream).ids))

    def _piece(self, stream: SequenceStream) -> _Piece:
        """Return the next tokens of a request; a piece ends where its fixed part, prompt or reply ends."""
        position = len(stream.held.tokens)
        for end in (stream.n_fixed, stream.n_prompt):
            if position < end:
                return _Piece(stream, stream.tokens[position : min(end, position + self.n_batch)])
        n_most = min(self.n_batch, MAX_REPLY_BATCH)
        return _Piece(stream, stream.tokens[position : position + n_most])

    def _next_pieces(self) -> list[_Piece]:
        short, long = list[_Piece](), list[_Piece]()
        for stream in self._running:
            if len(stream.held.tokens) == len(stream.tokens):  # its logits were lost with an interrupted step
                self.cache.shorten(stream.held, len(stream.tokens) - 1)
            piece = self._piece(stream)
            (long if len(piece.ids) > MAX_REPLY_BATCH else short).append(piece)
        if long and (self._is_prompts_turn or not short):
            self._is_prompts_turn = False
            return long[:1]
        self._is_prompts_turn = True
        return _with_drafts(_cut_to(short, min(self.n_batch, self.n_reply_batch)), self.max_step_tokens)

    def _evaluated(self, pieces: list[_Piece]) -> list[_Piece]:
        """Evaluate pieces; return those that were, without those of requests that had to make room."""
        while pieces:
            code = self.context.evaluate_parts([piece.part for piece in pieces])
            if code == DECODE_OK:
                return pieces
            if code == DECODE_NO_ROOM and any(piece.draft for piece in pieces):
                pieces = [_Piece(piece.stream, piece.ids) for piece in pieces]
                continue
            if code == DECODE_NO_ROOM and self._makes_room(n_kept=1):
                pieces = [piece for piece in pieces if piece.stream.slot is not None]
                continue
            failure = self._failure(code, sum(len(piece.ids) for piece in pieces), pieces[0].position)
            for stream in list(self._running):
                self.cache.shorten(stream.held, 0)
                self._preempt(stream)
            raise failure
        return pieces

    def _makes_room(self, n_kept: int = 0) -> bool:
        """Free cells: of the least recently used closed sequence, or of the last running request beyond `n_kept`.

        Returns False if there is neither.
        """
        if self.cache.evict():
            return True
        if len(self._running) <= n_kept:
            return False
        self._preempt(self._running[-1])
        return True

    def _failure(self, code: int, n_tokens: int, position: int) -> EngineError:
        if code == DECODE_NO_ROOM:
            return ContextWindowError(
                f"{position} tokens are cached and {n_tokens} more do not fit into the {self.n_cells} KV cells; "
                f"shorten the conversation or load the engine with a larger n_cells"
            )
        return EngineError(f"llama.cpp failed to evaluate {n_tokens} tokens at position {position} (code {code})")

    def _account(self, pieces: Sequence[_Piece], seconds: float) -> None:
        """Add an evaluation to the work of its requests; what is evaluated again is not counted again."""
        for stream, ids, _ in pieces:
            position = len(stream.held.tokens)
            if position < stream.n_seen:
                continue
            if position < stream.n_prompt:
                stream.stats.prefilled_tokens += len(ids)
                stream.stats.prefill_s += seconds
            else:
                stream.stats.forward_calls += 1

    def _preempt(self, stream: SequenceStream) -> None:
        self._stop(stream)
        stream.n_preempted += 1
        self._wait(stream)

    def _drop_drafted(self, stream: SequenceStream) -> None:
        """Remove draft tokens from the cache; if it cannot drop a part, the request is evaluated again."""
        if stream.drafted:
            n_tokens = len(stream.held.tokens)
            self.cache.shorten(stream.held, n_tokens)
            self._drops_parts = len(stream.held.tokens) == n_tokens
            stream.drafted = []

    def _stop(self, stream: SequenceStream) -> None:
        self._drop_drafted(stream)
        self._running.remove(stream)
        self.cache.release(stream.held)
        stream.slot, stream.is_alone = None, False

    def _wait(self, stream: SequenceStream) -> None:
        insort(self._waiting, stream, key=attrgetter("rank"))


def _is_reading_for(reader: SequenceStream, other: SequenceStream) -> bool:
    """Return whether a request has yet to read a beginning of its prompt that another one could borrow."""
    n_held = len(reader.held.tokens)
    if n_held >= reader.n_prompt:
        return False
    n_shared = common_prefix_length(reader.tokens[: reader.n_prompt], other.tokens[:-1])
    return n_shared >= n_held + MIN_BORROWED


def _cut_to(pieces: Sequence[_Piece], n_tokens: int) -> list[_Piece]:
    """Return pieces of at most `n_tokens` tokens together, at least one token of each of the first `n_tokens`."""
    cut, n_left = list[_Piece](), n_tokens
    for n_after, piece in zip(range(min(len(pieces), n_tokens) - 1, -1, -1), pieces, strict=False):
        ids = piece.ids[: max(1, n_left - n_after)]
        n_left -= len(ids)
        cut.append(_Piece(piece.stream, ids))
    return cut


def _with_drafts(pieces: Sequence[_Piece], n_tokens: int) -> list[_Piece]:
    """Return pieces with their requests' drafts, cut to `n_tokens` tokens together."""
    n_left = max(0, n_tokens - sum(len(piece.ids) for piece in pieces))
    found = list[_Piece]()
    for piece in pieces:
        draft = piece.stream.draft[:n_left] if piece.is_last else ()
        n_left -= len(draft)
        found.append(piece._replace(draft=draft))
    return found
