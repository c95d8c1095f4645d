"""Give an agent and the agents that are its tools one budget: an inner agent that reads without end is stopped."""

from collections.abc import Sequence

from agentkit import Agent, ModelMessage, ModelResponse, TextPart, UsageLimits
from agentkit.models.base import ModelRequestParameters
from agentkit.testing import FunctionModel, ScriptedModel, call


def read_page(number: int) -> str:
    """Read a page of the archive."""
    return f"page {number}: nothing about the roof, see page {number + 1}"


def eager(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
    """Stand for a model that reads on as long as it may call a tool."""
    if parameters.callable_tools:
        return ModelResponse((call("read_page", number=len(messages)),))
    return ModelResponse((TextPart("Not found so far."),))


reader = Agent(FunctionModel(eager), name="reader", tools=[read_page])
writer = Agent(
    ScriptedModel([call("reader", task="What does the roof cost?"), "The archive does not say it."]),
    tools=[reader.as_tool("Reads the archive and answers a question about it.")],
)

result = writer.run_sync("What does the roof cost?", limits=UsageLimits(request_limit=8))
print(result.output, result.usage)
assert result.output == "The archive does not say it."
assert result.usage.requests == 8  # six of the reader, and one of the writer before and after them
