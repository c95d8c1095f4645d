"""Usage of models: requests, tool calls, tokens and their cost in US dollars.

Costs are `Decimal`, so that sums are exact; in JSON they are strings ("0.00315"). The cost of a request is fixed
when its reply arrives, by the prices of that time, and is stored with it (`agentkit.models.prices`). A sum says
whether it is complete: `RunUsage.cost` is None as soon as the price of one request is not known.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from decimal import Context, Decimal

EXACT = Context(prec=60)
"""Arithmetic without rounding, whatever precision the application has set: a billion dollars in 1e-50 steps."""
NO_COST = Decimal(0)
_MAX_NAMES, _MAX_NAME_CHARS = 8, 200
"""Bounds on the names of models that a usage keeps: servers report them."""


@dataclass(frozen=True, slots=True)
class RequestUsage:
    """Tokens and cost of one model request."""

    input_tokens: int = 0
    """Prompt tokens, those read from a cache or written to it included."""
    cache_read_tokens: int = 0
    """Prompt tokens read from a cache."""
    output_tokens: int = 0
    """Tokens of the reply, thinking included."""
    cache_write_tokens: int = 0
    """Prompt tokens written to a cache."""
    cache_write_1h_tokens: int = 0
    """Part of `cache_write_tokens` that is kept for an hour, at another price (Anthropic)."""
    cost: Decimal | None = field(default=None, compare=False)
    """US dollars; None: not known. Not compared: it follows from the tokens, by the prices of the day."""

    def plus(self, other: RequestUsage) -> RequestUsage:
        """Return two usages together; the cost is known only if both are."""
        is_known = self.cost is not None and other.cost is not None
        return RequestUsage(
            self.input_tokens + other.input_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.cache_write_1h_tokens + other.cache_write_1h_tokens,
            _sum(self.cost, other.cost) if is_known else None,
        )


@dataclass(frozen=True, slots=True, repr=False)
class RunUsage:
    """Requests, tool calls, tokens and cost of a run so far."""

    requests: int = 0
    tool_calls: int = 0
    input_tokens: int = 0
    cache_read_tokens: int = 0
    output_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    priced_requests: int = 0
    """Requests whose cost is known."""
    known_cost: Decimal | None = None
    """Cost of the priced requests in US dollars; None: no request is priced."""
    unpriced_models: tuple[str, ...] = ()
    """Models of the requests whose cost is not known, the first few, as their servers report them."""

    def __repr__(self) -> str:
        """Show the fields that are not zero, and the number of priced requests only if some are not."""
        shown = {each.name: value for each in fields(self) if (value := getattr(self, each.name))}
        if self.priced_requests == self.requests:
            shown.pop("priced_requests", None)
        return f"RunUsage({', '.join(f'{name}={value}' for name, value in shown.items())})"

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    @property
    def cost(self) -> Decimal | None:
        """Cost of all requests in US dollars; None if the price of any of them is not known."""
        return None if self.priced_requests < self.requests else self.known_cost or NO_COST

    def as_json(self) -> dict[str, object]:
        """Return the fields and the cost as JSON values; amounts of money are exact, as strings."""
        values: dict[str, object] = {each.name: getattr(self, each.name) for each in fields(self)}
        values |= {"known_cost": _text(self.known_cost), "unpriced_models": list(self.unpriced_models)}
        return {**values, "cost": _text(self.cost)}

    @property
    def cost_notice(self) -> str | None:
        """Reason why the cost is not known, with the fix; None if it is known."""
        if self.cost is not None:
            return None
        names = ", ".join(map(repr, self.unpriced_models)) or "requests of an earlier version"
        example = self.unpriced_models[0] if self.unpriced_models else "NAME"
        return (
            f"The cost is not known: no price of {names}. Install the price list with the extra `cost`, or give "
            f"the price: Agent(prices={{{example!r}: ModelPrice(input_per_million=..., output_per_million=...)}})."
        )

    def plus_request(self, usage: RequestUsage, model_name: str = "") -> RunUsage:
        """Return the usage after one more request; `model_name` is the model that answered."""
        return self.plus(
            RunUsage(
                1,
                0,
                usage.input_tokens,
                usage.cache_read_tokens,
                usage.output_tokens,
                usage.cache_write_tokens,
                usage.cache_write_1h_tokens,
                int(usage.cost is not None),
                usage.cost,
                (model_name[:_MAX_NAME_CHARS],) if usage.cost is None and model_name else (),
            )
        )

    def plus(self, other: RunUsage) -> RunUsage:
        """Return the usage of two runs together."""
        return RunUsage(
            self.requests + other.requests,
            self.tool_calls + other.tool_calls,
            self.input_tokens + other.input_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.cache_write_1h_tokens + other.cache_write_1h_tokens,
            self.priced_requests + other.priced_requests,
            _sum(self.known_cost, other.known_cost),
            tuple(dict.fromkeys((*self.unpriced_models, *other.unpriced_models)))[:_MAX_NAMES],
        )

    def minus(self, other: RunUsage) -> RunUsage:
        """Return the usage since `other`."""
        return RunUsage(
            self.requests - other.requests,
            self.tool_calls - other.tool_calls,
            self.input_tokens - other.input_tokens,
            self.cache_read_tokens - other.cache_read_tokens,
            self.output_tokens - other.output_tokens,
            self.cache_write_tokens - other.cache_write_tokens,
            self.cache_write_1h_tokens - other.cache_write_1h_tokens,
            self.priced_requests - other.priced_requests,
            _sum(self.known_cost, None if other.known_cost is None else -other.known_cost),
            self.unpriced_models,
        )

    def plus_tool_calls(self, n_calls: int) -> RunUsage:
        """Return the usage after `n_calls` more tool calls."""
        return self.plus(RunUsage(tool_calls=n_calls))


def dollars_text(amount: Decimal) -> str:
    """Return an amount for a person to read: two decimals from one dollar on, else at least two digits."""
    n_decimals = 2 if amount >= 1 or not amount else max(4, 1 - amount.adjusted())
    return f"${amount:,.{n_decimals}f}"


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else f"{amount:f}"


def _sum(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    if one is None or other is None:
        return other if one is None else one
    return EXACT.add(one, other)
