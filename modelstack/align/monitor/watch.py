"""The monitor of one reply: judges the request at the end of the prompt, then each token that is written.

A watch is shown the states of accepted tokens only: a draft token that the reply did not take never reaches it, so
nothing has to be undone.

Letters: L layers, D width of the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modelstack.align.monitor.probe import REPLY, REQUEST, Probe

MIN_TOKENS = 4
"""Number of tokens of a reply before it can be stopped: fewer are mostly a greeting or a refusal's beginning."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Decision to stop a reply."""

    what: Literal["request", "reply"]
    """Text that was judged unsafe."""
    log_odds: float
    n_tokens: int
    """Number of tokens of the reply that were written."""

    @property
    def probability(self) -> float:
        """Probability of `unsafe`."""
        return 1 / (1 + math.exp(-self.log_odds))


@dataclass(slots=True)
class Watch:
    """State of the monitor of one reply; a `StateWatch`."""

    probe: Probe
    request_threshold: float = math.inf
    """Least log-odds of a request that stops the reply before its first token; inf: never."""
    reply_threshold: float = math.inf
    """Least smoothed log-odds of a token that stops the reply; inf: never."""
    request_log_odds: float | None = None
    """Log-odds of the request; None before the prompt is evaluated."""
    reply_log_odds: float = -math.inf
    """Largest smoothed log-odds so far."""
    stop: Stop | None = None
    _mean: float = 0.0
    _n_tokens: int = 0

    def __call__(self, states_LD: NDArray[np.float32], written: Sequence[int]) -> bool:
        """Judge the next token; return whether the reply may continue."""
        if not written:
            self._mean, self._n_tokens = 0.0, 0  # a reply may be drawn again, or follow a thought
            if self.request_log_odds is None:
                self.request_log_odds = self.probe.request.log_odds(states_LD)
                if self.request_log_odds >= self.request_threshold:
                    self.stop = Stop("request", self.request_log_odds, 0)
            return self.stop is None
        smoothed = self._smoothed(self.probe.reply.log_odds(states_LD))
        if self._n_tokens >= MIN_TOKENS and smoothed > self.reply_log_odds:
            self.reply_log_odds = smoothed
            if smoothed >= self.reply_threshold:
                self.stop = Stop("reply", smoothed, len(written))
        return self.stop is None

    def _smoothed(self, log_odds: float) -> float:
        """Return the exponential mean so far, corrected for its start at 0."""
        rate = 2 / (self.probe.window + 1)
        self._n_tokens += 1
        self._mean += rate * (log_odds - self._mean)
        return self._mean / (1 - (1 - rate) ** self._n_tokens)


DEFAULT_REQUEST_POINT, DEFAULT_REPLY_POINT = "fpr_0.5", "fpr_0.1"
"""Operating points of a server's monitor, as of `agentkit.models.local.monitor`."""


def new_watch(probe: Probe, judges_request: bool) -> Watch:
    """Return a watch at the default points; a prompt whose last words are not the user's is not judged."""
    return watch_at(probe, DEFAULT_REQUEST_POINT if judges_request else None, DEFAULT_REPLY_POINT)


def watch_at(probe: Probe, request_point: str | None, reply_point: str | None) -> Watch:
    """Return the watch of one reply; None in place of an operating point disables a check.

    Raises:
        UserError: The probe has no such operating point.
    """
    return Watch(
        probe,
        math.inf if request_point is None else probe.threshold(REQUEST, request_point),
        math.inf if reply_point is None else probe.threshold(REPLY, reply_point),
    )
