"""Figures of a served agent in Prometheus's text format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from agentkit.serving.service import AgentService


class Metrics:
    """Counters of one service in one process."""

    def __init__(self, service: AgentService) -> None:
        """Start at zero, in a registry of its own."""
        self._registry = CollectorRegistry()
        labels = ("path", "method", "status")
        self.requests = Counter("agentkit_requests", "Requests answered.", labels, registry=self._registry)
        running = Gauge("agentkit_runs_running", "Runs that this process performs.", registry=self._registry)
        running.set_function(lambda: service.n_running)
        self._registry.register(SpentCollector(service))

    def text(self) -> bytes:
        """Return all figures."""
        return generate_latest(self._registry)


class SpentCollector(Collector):
    """Requests, tokens and dollars of the runs that this process performed; a run counts when it stops here."""

    def __init__(self, service: AgentService) -> None:
        """Read the figures of `service` whenever they are asked for."""
        self._service = service

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Return the figures as they are now."""
        spent = self._service.spent
        yield CounterMetricFamily("agentkit_model_requests", "Requests to models.", spent.requests)
        tokens = CounterMetricFamily("agentkit_tokens", "Tokens of models.", labels=["kind"])
        tokens.add_metric(["input"], spent.input_tokens)
        tokens.add_metric(["cache_read"], spent.cache_read_tokens)
        tokens.add_metric(["cache_write"], spent.cache_write_tokens)
        tokens.add_metric(["output"], spent.output_tokens)
        yield tokens
        cost = float(spent.known_cost or 0)
        yield CounterMetricFamily("agentkit_cost_dollars", "Cost of the requests whose price is known.", cost)
        n_unpriced = spent.requests - spent.priced_requests
        yield CounterMetricFamily("agentkit_unpriced_model_requests", "Requests without a price.", n_unpriced)
