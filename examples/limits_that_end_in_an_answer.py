"""Limit a run: at its limit it ends in an answer from what is known so far, not in an exception."""

from agentkit import Agent, UsageLimits
from agentkit.testing import ScriptedModel, call


def search(words: str) -> str:
    """Search the notes."""
    return f"nothing about {words!r}"


model = ScriptedModel(
    [call("search", words="roof"), call("search", words="greenhouse"), "I found nothing about the roof."]
)
agent = Agent(model, tools=[search], limits=UsageLimits(request_limit=3))
result = agent.run_sync("What does the roof cost?")
print(result.status, "-", result.output)

assert result.status == "limit_reached"
assert result.output == "I found nothing about the roof."
# In the last request that the limit allows no tool can be called, so the model has to answer.
assert [len(request.parameters.callable_tools) for request in model.calls] == [1, 1, 0]
