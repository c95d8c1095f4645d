"""Operators that make a new candidate from one of the pool, with its failures in hand.

Most need no strong model: they select demonstrations, add mined rules and sentences, drop, reorder and merge. An
operator returns None if it has nothing new to propose.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from agentkit.improve.demonstrating import demonstration_of, similarity
from agentkit.improve.mining import Attempt, mined_descriptions, mined_rules
from agentkit.improve.pieces import (
    MAX_DEMONSTRATIONS,
    MAX_RULES,
    Demonstration,
    Pieces,
    Rule,
    ToolDescription,
    description_sha256,
    visible_text,
)
from agentkit.improve.rollout import Rollout
from agentkit.improve.tasks import Task
from agentkit.tools.definition import ToolDefinition

_MOST_AT_ONCE = 3
"""Maximum number of rules or demonstrations that one mutation adds."""


@dataclass(frozen=True, slots=True)
class Ground:
    """Material of the mutations."""

    tools: Sequence[ToolDefinition]
    train: Sequence[Task]
    rollouts_of: Callable[[Task], Sequence[Rollout]]
    """Rollouts that were made on a training task."""
    draw: random.Random
    traced: Sequence[Demonstration] = ()
    """Demonstrations from traces with a good reward."""
    others: Sequence[Pieces] = field(default=())
    """Other candidates of the front."""


Operator = Callable[[Pieces, Sequence[Attempt], Ground], Pieces | None]


def demonstrate(parent: Pieces, attempts: Sequence[Attempt], ground: Ground) -> Pieces | None:
    """Add demonstrations, those most similar to the failed requests first."""
    failed = [task for task, rollout in attempts if rollout.score < 1.0]
    if not failed:
        return None
    shown = {each.prompt for each in parent.demonstrations}
    offered = [demonstration_of(task, ground.tools, ground.rollouts_of(task)) for task in ground.train]
    offered += ground.traced
    fitting = [each for each in offered if each is not None and each.prompt not in shown]
    chosen: list[Demonstration] = []
    n_most = min(_MOST_AT_ONCE, MAX_DEMONSTRATIONS - len(parent.demonstrations))
    # One demonstration for each failed request in turn, or three of the same kind would crowd out the others.
    for task in failed[: ground.draw.randint(1, n_most) if n_most else 0]:
        left = [each for each in fitting if each not in chosen]
        if left:
            chosen.append(max(left, key=lambda each: similarity(each.prompt, task.prompt)))
    return _changed(parent, demonstrations=(*parent.demonstrations, *chosen)) if chosen else None


def add_rules(parent: Pieces, attempts: Sequence[Attempt], ground: Ground) -> Pieces | None:
    """Add rules that the failures suggest."""
    known = {rule.text for rule in parent.rules}
    found = [text for text in mined_rules(attempts, ground.tools) if text not in known]
    n_most = min(_MOST_AT_ONCE, MAX_RULES - len(parent.rules), len(found))
    if n_most <= 0:
        return None
    new = [Rule(text=text, source="template") for text in found[: ground.draw.randint(1, n_most)]]
    return _changed(parent, rules=(*parent.rules, *new))


def describe_tools(parent: Pieces, attempts: Sequence[Attempt], ground: Ground) -> Pieces | None:
    """Add a sentence to the description of a tool that was not called, or called wrongly."""
    tools = {tool.name: tool for tool in ground.tools}
    edits = {edit.name: edit for edit in parent.tool_descriptions}
    for name, sentence in mined_descriptions(attempts, ground.tools):
        own = tools[name].description
        before = edits[name].text if name in edits else visible_text(own)
        if sentence not in before:
            text = f"{before} {visible_text(sentence)}".strip()
            return described(parent, tools[name], text, "template")
    return None


def described(parent: Pieces, tool: ToolDefinition, text: str, source: str) -> Pieces | None:
    """Return the parent with another description of a tool; None if it is not allowed."""
    try:
        edit = ToolDescription.model_validate(
            {"name": tool.name, "text": text, "replaces": description_sha256(tool.description), "source": source}
        )
    except ValidationError:
        return None
    others = (each for each in parent.tool_descriptions if each.name != tool.name)
    return _changed(parent, tool_descriptions=(*others, edit))


def drop(parent: Pieces, attempts: Sequence[Attempt], ground: Ground) -> Pieces | None:
    """Remove one piece: a shorter prompt is cheaper, and a piece may do harm."""
    places = [("rules", i) for i in range(len(parent.rules))]
    places += [("demonstrations", i) for i in range(len(parent.demonstrations))]
    places += [("tool_descriptions", i) for i in range(len(parent.tool_descriptions))]
    if not places:
        return None
    kind, index = ground.draw.choice(places)
    kept = list(getattr(parent, kind))
    del kept[index]
    return _changed(parent, **{kind: tuple(kept)})


def reorder(parent: Pieces, attempts: Sequence[Attempt], ground: Ground) -> Pieces | None:
    """Move the last demonstration to the front: a small model follows the nearest ones."""
    shown = parent.demonstrations
    return _changed(parent, demonstrations=(shown[-1], *shown[:-1])) if len(shown) > 1 else None


def merge(parent: Pieces, attempts: Sequence[Attempt], ground: Ground) -> Pieces | None:
    """Add the pieces of another candidate of the front that the parent lacks."""
    if not ground.others:
        return None
    other = ground.draw.choice(ground.others)
    rules = {rule.text: rule for rule in (*parent.rules, *other.rules)}
    shown = {each.prompt: each for each in (*parent.demonstrations, *other.demonstrations)}
    edits = {each.name: each for each in (*other.tool_descriptions, *parent.tool_descriptions)}
    return _changed(
        parent,
        rules=tuple(rules.values())[:MAX_RULES],
        demonstrations=tuple(shown.values())[:MAX_DEMONSTRATIONS],
        tool_descriptions=tuple(edits.values()),
    )


OPERATORS: dict[str, Operator] = {
    "demonstrate": demonstrate,
    "add-rules": add_rules,
    "describe-tools": describe_tools,
    "merge": merge,
    "drop": drop,
    "reorder": reorder,
}
"""Operators without a model, by the name that the configuration uses."""
MAY_TIE = frozenset({"drop"})
"""Operators whose candidate is kept at an equal score, because it is shorter."""


def _changed(parent: Pieces, **changes: object) -> Pieces | None:
    """Return the parent with changes; None if the result is too long, or nothing changes."""
    try:
        child = Pieces.model_validate({**{name: getattr(parent, name) for name in Pieces.model_fields}, **changes})
    except ValidationError:
        return None
    return None if child == parent else child
