"""Figures of a served agent in Prometheus's text format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

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

    def text(self) -> bytes:
        """Return all figures."""
        return generate_latest(self._registry)
