"""Price of a model, as an application gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation

from agentkit.errors import UserError
from agentkit.usage import EXACT, RequestUsage

_MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """Price of a model in US dollars per million tokens; numbers are kept as `Decimal`."""

    input_per_million: Decimal | float
    output_per_million: Decimal | float
    cache_read_per_million: Decimal | float | None = None
    """Price of prompt tokens read from a cache; None: as other prompt tokens."""
    cache_write_per_million: Decimal | float | None = None
    """Price of prompt tokens written to a cache; None: as other prompt tokens."""
    cache_write_1h_per_million: Decimal | float | None = None
    """Price of prompt tokens that a cache keeps for an hour; None: as other cache writes."""

    def __post_init__(self) -> None:
        """Convert the numbers.

        Raises:
            UserError: a price is no number, or negative.
        """
        for each in fields(self):
            if (value := getattr(self, each.name)) is not None:
                object.__setattr__(self, each.name, dollars(value, f"ModelPrice({each.name}=...)"))

    def cost(self, usage: RequestUsage) -> Decimal:
        """Return the cost of a request in US dollars."""
        usage = consistent(usage)
        read = self.cache_read_per_million
        write = self.cache_write_per_million
        write_1h = self.cache_write_1h_per_million
        write = self.input_per_million if write is None else write
        rates = (
            (usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens, self.input_per_million),
            (usage.cache_read_tokens, self.input_per_million if read is None else read),
            (usage.cache_write_tokens - usage.cache_write_1h_tokens, write),
            (usage.cache_write_1h_tokens, write if write_1h is None else write_1h),
            (usage.output_tokens, self.output_per_million),
        )
        total = Decimal(0)
        for n_tokens, rate in rates:
            total = EXACT.add(total, EXACT.multiply(Decimal(n_tokens), Decimal(rate)))
        return EXACT.divide(total, _MILLION)


Prices = Mapping[str, ModelPrice]
"""Prices by the name of the model: as it is configured, or as its server reports it."""


def dollars(value: Decimal | float | str, what: str) -> Decimal:
    """Return an amount of money; a float counts as it is written, 0.1 as one tenth.

    Raises:
        UserError: it is no number of dollars, or negative.
    """
    if isinstance(value, bool) or not isinstance(value, (Decimal, int, float, str)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError(f"{what} = {value!r}: an amount in US dollars is a number, such as 0.25.")
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        raise UserError(f"{what} = {value!r}: an amount in US dollars is a number, such as 0.25.") from None
    if not amount.is_finite() or amount < 0:
        raise UserError(f"{what} = {value!r}: an amount in US dollars must be zero or more.")
    return amount


def consistent(usage: RequestUsage) -> RequestUsage:
    """Return the usage with counts that contain each other: a server's mistake must make no request cheaper."""
    write = max(usage.cache_write_tokens, usage.cache_write_1h_tokens)
    return RequestUsage(
        max(usage.input_tokens, usage.cache_read_tokens + write),
        usage.cache_read_tokens,
        usage.output_tokens,
        write,
        usage.cache_write_1h_tokens,
    )


def checked_prices(prices: Prices | None) -> Prices:
    """Return the prices of an agent.

    Raises:
        UserError: they are not a mapping of names to `ModelPrice`.
    """
    if prices is None:
        return {}
    example = 'write prices={"my-model": ModelPrice(input_per_million=1, output_per_million=4)}.'
    if not isinstance(prices, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError(f"prices={prices!r}: prices are given by the name of the model; {example}")
    for name, price in prices.items():
        if not isinstance(price, ModelPrice):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UserError(f"prices={{{name!r}: {price!r}}}: a price is a ModelPrice; {example}")
    return dict(prices)
