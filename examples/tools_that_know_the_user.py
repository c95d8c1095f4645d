"""Give tools the application's own objects: here the signed-in user, whom the model neither sees nor chooses."""

from dataclasses import dataclass

from agentkit import Agent, RunContext
from agentkit.testing import ScriptedModel, call


@dataclass
class User:
    """The signed-in user."""

    name: str
    orders: dict[int, str]


def order_status(context: RunContext[User], order: int) -> str:
    """Return the status of one of the user's orders, by its number."""
    return context.deps.orders.get(order, "unknown order")


model = ScriptedModel([call("order_status", order=7), "Your lantern is on its way."])
agent = Agent(model, tools=[order_status], deps_type=User)
result = agent.run_sync("Where is order 7?", deps=User("Dana", orders={7: "lantern, sent on 21 November"}))
print(result.output)

# The first parameter is not part of the schema that the model reads.
[sent] = model.calls[0].parameters.tools
assert list(sent.parameters_json_schema["properties"]) == ["order"]
assert result.output == "Your lantern is on its way."
