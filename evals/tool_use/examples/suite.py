"""Suite `examples`: a file of examples, with the user's own tools and requests or those of `agentkit trace`.

Examples have the format of `modelstack.data.examples`. A reply is correct if its calls are the example's in any
order (`evals.tool_use.natural.scoring`). If the example answers in text or abstains, a reply is correct if it
makes no call; the text is not compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentkit.errors import UserError
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from agentkit.models.base import Model, ModelRequestParameters, ModelSettings
from agentkit.tools.definition import ToolDefinition
from evals.case import Case, Run, Score
from evals.harness.solving import ask_model
from evals.harness.suite import Suite, check_options
from evals.tool_use.natural import scoring
from modelstack import errors
from modelstack.data.examples import Example, Message, read_examples

MAX_TOKENS = 512
GROUPS = {
    "call": "one call",
    "parallel": "several calls",
    "multi": "several calls",
    "irrelevant": "none fits",
    "clarify": "in words",
    "answer": "in words",
}
_OPTIONS = {"file": "the examples, FILE.jsonl or FILE.jsonl.zst"}


def load(options: Mapping[str, str]) -> list[Case]:
    """Return one case per example.

    Raises:
        UserError: no file is named, or it holds an entry that is not an example.
    """
    check_options("examples", options, _OPTIONS)
    if "file" not in options:
        raise UserError("suite 'examples' needs its file: -o file=EXAMPLES.jsonl")
    try:
        return [_case(example) for example in read_examples(Path(options["file"]))]
    except errors.UserError as error:
        raise UserError(str(error)) from error


async def solve(case: Case, model: Model, settings: ModelSettings) -> Run:
    """Make one request that continues the example's earlier turns."""
    tools = tuple(
        ToolDefinition(tool["name"], tool["description"], tool["parameters"]) for tool in case.data["tools"]
    )
    parameters = ModelRequestParameters(
        tools=tools, settings=ModelSettings(max_tokens=MAX_TOKENS).merged(settings)
    )
    messages = conversation([Message(**message) for message in case.data["messages"]])
    run = await ask_model(case, model, parameters, messages=messages)
    return replace(
        run, messages=run.messages[-1:]
    )  # earlier turns and their calls belong to the case, not to the run


def score(case: Case, run: Run) -> Score:
    """Return 1 for exactly the right calls; the numbers also report whether the right tools were called."""
    found = scoring.score(case, run)
    if case.group != "in words":
        return found
    return replace(found, numbers={name: value for name, value in found.numbers.items() if name != "explicit"})


def conversation(turns: Sequence[Message]) -> tuple[ModelMessage, ...]:
    """Convert an example's turns to messages; tool results are assigned to calls in order."""
    messages: list[ModelMessage] = []
    asked: list[ModelRequestPart] = []
    open_calls: list[ToolCallPart] = []
    for n, turn in enumerate(turns):
        match turn.role:
            case "system":
                asked.append(SystemPromptPart(turn.content))
            case "user":
                asked.append(UserPromptPart(turn.content))
            case "tool":
                call = open_calls.pop(0) if open_calls else ToolCallPart(turn.name or "tool", "{}", f"call_{n}")
                asked.append(ToolReturnPart(turn.name or call.tool_name, call.tool_call_id, turn.content))
            case "assistant":
                if asked:
                    messages.append(ModelRequest(tuple(asked)))
                    asked = []
                open_calls = [
                    ToolCallPart(call.name, json.dumps(call.arguments, ensure_ascii=False), f"call_{n}_{k}")
                    for k, call in enumerate(turn.calls)
                ]
                messages.append(ModelResponse(tuple(open_calls) or (TextPart(turn.content),)))
    return (*messages, ModelRequest(tuple(asked)))


def _case(example: Example) -> Case:
    said = [message.content for message in example.messages if message.role == "user"]
    data: dict[str, Any] = {
        "tools": [tool.model_dump() for tool in example.tools],
        "messages": [message.model_dump() for message in example.messages],
        "allow": {},
    }
    calls = [call.model_dump() for call in example.calls]
    return Case(example.id, said[-1] if said else "", GROUPS[example.kind], calls, data)


SUITE = Suite(
    name="examples",
    version=1,
    description="your own tools and requests, from a file of examples as `agentkit trace export-dataset` makes",
    load=load,
    solve=solve,
    score=score,
    options=_OPTIONS,
)
