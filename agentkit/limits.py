"""Limits on the usage of a run.

A limit ends a run with a result, not an exception: the model gets one last turn without tools to answer with the
results so far. An exception at a turn limit loses work (openai-agents-python#719, #844).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from agentkit.errors import UserError
from agentkit.models.model_price import dollars
from agentkit.usage import NO_COST, RunUsage

DEFAULT_REQUEST_LIMIT = 50
"""Default number of model requests in a run; pydantic-ai's figure."""

DEFAULT_REPEATED_FAILURES_LIMIT = 3
"""Default number of turns in which the same call may fail. Two repeats cover a transient failure. A greedy model
that has read its failed call three times repeats it until the request limit: measured 65 and 79 s with the 135M
model."""


_AT_LEAST_ONE = ("request_limit", "repeated_failures_limit")


@dataclass(frozen=True, slots=True)
class UsageLimits:
    """Bounds on a run; None means unbounded. The last request is reserved for an answer without tools."""

    request_limit: int | None = DEFAULT_REQUEST_LIMIT
    tool_calls_limit: int | None = None
    input_tokens_limit: int | None = None
    output_tokens_limit: int | None = None
    total_tokens_limit: int | None = None
    repeated_failures_limit: int | None = DEFAULT_REPEATED_FAILURES_LIMIT
    """Turns in which the same call with the same arguments may fail while nothing else succeeds."""
    cost_limit: Decimal | float | None = None
    """US dollars, kept as `Decimal`. Costs are known when a reply arrives: the turn that reaches the limit and the
    last answer may exceed it. A run with a model whose price is not known is refused."""

    def __post_init__(self) -> None:
        """Reject limits that no run could satisfy.

        Raises:
            UserError: a limit is negative, no request is allowed at all, or the cost limit is zero.
        """
        if self.cost_limit is not None:
            amount = dollars(self.cost_limit, "UsageLimits(cost_limit=...)")
            if not amount:
                raise UserError(
                    "UsageLimits(cost_limit=0): the limit must be more than zero, or no request could be paid; "
                    "use None for no limit."
                )
            object.__setattr__(self, "cost_limit", amount)
        for name in self.__slots__:
            value: object = getattr(self, name)
            if name == "cost_limit":
                continue
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise UserError(f"UsageLimits({name}={value!r}): the limit must be a whole number, or None.")
            least = 1 if name in _AT_LEAST_ONE else 0
            if value is not None and value < least:
                raise UserError(
                    f"UsageLimits({name}={value!r}): the limit must be "
                    f"{'at least 1' if least else 'zero or more'}; use None for no limit."
                )

    def is_halfway(self, usage: RunUsage) -> bool:
        """Return whether half of any limit is used."""
        used = {
            "request_limit": usage.requests,
            "tool_calls_limit": usage.tool_calls,
            "input_tokens_limit": usage.input_tokens,
            "output_tokens_limit": usage.output_tokens,
            "total_tokens_limit": usage.total_tokens,
            "cost_limit": usage.known_cost or NO_COST,
        }
        return any(
            limit is not None and 2 * used[name] >= limit
            for name, limit in ((name, getattr(self, name)) for name in used)
        )

    def reached(self, usage: RunUsage) -> str | None:
        """Return the limit that allows no further tool turn; None if there is room."""
        if self.request_limit is not None and usage.requests >= self.request_limit - 1:
            return f"request_limit={self.request_limit}"
        if self.tool_calls_limit is not None and usage.tool_calls >= self.tool_calls_limit:
            return f"tool_calls_limit={self.tool_calls_limit}"
        if self.input_tokens_limit is not None and usage.input_tokens >= self.input_tokens_limit:
            return f"input_tokens_limit={self.input_tokens_limit}"
        if self.output_tokens_limit is not None and usage.output_tokens >= self.output_tokens_limit:
            return f"output_tokens_limit={self.output_tokens_limit}"
        if self.total_tokens_limit is not None and usage.total_tokens >= self.total_tokens_limit:
            return f"total_tokens_limit={self.total_tokens_limit}"
        if self.cost_limit is not None and usage.unpriced_models:
            return f"cost_limit={self.cost_limit} (no price of {usage.unpriced_models[0]!r})"
        if self.cost_limit is not None and (usage.known_cost or NO_COST) >= self.cost_limit:
            return f"cost_limit={self.cost_limit}"
        return None
