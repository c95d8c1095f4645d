"""Decide the steps of a task in code; the model fills in the arguments of each step's tool and answers."""

from agentkit import Agent, PlanTemplate
from agentkit.planning import TemplateStep
from agentkit.testing import ScriptedModel, call


def find_train(to: str) -> str:
    """Find a train."""
    return "08:12, platform 3"


def add_to_todo(text: str) -> str:
    """Add a line to the list of things to do."""
    return f"added: {text}"


plan = PlanTemplate(
    [
        TemplateStep("Find the train for: {task}", tool="find_train"),
        TemplateStep("Note when it leaves.", tool="add_to_todo"),
    ]
)
model = ScriptedModel(
    [
        call("find_train", to="Lindau"),
        call("add_to_todo", text="train at 08:12"),
        "It leaves at 08:12.",
    ]
)
result = Agent(model, tools=[find_train, add_to_todo], planner=plan).run_sync("I want to go to Lindau.")
print(result.output)

# A model whose calls follow a grammar cannot write another call in a step than the one that the step names.
allowed = [[tool.name for tool in request.parameters.callable_tools] for request in model.calls]
assert allowed == [["find_train"], ["add_to_todo"], []]
assert result.output == "It leaves at 08:12."
