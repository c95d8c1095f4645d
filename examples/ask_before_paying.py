"""Ask a person before a tool spends money: the run stops, and continues with the decision."""

from agentkit import Agent, tool
from agentkit.testing import ScriptedModel, call

paid: list[str] = []


@tool(requires_approval=True)
def pay(to: str, euros: int) -> str:
    """Pay an amount to somebody."""
    paid.append(f"{to}: {euros} euros")
    return "paid"


# The script stands for a model; with `Agent("local", ...)` the rest of the program is the same.
model = ScriptedModel([call("pay", to="Pension Seeblick", euros=252), "The hotel is paid."])
agent = Agent(model, tools=[pay])

stopped = agent.run_sync("Pay the hotel, 3 nights at 84 euros.")
[question] = stopped.pending
print(f"May I call {question.tool_name} with {question.arguments}?")
assert stopped.status == "needs_approval"
assert paid == []

# `question.deny("too expensive")` would tell the model the reason instead.
result = agent.resume_sync(stopped.state, [question.approve()])
print(result.output)
assert result.output == "The hotel is paid."
assert paid == ["Pension Seeblick: 252 euros"]
