"""Ask a small model first, and a larger one where the small one is not sure of its tool choice."""

from dataclasses import replace

from agentkit import Agent, FallbackModel
from agentkit.testing import ScriptedModel, call


def open_door(room: str) -> str:
    """Open a door."""
    return f"{room} is open"


def lock_door(room: str) -> str:
    """Lock a door."""
    return f"{room} is locked"


# A model in this process reports the probability of every tool choice; the scripts state one.
unsure = replace(call("open_door", room="cellar"), probability=0.41)
sure = replace(call("lock_door", room="cellar"), probability=0.97)
small = ScriptedModel([unsure, "The cellar is locked."], name="small")
large = ScriptedModel([sure], name="large")

agent = Agent(FallbackModel(small, large, min_confidence=0.8), tools=[open_door, lock_door])
result = agent.run_sync("See to the cellar door, it is late.")
print(result.output)

# The small model's call never ran. The answer, after the result, came from the small model again.
assert result.output == "The cellar is locked."
assert (len(small.calls), len(large.calls)) == (2, 1)
assert result.usage.tool_calls == 1
