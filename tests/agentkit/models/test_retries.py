"""When a request is sent again and after which wait."""

from __future__ import annotations

import random
from datetime import timedelta
from email.utils import format_datetime

import pytest
from chat_server import NOW
from hypothesis import given
from hypothesis import strategies as st

from agentkit.errors import (
    ContextWindowExceeded,
    ModelConnectionError,
    ModelError,
    ModelHTTPError,
    ModelTimeout,
    UnexpectedModelBehavior,
)
from agentkit.models.retries import Backoff, retry_after_s, worth_retrying


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": " 0.25 "}, 0.25),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=42), usegmt=True)}, 42.0),
        ({"retry-after": "Wed, 25 Nov 2026 12:00:42 -0000"}, 42.0),
        ({"retry-after": format_datetime(NOW - timedelta(days=1), usegmt=True)}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "Wed, 25 Nov 2026 12:00:42 +99999999999999"}, None),
    ],
)
def test_reads_what_the_server_asks_to_wait(headers: dict[str, str], wait_s: float | None) -> None:
    assert retry_after_s(headers, NOW) == wait_s


@given(st.text(max_size=40))
def test_no_retry_after_value_raises(value: str) -> None:
    wait_s = retry_after_s({"retry-after": value, "retry-after-ms": value}, NOW)
    assert wait_s is None or wait_s >= 0


@given(n_failed=st.integers(1, 10_000), asked_s=st.none() | st.floats(0, 1e9), seed=st.integers())
def test_waits_lie_between_what_was_asked_and_the_caps(n_failed: int, asked_s: float | None, seed: int) -> None:
    backoff = Backoff(base_s=0.5, cap_s=8.0, retry_after_cap_s=60.0, rng=random.Random(seed))
    wait_s = backoff.delay_s(n_failed, asked_s)
    assert min(asked_s or 0.0, 60.0) <= wait_s <= max(8.0, min(asked_s or 0.0, 60.0))


def test_the_bound_of_the_jitter_doubles_up_to_its_cap() -> None:
    class Highest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    backoff = Backoff(base_s=0.5, cap_s=3.0, rng=Highest())
    assert [backoff.delay_s(n, None) for n in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize(
    ("error", "again"),
    [
        *[(ModelHTTPError("", status_code=status), True) for status in (408, 409, 425, 429, 500, 502, 503, 529)],
        *[(ModelHTTPError("", status_code=status), False) for status in (200, 301, 400, 401, 403, 404, 422)],
        (ModelHTTPError("", status_code=429, body='{"error":{"code":"insufficient_quota"}}'), False),
        (ModelConnectionError(), True),
        (ModelTimeout(), False),
        (ContextWindowExceeded(), False),
        (UnexpectedModelBehavior(), False),
    ],
    ids=lambda value: getattr(value, "status_code", None) or type(value).__name__,
)
def test_only_transient_failures_are_tried_again(error: ModelError, again: bool) -> None:
    assert worth_retrying(error) is again
