"""Decisions of a step: which requests run, and with how many tokens. Pure functions on plain numbers.

There is no prefill phase and no decode phase (vLLM). A request has known tokens, and computed tokens whose keys
and values exist; a step computes more of the known ones. A long prompt is read in chunks within the step's token
budget, beside requests that write one token each.

- Order: `Load.rank`, the place of arrival; a level of priority goes ahead of `PRIORITY_LEAD` earlier requests.
  The rank never changes, and only finitely many later requests can go ahead of a request: none starves.
- Every running request gets at least one token per step; the rest of the budget is given out in order.
- Blocks: if they run out, the last running request in the order is preempted. Its blocks are freed and its
  tokens computed again later; most of its blocks are then still cached.
- Admission keeps the head of the line: no request is admitted before the first waiting one. It is admitted if
  blocks for all of its known tokens are free, so that its prompt does not preempt others. If only running
  requests of lower priority are in its way, they are preempted.

Letters: B tokens per block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PRIORITY_LEAD = 256
"""Number of earlier requests that a request goes ahead of per level of priority."""


def service_rank(number: int, priority: int) -> tuple[int, int]:
    """Return a request's place in the order of service; smaller is served first.

    Args:
        number: Place of arrival; unique.
        priority: Larger is more urgent; 0 is usual.
    """
    return number - priority * PRIORITY_LEAD, number


@dataclass(frozen=True, slots=True)
class StepLimits:
    """Bounds on one step."""

    max_rows: int = 32
    """Maximum number of requests that run together."""
    max_tokens: int = 512
    """Maximum number of tokens evaluated in a step; not less than `max_rows`."""

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            ValueError: There are no rows, or fewer tokens than rows.
        """
        if not 1 <= self.max_rows <= self.max_tokens:
            raise ValueError(
                f"max_rows is {self.max_rows} and max_tokens {self.max_tokens}; "
                f"at least one row is needed, and a token for each row"
            )


@dataclass(frozen=True, slots=True)
class Load:
    """A request as the scheduler sees it."""

    number: int
    """Place of arrival; unique."""
    priority: int
    """Larger is more urgent; 0 is usual."""
    n_known: int
    """Number of tokens of the prompt and of the reply so far."""
    n_computed: int
    """Number of these whose keys and values exist; of a waiting request: in cached blocks."""
    n_blocks: int
    """Number of blocks that hold them."""
    n_released: int = 0
    """Running: number of these blocks that a preemption frees, as no other request shares them."""
    n_revived: int = 0
    """Waiting: number of these blocks that are free now and would be taken from the free ones."""

    @property
    def rank(self) -> tuple[int, int]:
        """Place in the order; smaller is served first."""
        return service_rank(self.number, self.priority)

    @property
    def n_missing(self) -> int:
        """Number of tokens to evaluate."""
        return self.n_known - self.n_computed


@dataclass(frozen=True, slots=True)
class RunningPlan:
    """Decision about the running requests."""

    n_tokens: dict[int, int]
    """Number of tokens to evaluate by request; running requests that are absent wait for a step."""
    preempted: tuple[int, ...]
    """Requests whose blocks are freed before the step."""
    tokens_left: int
    """Number of tokens that newly admitted requests may evaluate in the step."""


def plan_running(rows: Sequence[Load], n_free: int, block_tokens: int, limits: StepLimits) -> RunningPlan:
    """Divide a step's tokens and the free blocks among the running requests.

    Args:
        rows: The running requests, at most `limits.max_rows`.
        n_free: Number of free blocks.
        block_tokens: B.
        limits: Bounds on the step.
    """
    queue = sorted(rows, key=lambda row: row.rank)
    n_tokens: dict[int, int] = {}
    preempted: list[int] = []
    tokens_left = limits.max_tokens
    while queue:
        row = queue.pop(0)
        while (room := (row.n_blocks + n_free) * block_tokens - row.n_computed) < 1 and queue:
            victim = queue.pop()
            preempted.append(victim.number)
            n_free += victim.n_released
        n = min(row.n_missing, tokens_left - len(queue), room)
        if n >= 1:
            n_tokens[row.number] = n
            tokens_left -= n
            n_free -= max(0, -(-(row.n_computed + n) // block_tokens) - row.n_blocks)
        elif not preempted:
            preempted.append(row.number)
        # Otherwise blocks that preempted requests shared become free; the row finds them in the next step.
    return RunningPlan(n_tokens, tuple(preempted), tokens_left)


def tokens_admitted(
    row: Load, n_running: int, n_free: int, tokens_left: int, block_tokens: int, limits: StepLimits
) -> int:
    """Return the number of tokens that the first waiting request evaluates in this step; 0: it waits.

    Args:
        row: The request.
        n_running: Number of running requests.
        n_free: Number of free blocks.
        tokens_left: Number of tokens that the step has left.
        block_tokens: B.
        limits: Bounds on the step.
    """
    if n_running >= limits.max_rows or not _fits(row, n_free, block_tokens):
        return 0
    return min(row.n_missing, tokens_left)


def displaced(
    row: Load, running: Sequence[Load], n_free: int, block_tokens: int, limits: StepLimits
) -> tuple[int, ...]:
    """Return running requests of lower priority that give way to the first waiting request; empty: none.

    Requests of the same priority keep what they have. None is preempted if all together would not make room.
    """
    victims = sorted(
        (each for each in running if each.priority < row.priority and each.rank > row.rank),
        key=lambda each: each.rank,
    )
    found: list[int] = []
    while len(running) - len(found) >= limits.max_rows or not _fits(row, n_free, block_tokens):
        if not victims:
            return ()
        victim = victims.pop()
        found.append(victim.number)
        n_free += victim.n_released
    return tuple(found)


def _fits(row: Load, n_free: int, block_tokens: int) -> bool:
    """Return whether all known tokens of a waiting request, and one more, find room."""
    n_new = -(-(row.n_known + 1) // block_tokens) - row.n_blocks
    return n_new + row.n_revived <= n_free
