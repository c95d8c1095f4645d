"""Demonstrations made from the user's own solutions, and from calls that went well.

A result of a tool never becomes part of a demonstration. Arguments that a model wrote may repeat such a result, so
a text of theirs is kept only if the user's prompt contains it; otherwise a placeholder takes its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

from pydantic import ValidationError

from agentkit.improve.pieces import DemonstratedCall, Demonstration, Source, visible_text
from agentkit.improve.rollout import Rollout, RolloutCall
from agentkit.improve.tasks import Task
from agentkit.tools.definition import ToolDefinition

_WORD = re.compile(r"\w+")
_MAX_LEVELS = 8


def demonstration_of(
    task: Task, tools: Sequence[ToolDefinition], rollouts: Sequence[Rollout] = ()
) -> Demonstration | None:
    """Return the demonstration of a task: its solution, else the calls of a rollout that was right; or None."""
    if task.solution:
        calls = [DemonstratedCall(name=call.name, arguments=call.arguments) for call in task.solution]
        return _demonstration(task.prompt, calls, "task")
    for rollout in rollouts:
        if rollout.score >= 1.0 and rollout.calls:
            return traced_demonstration(task.prompt, rollout.calls, tools, "task")
    return None


def traced_demonstration(
    prompt: str, calls: Iterable[RolloutCall], tools: Sequence[ToolDefinition], source: Source = "trace"
) -> Demonstration | None:
    """Return a demonstration of calls that a model made; None without a successful call of a known tool.

    Args:
        prompt: Prompt of a task or of a traced run.
        calls: Calls of the model, with their outcomes.
        tools: The agent's tools; names of other tools and parameters are left out.
        source: Author of the prompt.
    """
    shown: list[DemonstratedCall] = []
    parameters = {tool.name: parameters_of(tool) for tool in tools}
    for call in calls:
        if call.outcome != "success" or call.name not in parameters:
            continue
        try:
            arguments: Any = json.loads(call.arguments or "{}")
        except (ValueError, RecursionError):
            return None
        if not isinstance(arguments, dict):
            return None
        kept = {
            name: value
            for name, value in cast("dict[str, Any]", arguments).items()
            if name in parameters[call.name]
        }
        shown.append(
            DemonstratedCall(
                name=call.name, arguments={name: _said(value, name, prompt, 0) for name, value in kept.items()}
            )
        )
    return _demonstration(prompt, shown, source)


def parameters_of(tool: ToolDefinition) -> frozenset[str]:
    """Return the names of a tool's parameters."""
    found: Any = tool.parameters_json_schema.get("properties")
    return frozenset(cast("dict[str, Any]", found)) if isinstance(found, dict) else frozenset()


def similarity(one: str, other: str) -> float:
    """Return the share of words that two texts have in common (Jaccard)."""
    a, b = set(_WORD.findall(one.casefold())), set(_WORD.findall(other.casefold()))
    return len(a & b) / len(a | b) if a or b else 0.0


def _demonstration(prompt: str, calls: Sequence[DemonstratedCall], source: Source) -> Demonstration | None:
    """Return a demonstration; None if it is too long, or has no calls."""
    try:
        return Demonstration(prompt=visible_text(prompt), calls=tuple(calls), source=source)
    except ValidationError:
        return None


def _said(value: Any, name: str, prompt: str, level: int) -> Any:
    """Return a value with a placeholder for each text that the prompt does not contain."""
    if level > _MAX_LEVELS:
        return f"<{name}>"
    if isinstance(value, str):
        return value if value and value.casefold() in prompt.casefold() else f"<{name}>"
    if isinstance(value, list):
        return [_said(each, name, prompt, level + 1) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        return f"<{name}>"  # its keys may be anything
    return value
