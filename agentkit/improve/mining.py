"""Rules and descriptions mined from failures, without a model: sentences of this package, filled with names.

Filled in are names of the agent's tools and parameters, and prompts of the user's tasks. Texts of results and
errors are never used: whoever writes a file that an agent reads would otherwise write its instructions.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, cast

from agentkit.improve.demonstrating import parameters_of
from agentkit.improve.pieces import visible_text
from agentkit.improve.rollout import Rollout
from agentkit.improve.tasks import Task
from agentkit.tools.definition import ToolDefinition

Attempt = tuple[Task, Rollout]
"""A task and what came of it."""

_MAX_PROMPT_CHARS = 160
_MAX_NAMED_TOOLS = 12


def mined_rules(attempts: Sequence[Attempt], tools: Sequence[ToolDefinition]) -> list[str]:
    """Return rules that the failures among the attempts suggest, the most frequent first."""
    counts: Counter[str] = Counter()
    for task, rollout in attempts:
        if rollout.score < 1.0:
            counts.update(dict.fromkeys(_rules_of(task, rollout, tools), 1))
    return [rule for rule, _ in counts.most_common()]


def mined_descriptions(attempts: Sequence[Attempt], tools: Sequence[ToolDefinition]) -> list[tuple[str, str]]:
    """Return (tool, sentence to add to its description) that the failures suggest, the most frequent first."""
    counts: Counter[tuple[str, str]] = Counter()
    known = {tool.name: tool for tool in tools}
    for task, rollout in attempts:
        if rollout.score >= 1.0:
            continue
        counts.update({(name, text): 1 for name, text in _sentences_of(task, rollout) if name in known})
    return [each for each, _ in counts.most_common()]


def _rules_of(task: Task, rollout: Rollout, tools: Sequence[ToolDefinition]) -> Iterator[str]:
    known = {tool.name for tool in tools}
    called = [call.name for call in rollout.calls]
    needed = [name for name in _needed(task) if name in known]
    for name in sorted(set(task.checks.forbidden_calls) & set(called) & known):
        yield f"Never call {name}."
    if needed and not called:
        yield "Call a tool before you answer; never answer from memory."
    if rollout.status in ("abstained", "refused") and task.checks.status == "completed":
        yield "Requests about the data of the tools are in scope: call the tool that fits, and do not decline."
    if any(name not in known for name in called):
        yield f"Call only these tools: {', '.join(sorted(known)[:_MAX_NAMED_TOOLS])}."
    failed = Counter((call.name, call.arguments) for call in rollout.calls if call.outcome != "success")
    if any(n > 1 for n in failed.values()):
        yield "If a call fails, change its arguments as the error says; never repeat it unchanged."
    if rollout.status == "limit_reached":
        yield "Stop calling tools as soon as a result holds the answer."
    if rollout.status == "truncated":
        yield "Answer in one or two sentences."
    for first, second in zip(needed, needed[1:], strict=False):
        if first != second and second in called and first not in called[: called.index(second)]:
            yield f"Call {first} before {second}."
    if needed and called and needed[0] not in called:
        yield f'For requests such as "{_shown(task.prompt)}", call {needed[0]} first.'
    succeeded = {call.name for call in rollout.calls if call.outcome == "success"}
    if needed and set(needed) <= succeeded and _has_answer(task):
        yield "End with an answer in words that states what was asked for, exactly as the tool returned it."
    yield from _argument_rules(task, rollout, tools)


def _argument_rules(task: Task, rollout: Rollout, tools: Sequence[ToolDefinition]) -> Iterator[str]:
    """Yield rules about arguments that differ in kind from those of the task's solution."""
    parameters = {tool.name: parameters_of(tool) for tool in tools}
    for wanted in task.solution:
        made = [_keys(call.arguments) for call in rollout.calls if call.name == wanted.name]
        if not made:
            continue
        missing = [name for name in wanted.arguments if all(name not in keys for keys in made)]
        if missing:
            yield f"When you call {wanted.name}, give {', '.join(missing)}."
        # A name that the tool does not have was made up, perhaps from a text that the model read.
        known = parameters.get(wanted.name, frozenset[str]())
        extra = sorted(n for n in known - set(wanted.arguments) if all(n in keys for keys in made))
        if extra:
            yield f"When you call {wanted.name}, leave out {', '.join(extra)} unless the request asks for it."


def _sentences_of(task: Task, rollout: Rollout) -> Iterator[tuple[str, str]]:
    called = {call.name for call in rollout.calls}
    for name in _needed(task):
        if name not in called:
            yield name, f'Use it for requests such as "{_shown(task.prompt)}".'
    for wanted in task.solution:
        failed = any(call.name == wanted.name and call.outcome in ("retry", "failed") for call in rollout.calls)
        if failed and wanted.arguments:
            yield wanted.name, f"Example of arguments: {json.dumps(wanted.arguments, ensure_ascii=False)}"


def _needed(task: Task) -> list[str]:
    return [call.name for call in task.solution] or list(task.checks.calls)


def _has_answer(task: Task) -> bool:
    return bool(task.checks.answer_contains) or task.checks.answer_number is not None


def _keys(arguments: str) -> set[str]:
    try:
        value: Any = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return set()
    return set(cast("dict[str, Any]", value)) if isinstance(value, dict) else set()


def _shown(prompt: str) -> str:
    text = " ".join(visible_text(prompt).replace('"', "'").split())
    return text if len(text) <= _MAX_PROMPT_CHARS else f"{text[: _MAX_PROMPT_CHARS - 1]}…"
