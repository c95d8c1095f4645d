"""Limit a run in money: given prices, costs of cached tokens, and an answer at the limit."""

from collections.abc import Sequence

from agentkit import Agent, ModelMessage, ModelPrice, ModelResponse, RequestUsage, UsageLimits
from agentkit.messages import TextPart
from agentkit.models.base import ModelRequestParameters
from agentkit.testing import FunctionModel, call


def search(page: int) -> str:
    """Search a page of the archive."""
    return f"nothing on page {page}"


def reply(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
    """Search page after page, as long as tools may be called; the server caches the beginning of the prompt."""
    n = len(messages) // 2
    usage = RequestUsage(input_tokens=10_000 + 1_000 * n, cache_read_tokens=10_000 * min(n, 1), output_tokens=100)
    part = call("search", page=n + 1) if parameters.callable_tools else TextPart(f"I searched {n} pages.")
    return ModelResponse((part,), usage, "archivist")


price = ModelPrice(input_per_million=2.50, output_per_million=10, cache_read_per_million=0.25)
agent = Agent(
    FunctionModel(reply, name="archivist"),
    tools=[search],
    prices={"archivist": price},
    limits=UsageLimits(cost_limit=0.04),
)
result = agent.run_sync("Where is the deed?")
print(result.status, "-", result.output)
print(f"${result.usage.cost} for {result.usage.requests} requests")

# The limit was reached by the third request; the fourth is the answer.
assert (result.status, result.output) == ("limit_reached", "I searched 3 pages.")
assert str(result.usage.cost) == "0.0515"
