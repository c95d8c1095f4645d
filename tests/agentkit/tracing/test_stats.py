"""Statistics of traced runs."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from agentkit.events import ModelResponseEvent, RunFinishedEvent, RunStartedEvent, SideRequestEvent
from agentkit.messages import ModelResponse, TextPart
from agentkit.tracing.stats import TraceStats
from agentkit.usage import RequestUsage, RunUsage

RESPONSE = ModelResponse((TextPart("done"),), RequestUsage(input_tokens=10, cache_read_tokens=4, output_tokens=2))


def test_requests_for_plans_and_summaries_count_for_the_model_that_answered_them() -> None:
    stats = TraceStats()
    stats.add(
        [
            RunStartedEvent("run_1", None, "large", ()),
            SideRequestEvent("plan", "large", (), RESPONSE, 0.5),
            ModelResponseEvent(1, RESPONSE, 1.0),
            SideRequestEvent("summary", "small", (), RESPONSE, 0.25),
            RunFinishedEvent("run_1", "completed", "done", RunUsage(3, 0, 30, 12, 6), None, 2.0),
        ]
    )
    large, small = stats.models["large"], stats.models["small"]
    assert (large.n_runs, large.step_seconds, large.input_tokens, large.output_tokens) == (1, [0.5, 1.0], 20, 4)
    assert (small.n_runs, small.step_seconds, small.cached_tokens) == (0, [0.25], 4)
    assert (large.cost, small.cost) == (None, None)


def test_the_cost_of_a_model_is_known_if_that_of_each_request_is() -> None:
    stats = TraceStats()
    paid = replace(RESPONSE, usage=replace(RESPONSE.usage, cost=Decimal("0.1")))
    stats.add(
        [RunStartedEvent("run_1", None, "large", ()), *[ModelResponseEvent(n, paid, 1.0) for n in (1, 2, 3)]]
    )
    assert stats.models["large"].cost == Decimal("0.3")
    stats.add([RunStartedEvent("run_2", None, "large", ()), ModelResponseEvent(1, RESPONSE, 1.0)])
    assert stats.models["large"].cost is None
