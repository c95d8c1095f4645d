"""The search: from the present version to a pool of candidates, by mutation and selection.

As in GEPA (Agrawal et al. 2025, arXiv 2507.19457), each round draws a parent from the Pareto front over the
selection tasks, runs it on a few training tasks, lets an operator make a child, and runs the child on the same
tasks. A child that is better there is run on the selection tasks and joins the pool. Every choice follows from the
seed and the rollouts, so a resumed search goes the same way.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel, Field, field_validator

from agentkit.errors import UserError
from agentkit.improve.budget import BudgetSpent
from agentkit.improve.mining import Attempt
from agentkit.improve.mutation import MAY_TIE, OPERATORS, Ground
from agentkit.improve.pareto import drawn_parent, front
from agentkit.improve.pieces import Demonstration, Pieces
from agentkit.improve.rollouts import Rollouts
from agentkit.improve.tasks import Split, Task
from agentkit.tools.definition import ToolDefinition

START, REFLECT = "start", "reflect"
_MOST_IDLE_ROUNDS = 12
"""Rounds in a row without a new candidate after which the search ends."""

Reflect = Callable[[Pieces, Sequence[Attempt], Sequence[ToolDefinition]], Awaitable[Pieces | None]]


class SearchOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of the search."""

    rounds: int = Field(default=40, ge=1, le=1_000)
    """Maximum number of children; the budget usually ends the search first."""
    minibatch: int = Field(default=4, ge=1, le=100)
    """Training tasks on which parent and child are compared."""
    operators: tuple[str, ...] = tuple(OPERATORS)
    """Operators in the order in which they take turns; with a reflection model, "reflect" has a turn, too."""

    @field_validator("operators")
    @classmethod
    def _are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(names) - set(OPERATORS)):
            raise ValueError(f"unknown operators {unknown}; known: {', '.join(OPERATORS)}")
        return names


@dataclass(frozen=True, slots=True)
class Member:
    """A candidate of the pool."""

    pieces: Pieces
    operator: str
    parent: int | None
    scores: tuple[float, ...]
    """Scores on the selection tasks."""

    @property
    def mean(self) -> float:
        """Mean score on the selection tasks."""
        return sum(self.scores) / len(self.scores)


@dataclass(slots=True)
class Pool:
    """Result of a search."""

    members: list[Member]
    limit_reached: str | None = None
    """Limit that ended the search; None if it ended by itself."""

    @property
    def best(self) -> Member:
        """Member with the highest mean; of equal ones the shortest, then the earliest."""
        return max(
            enumerate(self.members),
            key=lambda each: (each[1].mean, -len("\n".join(each[1].pieces.lines())), -each[0]),
        )[1]


class Search:
    """A search, of which each is run once."""

    def __init__(
        self,
        rollouts: Rollouts,
        split: Split,
        tools: Sequence[ToolDefinition],
        options: SearchOptions,
        *,
        seed: int,
        traced: Sequence[Demonstration] = (),
        reflect: Reflect | None = None,
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Prepare; nothing runs."""
        self._rollouts, self._split, self._options, self._told = rollouts, split, options, told
        self._draw = random.Random(seed)
        self._ground = Ground(tools, split.train, rollouts.made, self._draw, traced)
        self._reflect = reflect
        self._seen: set[str] = set()
        self._waiting: list[Task] = []

    async def run(self, start: Pieces) -> Pool:
        """Search from a start until the budget, the rounds or the ideas are used up.

        Raises:
            UserError: the budget is too small for the start alone, or every run of the start fails.
        """
        try:
            scores = await self._selection_scores(start)
        except BudgetSpent as spent:
            raise UserError(
                f"the budget of {spent} does not suffice to score the present version; raise it."
            ) from spent
        pool = Pool([Member(start, START, None, scores)])
        self._seen.add(start.sha256)
        n_idle = 0
        try:
            for number in range(self._options.rounds):
                found = await self._round(pool, number)
                n_idle = 0 if found else n_idle + 1
                if n_idle >= _MOST_IDLE_ROUNDS:
                    break
        except BudgetSpent as spent:
            pool.limit_reached = str(spent)
        return pool

    async def _round(self, pool: Pool, number: int) -> bool:
        """Make one child; return whether a new candidate was tried."""
        counts = front([member.scores for member in pool.members])
        index = drawn_parent(counts, self._draw)
        parent = pool.members[index]
        tasks = self._minibatch()
        before = await self._rollouts.of(parent.pieces, tasks)
        attempts = list(zip(tasks, before, strict=True))
        if all(rollout.score >= 1.0 for rollout in before):
            return False
        others = [pool.members[i].pieces for i in counts if i != index]
        made = await self._child(number, parent.pieces, attempts, replace(self._ground, others=others))
        if made is None:
            return False
        operator, child = made
        self._seen.add(child.sha256)
        after = await self._rollouts.of(child, tasks)
        gain = sum(each.score for each in after) - sum(each.score for each in before)
        if gain < 0 or (gain == 0 and operator not in MAY_TIE):
            self._told(f"{operator}: {gain:+g} on {len(tasks)} tasks, dropped")
            return True
        member = Member(child, operator, index, await self._selection_scores(child))
        pool.members.append(member)
        self._told(f"{operator}: {gain:+g} on {len(tasks)} tasks, {member.mean:.2f} on the selection")
        return True

    async def _child(
        self, turn: int, parent: Pieces, attempts: Sequence[Attempt], ground: Ground
    ) -> tuple[str, Pieces] | None:
        """Return the child of the operator whose turn it is, or of the next one that makes a new one; or None."""
        names = [*([REFLECT] if self._reflect is not None else []), *self._options.operators]
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            if name == REFLECT and self._reflect is not None:
                child = await self._reflect(parent, attempts, ground.tools)
            else:
                child = OPERATORS[name](parent, attempts, ground)
            if child is not None and child.sha256 not in self._seen:
                return name, child
        return None

    async def _selection_scores(self, pieces: Pieces) -> tuple[float, ...]:
        rollouts = await self._rollouts.of(pieces, self._split.selection)
        if (
            pieces.sha256 not in self._seen
            and not self._seen
            and all(each.status == "failed" for each in rollouts)
        ):
            raise UserError(f"every run of the agent fails, there is nothing to improve: {rollouts[0].error}")
        return tuple(each.score for each in rollouts)

    def _minibatch(self) -> list[Task]:
        """Return the next training tasks; each task has its turn before one has a second."""
        size = min(self._options.minibatch, len(self._split.train))
        if len(self._waiting) < size:
            again = [task for task in self._split.train if task not in self._waiting]
            self._draw.shuffle(again)
            self._waiting += again
        batch, self._waiting = self._waiting[:size], self._waiting[size:]
        return batch
