"""Figures of a running server in Prometheus's text format."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from modelstack.inference.server.turns import ServedReply

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0)
_SECONDS_A_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Metrics:
    """Counters and histograms of one server."""

    def __init__(self) -> None:
        """Start at zero, in a registry of its own."""
        self._registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests by path and status.", "path", "status")
        self.asked = Gauge("modelstack_replies_open", "Replies that run or wait.", registry=self._registry)
        self._prompt = self._counter("prompt_tokens", "Tokens of prompts.")
        self._cached = self._counter("cached_tokens", "Tokens of prompts found in the cache.")
        self._written = self._counter("reply_tokens", "Tokens of replies.")
        self._drafted = self._counter("drafted_tokens", "Draft tokens that were evaluated.")
        self._accepted = self._counter("accepted_tokens", "Draft tokens that became part of a reply.")
        about = "From the start of a reply to its first token."
        self._first = self._histogram("first_token_seconds", about, _SECONDS)
        self._per_token = self._histogram(
            "token_seconds", "Mean time of a token after the first.", _SECONDS_A_TOKEN
        )

    def reply(self, reply: ServedReply) -> None:
        """Count a finished reply."""
        self._prompt.inc(reply.n_prompt)
        self._cached.inc(reply.n_cached)
        self._written.inc(reply.n_written)
        self._drafted.inc(reply.n_drafted)
        self._accepted.inc(reply.n_accepted)
        if reply.n_written:
            self._first.observe(reply.first_token_s)
        if reply.n_written > 1:
            self._per_token.observe(reply.decode_s / (reply.n_written - 1))

    def text(self) -> bytes:
        """Return all figures."""
        return generate_latest(self._registry)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"modelstack_{name}", about, labels, registry=self._registry)

    def _histogram(self, name: str, about: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"modelstack_{name}", about, registry=self._registry, buckets=buckets)
