"""A run made by hand: some calls, a world, an answer. No agent, no server."""

from __future__ import annotations

from agentkit.messages import ModelRequest, ModelResponse, TextPart, ToolCallPart, ToolReturnPart, UserPromptPart
from evals.case import Run, RunStatus
from evals.tool_use.executed.task import Task
from evals.tool_use.executed.world import World, world_to_json


def run_of(
    task: Task,
    world: World,
    answer: str | None = None,
    *,
    n_calls: int = 1,
    calls_fail: bool = False,
    status: RunStatus = "completed",
) -> Run:
    text = task.reference.answer if answer is None else answer
    calls = tuple(ToolCallPart("list_tables", "{}") for _ in range(n_calls))
    results = tuple(ToolReturnPart(c.tool_name, c.tool_call_id, "text", is_error=calls_fail) for c in calls)
    turn = (ModelResponse(calls), ModelRequest(results)) if calls else ()
    return Run(
        case_id=task.id,
        status=status,
        messages=(ModelRequest((UserPromptPart(task.prompt),)), *turn, ModelResponse((TextPart(text),))),
        output=text,
        observed=world_to_json(world),
    )
