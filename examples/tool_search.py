"""Give an agent hundreds of tools and show its model only those that it needs."""

from agentkit import Agent, FunctionToolset, Tool, ToolSearch, UserPromptPart, function_tool
from agentkit.testing import ScriptedModel, call


def forecast(city: str) -> str:
    """Weather of the next days in a city."""
    return f"sunny in {city}"


def book_room(hotel: str, nights: int) -> str:
    """Reserve a room in a hotel."""
    return f"{nights} nights at {hotel} are booked"


def sensor(number: int) -> Tool:
    """Return one of the many tools that this conversation does not need."""

    def read() -> float:
        return 20.5

    return function_tool(
        read, name=f"read_sensor_{number}", description=f"Read thermometer {number} of the plant."
    )


tools = FunctionToolset([forecast, book_room, *(sensor(number) for number in range(500))], id="travel")
search = ToolSearch(tools, top=1, embedder=None)  # words alone; the default also searches by meaning

model = ScriptedModel(
    [
        call("forecast", city="Bern"),
        call("search_tools", query="reserve a hotel"),
        call("book_room", hotel="Alpina", nights=2),
        "It is sunny, and your room is booked.",
    ]
)
agent = Agent(model, toolsets=[search])
result = agent.run_sync("What will the weather in Bern be? If it is good, get me a bed there.")
print(result.output)
offered = [[tool.name for tool in request.parameters.callable_tools] for request in model.calls]
for names in offered:
    print(names)

prompt = result.messages[0].parts[0]
assert isinstance(prompt, UserPromptPart) and prompt.text.endswith(
    "forecast(city:string) - Weather of the next days in a city."
)
assert offered[0] == ["search_tools", "forecast"]  # found for the prompt
assert offered[-1] == ["search_tools", "forecast", "book_room"]  # found by the model
