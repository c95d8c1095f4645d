"""A budget for a run and the inner runs of its calls, counted live.

The usage in a run's state is exact and stored, but includes the usage of inner runs only at the end of a turn. A
`Budget` counts live beside it. Every request, token and tool call of an inner run counts at once in its own budget
and in all outer budgets, and a request counts before it is sent. So concurrent inner runs cannot spend the same
request twice.

One request is reserved for the answer of each active run: a request that may call tools needs room for itself and
for the answers of all runs that share the budget. The limits of an inner run and of its outer runs all apply.
"""

from __future__ import annotations

from collections.abc import Iterator

from agentkit.limits import UsageLimits
from agentkit.usage import RunUsage


class Budget:
    """Limits of one run, and the usage so far of the run and its inner runs."""

    __slots__ = ("_holds_answer", "_limits", "_n_answers", "_outer", "used")

    def __init__(self, limits: UsageLimits, used: RunUsage, outer: Budget | None = None) -> None:
        """Begin with the usage of the run's state; `outer` is the budget of the run that it serves."""
        self._limits = limits
        self._outer = outer
        self._n_answers = 1
        """Requests reserved for answers: one for the run itself, one for each inner run that may call tools."""
        self._holds_answer = False
        """True if the outer budgets reserve a request for this run."""
        self.used = used

    def take_request(self, *, final: bool) -> str | None:
        """Count a request of this run in the outer budgets; return the limit without room for it, or None.

        `final`: the request is for the answer, so no further request has to be reserved.
        """
        if self._outer is None:
            return None
        n_after = 0 if final else 1
        for each in self._outers():
            n_kept = each._n_answers - self._holds_answer + n_after
            if (limit := each._lacks_request(n_kept, final=final)) is not None:
                return limit
        for each in self._outers():
            each._n_answers += n_after - self._holds_answer
        self._holds_answer = not final
        self.add(RunUsage(requests=1))
        return None

    def begin_turn(self, usage: RunUsage, n_calls: int) -> int:
        """Count the tool calls at the start of a turn; return the number that the outer runs have room for."""
        self.settle(usage)
        for each in self._outers():
            n_calls = min(n_calls, each._call_room(n_calls))
        self.add(RunUsage(tool_calls=n_calls))
        return n_calls

    @property
    def has_call_room(self) -> bool:
        """True if this run and its outer runs have room for one more tool call."""
        return all(each._call_room(1) for each in (self, *self._outers()))

    def take_call(self) -> bool:
        """Count one more tool call if there is room; return whether there was."""
        if not self.has_call_room:
            return False
        self.add(RunUsage(tool_calls=1))
        return True

    @property
    def has_cost_limit(self) -> bool:
        """True if this run or one of its outer runs has a limit in money."""
        return any(each._limits.cost_limit is not None for each in (self, *self._outers()))

    def add(self, more: RunUsage) -> None:
        """Count usage here and in the outer budgets."""
        self.used = self.used.plus(more)
        for each in self._outers():
            each.used = each.used.plus(more)

    def settle(self, usage: RunUsage) -> None:
        """Replace the counted usage by the usage in the run's state."""
        if self._outer is None:
            self.used = usage
        elif usage != self.used:
            self.add(usage.minus(self.used))

    def close(self, usage: RunUsage) -> None:
        """End an inner run with the usage of its state, and free the request reserved for it."""
        self.settle(usage)
        for each in self._outers():
            each._n_answers -= self._holds_answer
        self._holds_answer = False

    def _outers(self) -> Iterator[Budget]:
        outer = self._outer
        while outer is not None:
            yield outer
            outer = outer._outer

    def _lacks_request(self, n_kept: int, *, final: bool) -> str | None:
        limit = self._limits.request_limit
        if limit is not None and self.used.requests + 1 + n_kept > limit:
            return f"request_limit={limit}"
        return None if final else self._limits.reached(self.used)

    def _call_room(self, n_wanted: int) -> int:
        limit = self._limits.tool_calls_limit
        return n_wanted if limit is None else max(0, min(n_wanted, limit - self.used.tool_calls))
