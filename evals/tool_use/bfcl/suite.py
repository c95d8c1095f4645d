"""Suite `bfcl`: BFCL v4's single-turn categories, one request per question, calls compared with the key.

The model sees the functions as tools, like the leaderboard's "FC" (native function calling) models. The
leaderboard's prompt for models without tools is not used. Multi-turn is the suite `bfcl-multi-turn`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    UserPromptPart,
)
from agentkit.models.base import Model, ModelRequestParameters, ModelSettings
from agentkit.tools.definition import ToolDefinition
from evals.case import Case, Run
from evals.harness.solving import ask_model
from evals.harness.suite import Suite, check_options, choice_of
from evals.tool_use.bfcl.data import Question, data_folder, load_questions, parse_categories
from evals.tool_use.bfcl.function_docs import told_tools
from evals.tool_use.bfcl.scoring import score
from evals.tool_use.bfcl.tables import tables
from evals.tool_use.bfcl.variants import with_random_names, without_right_function

DEFAULT_CATEGORIES = "simple_python,multiple,parallel,irrelevance"
MAX_TOKENS = 512
"""Maximum tokens of one reply, unless the settings say otherwise; the longest key takes about 300."""
STOP_OF_TEXT = (" ", "\n")
"""Stop strings of text answers: the first word suffices, because a text answer is never a call. In-process models
look for stop strings only in text answers, not in calls."""
ToolChoice = Literal["auto", "required"]
_OPTIONS = {
    "data": "folder with BFCL's data files, or the bfcl-eval wheel; default: the wheel, fetched once",
    "categories": f"categories or groups (all, non_live, live, simple), by comma; default {DEFAULT_CATEGORIES}",
    "tool_choice": "auto, or required: the model must call something; default auto",
    "dots": "keep, or underscore for servers that refuse dots in function names; default keep",
    "names": "keep, or random: functions and parameters have random names, descriptions stay; default keep",
    "gold": "keep, or removed: the right functions are removed; questions without others dropped; default keep",
}


def load(options: Mapping[str, str]) -> list[Case]:
    """Return the cases of the chosen categories.

    Raises:
        UserError: an option or a category is not known, or a file is missing or malformed.
    """
    check_options("bfcl", options, _OPTIONS)
    tool_choice = choice_of("bfcl", options, "tool_choice", ("auto", "required"))
    underscores = choice_of("bfcl", options, "dots", ("keep", "underscore")) == "underscore"
    has_random_names = choice_of("bfcl", options, "names", ("keep", "random")) == "random"
    is_removed = choice_of("bfcl", options, "gold", ("keep", "removed")) == "removed"
    categories = parse_categories(options.get("categories", DEFAULT_CATEGORIES))
    folder = data_folder(options.get("data"))
    found: list[Question] = [question for category in categories for question in load_questions(folder, category)]
    if is_removed:
        found = [left for question in found if (left := without_right_function(question)) is not None]
    if has_random_names:
        found = [with_random_names(question) for question in found]
    return [_case(question, tool_choice, underscores=underscores) for question in found]


async def solve(case: Case, model: Model, settings: ModelSettings) -> Run:
    """Make one request with the case's conversation and tools."""
    defaults = ModelSettings(max_tokens=MAX_TOKENS, stop=STOP_OF_TEXT if model.profile.grammar else ())
    parameters = ModelRequestParameters(
        tools=tuple(
            ToolDefinition(tool["name"], tool["description"], tool["parameters"]) for tool in case.data["tools"]
        ),
        tool_choice=settings.tool_choice or case.data["tool_choice"],
        settings=defaults.merged(settings),
    )
    return await ask_model(case, model, parameters, messages=conversation(case.data["messages"]))


def conversation(messages: Sequence[Mapping[str, str]]) -> tuple[ModelMessage, ...]:
    """Convert BFCL's messages; consecutive system and user messages form one request."""
    said: list[ModelMessage] = []
    for is_reply, group in groupby(messages, key=lambda message: message["role"] == "assistant"):
        if is_reply:
            said.append(ModelResponse(tuple(TextPart(message["content"]) for message in group)))
        else:
            said.append(ModelRequest(tuple(_request_part(message) for message in group)))
    return tuple(said)


def _request_part(message: Mapping[str, str]) -> ModelRequestPart:
    if message["role"] == "system":
        return SystemPromptPart(message["content"])
    return UserPromptPart(message["content"])


def _case(question: Question, tool_choice: str, *, underscores: bool) -> Case:
    tools = [
        {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
        for tool in told_tools(question, underscores=underscores)
    ]
    data: dict[str, Any] = {
        "functions": list(question.functions),
        "tools": tools,
        "messages": [dict(message) for message in question.messages],
        "tool_choice": tool_choice,
        "underscores": underscores,
    }
    return Case(
        id=question.id,
        prompt=question.messages[-1]["content"],
        group=question.category,
        target=question.answer,
        data=data,
    )


SUITE = Suite(
    name="bfcl",
    version=1,
    description="Berkeley Function-Calling Leaderboard v4, single turn: calls compared with the answer key",
    load=load,
    solve=solve,
    score=score,
    options=_OPTIONS,
    tables=tables,
)
