"""Rules for retrying a failed request, and the wait before a retry.

Full jitter: a uniform draw between zero and an exponentially growing bound, which spreads clients that failed
together (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015). The server's `Retry-After`
(RFC 9110 section 10.2.3) or `retry-after-ms` (OpenAI, Azure) is a lower bound, itself capped.
"""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import anyio

from agentkit.errors import ModelConnectionError, ModelError, ModelHTTPError

RETRIED_STATUSES = frozenset({408, 409, 425, 429})
"""Timeout, lock conflict, too early, rate limit: the statuses below 500 that waiting may resolve."""

_NUMBER = re.compile(r"\d{1,9}(\.\d{1,9})?")


def is_transient(status_code: int) -> bool:
    """Return whether the same request may succeed later."""
    return status_code in RETRIED_STATUSES or status_code >= 500


def worth_retrying(error: ModelError) -> bool:
    """Return whether to retry at the same server: after broken connections and transient statuses.

    A passed deadline is not retried, nor is an exhausted quota (OpenAI's 429 `insufficient_quota`), which waiting
    does not restore.
    """
    if isinstance(error, ModelHTTPError):
        return is_transient(error.status_code) and "insufficient_quota" not in error.body
    return isinstance(error, ModelConnectionError)


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds that the server asks to wait; None if it states no readable value.

    `headers` is looked up with lower-case names; `now` must be aware of its time zone.
    """
    milliseconds = headers.get("retry-after-ms", "").strip()
    if _NUMBER.fullmatch(milliseconds):
        return float(milliseconds) / 1000
    value = headers.get("retry-after", "").strip()
    if _NUMBER.fullmatch(value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - now).total_seconds())


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between attempts; randomness, clock and sleep can be replaced."""

    base_s: float = 0.5
    """Bound of the first wait in seconds; it doubles with each further one."""
    cap_s: float = 8.0
    """Bound in seconds of any wait that the server did not ask for."""
    retry_after_cap_s: float = 60.0
    """Maximum seconds of a wait that a server asks for; a longer one is cut to this."""
    rng: random.Random = field(default_factory=random.Random, repr=False)
    now: Callable[[], datetime] = field(default=_utc_now, repr=False)
    sleep: Callable[[float], Awaitable[None]] = field(default=anyio.sleep, repr=False)

    def delay_s(self, n_failed: int, retry_after_s: float | None) -> float:
        """Return the wait after `n_failed` attempts (1 or more), not below what the server asked for."""
        bound_s = min(self.cap_s, self.base_s * 2.0 ** min(n_failed - 1, 30))
        return max(self.rng.uniform(0.0, bound_s), min(retry_after_s or 0.0, self.retry_after_cap_s))
