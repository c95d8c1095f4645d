"""The requests of a batching engine as streams of tokens: waiting, running, their blocks, and the next step.

Applies the decisions of `scheduler` to the blocks of `blocks`. It knows no model: a caller evaluates the rows of
`next_step`, then extends or removes each stream whose logits are known. A stream is in exactly one of two
places, waiting without blocks or running with them, until it is removed.
"""

from __future__ import annotations

import itertools
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from modelstack.inference.blocks import BlockPool, BlockTable, Hit, TokenChain
from modelstack.inference.evaluation import n_kept
from modelstack.inference.scheduler import (
    Load,
    StepLimits,
    displaced,
    plan_running,
    service_rank,
    tokens_admitted,
)


@dataclass(slots=True, eq=False)
class Stream:
    """The tokens of one request: its prompt and what follows."""

    number: int
    priority: int
    chain: TokenChain
    adapter: str | None = None
    """Adapter that the stream is evaluated with; None: the base model."""
    table: BlockTable = field(default_factory=BlockTable)
    n_reused: int | None = None
    """Number of tokens that were cached when the stream began to run; None: it has not run."""
    n_preempted: int = 0
    is_away: bool = False
    """Whether another process reads its prompt, so that it must not run yet."""
    draft: list[int] = field(default_factory=list[int])
    """Tokens that the next step evaluates after the last one, if there is room."""
    drafted: list[int] = field(default_factory=list[int])
    """Tokens that the last step evaluated after the last one. Their keys and values follow the table's tokens."""

    @property
    def tokens(self) -> Sequence[int]:
        """All tokens so far."""
        return self.chain.tokens


@dataclass(frozen=True, slots=True)
class StepRow:
    """The tokens of a stream that a step evaluates: `n_tokens` from position `start`, and a draft after them."""

    stream: Stream
    start: int
    n_tokens: int
    draft: list[int] = field(default_factory=list[int])

    @property
    def n_evaluated(self) -> int:
        """Number of tokens, including the draft."""
        return self.n_tokens + len(self.draft)

    @property
    def ids(self) -> list[int]:
        """The tokens, including the draft."""
        return [*self.stream.chain.tokens[self.start : self.start + self.n_tokens], *self.draft]

    @property
    def is_last(self) -> bool:
        """Whether the step evaluates the stream's last token, so that its logits decide what follows."""
        return self.start + self.n_tokens == len(self.stream.tokens)


class StreamQueue:
    """Streams that wait and streams that run."""

    def __init__(self, pool: BlockPool, limits: StepLimits) -> None:
        """Start without streams."""
        self.pool, self.limits = pool, limits
        self._numbers = itertools.count()
        self._waiting: list[Stream] = []
        """In the order of service."""
        self._running: dict[int, Stream] = {}

    def __len__(self) -> int:
        """Return the number of streams."""
        return len(self._waiting) + len(self._running)

    @property
    def n_running(self) -> int:
        """Number of streams that hold blocks."""
        return len(self._running)

    @property
    def n_waiting(self) -> int:
        """Number of streams that wait for rows, tokens or blocks."""
        return len(self._waiting)

    def submit(
        self,
        tokens: Sequence[int],
        longest: int,
        *,
        priority: int = 0,
        adapter: str | None = None,
        root: bytes = b"",
    ) -> Stream:
        """Append a stream to the line.

        Args:
            tokens: The prompt, at least one token.
            longest: Maximum number of tokens of the stream, including the prompt.
            priority: Larger is more urgent.
            adapter: Adapter that the stream is evaluated with.
            root: Identifies the adapter's blocks; see `TokenChain`.

        Raises:
            ValueError: There is no token, or the stream might not fit into all blocks together.
        """
        if not tokens:
            raise ValueError("a stream needs at least one token")
        if self.pool.blocks_for(longest) > self.pool.n_blocks:
            raise ValueError(
                f"a stream of {longest} tokens needs {self.pool.blocks_for(longest)} blocks of "
                f"{self.pool.block_tokens}; there are {self.pool.n_blocks}"
            )
        chain = TokenChain(tokens, block_tokens=self.pool.block_tokens, root=root)
        stream = Stream(next(self._numbers), priority, chain, adapter)
        self._wait(stream)
        return stream

    def next_step(self) -> list[StepRow]:
        """Decide on the next step, and give its rows their blocks; empty if nothing can run.

        Raises:
            ValueError: A running stream was neither extended nor removed after its last token was evaluated.
        """
        pool, limits, B = self.pool, self.limits, self.pool.block_tokens
        for stream in self._running.values():
            if stream.table.n_tokens == len(stream.tokens):
                raise ValueError(f"stream {stream.number} has no token to evaluate; extend or remove it")
        head = self._next_waiting()
        if head is not None and any(stream.priority < head.priority for stream in self._running.values()):
            load = self._waiting_load(head, pool.lookup(head.chain))
            self._preempt(displaced(load, self._loads(counted=True), pool.n_free, B, limits))
        is_tight = pool.n_free < pool.blocks_for(limits.max_tokens) + limits.max_rows
        plan = plan_running(self._loads(counted=is_tight), pool.n_free, B, limits)
        self._preempt(plan.preempted)
        rows = [self._row(self._running[number], n) for number, n in plan.n_tokens.items()]
        tokens_left = plan.tokens_left
        while not plan.preempted and tokens_left and (head := self._next_waiting()) is not None:
            hit = pool.lookup(head.chain)
            n = tokens_admitted(
                self._waiting_load(head, hit), len(self._running), pool.n_free, tokens_left, B, limits
            )
            if n == 0:
                break
            self._waiting.remove(head)
            head.table = pool.open(hit)
            if head.n_reused is None:
                head.n_reused = head.table.n_tokens
            self._running[head.number] = head
            rows.append(self._row(head, n))
            tokens_left -= n
        return self._with_drafts(rows, tokens_left)

    def settle(self, rows: Sequence[StepRow]) -> None:
        """Join blocks of equal content after the rows of a step were evaluated."""
        for row in rows:
            self.pool.settle(row.stream.table, row.stream.chain, row.start)
            row.stream.drafted = row.draft

    def fail(self) -> None:
        """Return all streams to the line and forget the cache, because a step's evaluation failed."""
        self._preempt(tuple(self._running))
        self.pool.drop_cache()

    def extend(self, stream: Stream, tokens: Sequence[int]) -> None:
        """Append tokens to a stream; those that its evaluated draft has in common count as evaluated."""
        stream.chain.tokens.extend(tokens)
        if stream.drafted:
            table, n_before = stream.table, stream.table.n_tokens
            self.pool.write(table, stream.chain, n_before + n_kept(stream.drafted, tokens))
            self.pool.settle(table, stream.chain, n_before)
            self.pool.trim(table)
        stream.draft, stream.drafted = [], []

    def remove(self, stream: Stream) -> None:
        """Remove a finished or cancelled stream, and free its blocks. Idempotent."""
        if self._running.pop(stream.number, None) is not None:
            self.pool.release(stream.table)
        else:
            self._waiting = [other for other in self._waiting if other is not stream]

    def check(self) -> None:
        """Verify that every block has its owners; for tests, after each step.

        Raises:
            AssertionError: A block is lost or doubled, or a waiting stream holds blocks.
        """
        assert all(not stream.table.blocks for stream in self._waiting), "a waiting stream holds blocks"
        assert self.n_running <= self.limits.max_rows, "more streams run than there are rows"
        assert [_rank(s) for s in self._waiting] == sorted(map(_rank, self._waiting)), "the line is out of order"
        self.pool.check([stream.table for stream in self._running.values()])

    def _next_waiting(self) -> Stream | None:
        """Return the first stream in the line that may run."""
        return next((stream for stream in self._waiting if not stream.is_away), None)

    def _row(self, stream: Stream, n_tokens: int) -> StepRow:
        start = stream.table.n_tokens
        self.pool.reserve(stream.table, start + n_tokens)
        self.pool.write(stream.table, stream.chain, start + n_tokens)
        return StepRow(stream, start, n_tokens)

    def _with_drafts(self, rows: Sequence[StepRow], tokens_left: int) -> list[StepRow]:
        """Return the rows with their drafts, as far as tokens and free blocks are left over."""
        found: list[StepRow] = []
        for row in rows:
            table, end = row.stream.table, row.start + row.n_tokens
            room = (len(table.blocks) + self.pool.n_free) * self.pool.block_tokens - end
            draft = row.stream.draft[: min(tokens_left, room)] if row.is_last else []
            if draft:
                self.pool.reserve(table, end + len(draft))
                row = replace(row, draft=draft)
                tokens_left -= len(draft)
            found.append(row)
        return found

    def _loads(self, *, counted: bool) -> list[Load]:
        """Return the running streams; the blocks that a preemption would free are counted only on request."""
        return [
            Load(
                stream.number,
                stream.priority,
                len(stream.tokens),
                stream.table.n_tokens,
                len(stream.table.blocks),
                n_released=self.pool.n_exclusive(stream.table) if counted else 0,
            )
            for stream in self._running.values()
        ]

    def _waiting_load(self, stream: Stream, hit: Hit) -> Load:
        n = len(hit.blocks)
        return Load(
            stream.number,
            stream.priority,
            len(stream.tokens),
            n * self.pool.block_tokens,
            n,
            n_revived=hit.n_free,
        )

    def _preempt(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            stream = self._running.pop(number)
            self.pool.release(stream.table)
            stream.n_preempted += 1
            stream.drafted = []
            self._wait(stream)

    def _wait(self, stream: Stream) -> None:
        insort(self._waiting, stream, key=_rank)


def _rank(stream: Stream) -> tuple[int, int]:
    return service_rank(stream.number, stream.priority)
