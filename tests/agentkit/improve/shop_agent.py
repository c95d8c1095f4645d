"""An agent whose model does what its prompt shows: it looks in the demonstrated table, else in a wrong one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from agentkit import Agent, ModelMessage, ModelResponse, TextPart, ToolCallPart, tool
from agentkit.improve import Call, Checks, Pieces, Rule, Task
from agentkit.messages import ModelRequest, SystemPromptPart, ToolReturnPart
from agentkit.models.base import Model, ModelRequestParameters
from agentkit.testing import FunctionModel
from agentkit.usage import RequestUsage

PRICES = {f"item {i}": 1_000 + 7 * i for i in range(60)}
_TABLE = re.compile(r'table="(\w+)"')
WORSE = Pieces(rules=(Rule(text="Answer from memory.", source="template"),))


@tool
def lookup(table: str, key: str) -> str:
    """Return the value of a key in a table."""
    return str(PRICES[key]) if table == "produce_v2" and key in PRICES else f"no {key} in {table}"


@tool
def remove(key: str) -> str:
    """Remove an item."""
    return f"removed {key}"


def system_text(messages: Sequence[ModelMessage]) -> str:
    first = messages[0]
    assert isinstance(first, ModelRequest)
    return "\n".join(part.content for part in first.parts if isinstance(part, SystemPromptPart))


def follow_the_prompt(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
    system, last = system_text(messages), messages[-1]
    usage = RequestUsage(input_tokens=100 + len(system) // 20, output_tokens=10)
    assert isinstance(last, ModelRequest)
    part = last.parts[-1]
    if isinstance(part, ToolReturnPart):
        return ModelResponse((TextPart(f"It costs {part.text}."),), usage)
    if "Answer from memory" in system:
        return ModelResponse((TextPart("It costs 5."),), usage)
    shown = _TABLE.findall(system)
    key = re.search(r"item \d+", part.text)
    arguments = {"table": shown[-1] if shown else "main", "key": key.group() if key else ""}
    name = "remove" if "Remove first" in system else "lookup"
    given = arguments if name == "lookup" else {"key": arguments["key"]}
    return ModelResponse((ToolCallPart(name, json.dumps(given)),), usage)


def shop_agent(model: Model | None = None) -> Agent[None, str]:
    return Agent(
        model or FunctionModel(follow_the_prompt, name="follower"),
        name="shop",
        tools=[lookup, remove],
        instructions="You answer questions about a shop.",
    )


def shop_tasks(n: int = 40) -> list[Task]:
    return [
        Task(
            id=f"price-{i}",
            prompt=f"What does item {i} cost?",
            checks=Checks(answer_number=PRICES[f"item {i}"], forbidden_calls=("remove",)),
            solution=(Call(name="lookup", arguments={"table": "produce_v2", "key": f"item {i}"}),),
        )
        for i in range(n)
    ]
