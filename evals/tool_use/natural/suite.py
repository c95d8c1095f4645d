"""Suite `natural`: one request per case, its calls compared with the gold calls.

For validation, not for testing.
"""

from __future__ import annotations

from collections.abc import Mapping

from agentkit.messages import ModelMessage, ModelRequest, SystemPromptPart, UserPromptPart
from agentkit.models.base import Model, ModelRequestParameters, ModelSettings
from agentkit.tools.definition import ToolDefinition
from evals.case import Case, Run
from evals.harness.solving import ask_model
from evals.harness.suite import Suite, check_options, choice_of
from evals.tool_use.natural.requests import NaturalRequest, half_of, natural_requests
from evals.tool_use.natural.scoring import score

OPTIONS = {"half": "validation (for choosing and fitting), report, or all"}
MAX_TOKENS = 256
STOP_OF_TEXT = (" ", "\n")
"""A text answer is never a call, so its first word suffices; in-process models look for stop strings only in
text."""


def load(options: Mapping[str, str]) -> list[Case]:
    """Return all requests, or those of one half.

    Raises:
        UserError: an option or its value is not known.
    """
    check_options("natural", options, OPTIONS)
    half = choice_of("natural", options, "half", ("all", "validation", "report"))
    return [_case(request) for request in natural_requests() if half in ("all", half_of(request))]


async def solve(case: Case, model: Model, settings: ModelSettings) -> Run:
    """Make one request with the case's tools, after a system prompt with the date if the case has one."""
    defaults = ModelSettings(max_tokens=MAX_TOKENS, stop=STOP_OF_TEXT if model.profile.grammar else ())
    tools = tuple(ToolDefinition(t["name"], t["description"], t["parameters"]) for t in case.data["tools"])
    parameters = ModelRequestParameters(tools=tools, settings=defaults.merged(settings))
    return await ask_model(case, model, parameters, messages=(_opening(case),))


def _opening(case: Case) -> ModelMessage:
    system = [SystemPromptPart(case.data["system"])] if case.data["system"] else []
    return ModelRequest((*system, UserPromptPart(case.prompt)))


def _case(request: NaturalRequest) -> Case:
    group = {0: "none fits", 1: "one call"}.get(len(request.calls), "several calls")
    data = {
        "tools": [dict(tool) for tool in request.tools],
        "system": request.system,
        "allow": dict(request.allow),
        "kit": request.kit,
    }
    return Case(request.id, request.request, group, [dict(call) for call in request.calls], data)


SUITE = Suite(
    name="natural",
    version=1,
    description="requests as people write them, over unseen tools: implied values, several calls, near-misses",
    load=load,
    solve=solve,
    score=score,
    options=OPTIONS,
)
