"""Hand a conversation over from the agent that finds out what a customer wants to the agent that can do it."""

from agentkit import Agent
from agentkit.testing import ScriptedModel, call


def refund(order: int) -> str:
    """Refund an order."""
    return f"order {order} is refunded"


refunds = Agent(
    ScriptedModel([call("refund", order=12), "Order 12 is refunded. Sorry for the broken spade."]),
    name="refunds",
    tools=[refund],
    instructions="You handle refunds.",
)
reception = Agent(
    ScriptedModel([call("transfer_to_refunds", task="Refund order 12: the spade broke.")]),
    name="reception",
    handoffs=[refunds],
    instructions="Find out what the customer wants, then hand over.",
)

# It is one run: the second agent continues with the usage, the limits, the journal and the trace of the first.
result = reception.run_sync("My spade from order 12 broke. I want my money back.")
print(f"{result.handed_to}: {result.output}")
assert result.handed_to == "refunds"
assert result.output == "Order 12 is refunded. Sorry for the broken spade."
assert result.usage.requests == 3
