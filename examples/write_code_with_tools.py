"""Let the model write Python that calls the tools: a loop over many calls is one reply, not many."""

from agentkit import Agent, CodeMode
from agentkit.testing import ScriptedModel, call

STOCK = {"spade": 14, "seed box": 0, "lantern": 5, "bird house": 3}


def products() -> list[str]:
    """Return the names of all products."""
    return list(STOCK)


def pieces_in_stock(product: str) -> int:
    """Return how many pieces of a product are in stock."""
    return STOCK[product]


CODE = """
[name for name in products() if pieces_in_stock(name) < 5]
"""
# The code runs in a sandbox (extra `code`) that has no files and no network: it can only call the tools.
agent = Agent(
    ScriptedModel([call("run_python", code=CODE), "Order seed boxes and bird houses."]),
    tools=[products, pieces_in_stock],
    code_mode=CodeMode(),
)
result = agent.run_sync("What must we order?")
print(result.output)
assert result.usage.requests == 2
assert result.usage.tool_calls == 6  # the code, `products` and four times `pieces_in_stock`
