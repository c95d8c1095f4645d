"""Requests to a world of tools, judged by the state of the world afterwards.

Each task shows the required tool beside other tools of the world, some of them similar (add stock, remove stock;
a task, a note). In one of eight tasks no tool fits: the required tool is not shown, or no tool could do it. On
the held-back side, half of the tasks use worlds that are never trained on; the others use phrasings that are
never trained on.
"""

from __future__ import annotations

import random
from typing import Any

from modelstack.data.examples import Message, Tool
from modelstack.reasoning.tasks.task import TaskLine
from modelstack.reasoning.tasks.writing.effect_wishes import HELD_OUT, WISHES, Wish, foreign
from modelstack.reasoning.tasks.writing.written import LICENSE, Side, Source
from modelstack.reasoning.verifiers.effects import canonical, perform
from modelstack.reasoning.worlds.registry import WORLDS
from modelstack.reasoning.worlds.world import DONE, Copy, State, World
from modelstack.toolcalls.convention import DEFAULT_MAX_CALLS

P_NO_TOOL_FITS = 1 / 8
_P_FOREIGN = 0.5
"""Probability that a task without a fitting tool is about another subject; otherwise its tool is not shown."""
_P_TWO = 0.15
"""Probability that a request asks for two things."""
_N_SHOWN = (2, 3, 4)
_DONE = canonical(DONE)


def effects_source() -> Source:
    """Return the source of tasks with effects."""
    return Source("effects", _make, _as_canary)


def _make(chance: random.Random, side: Side, number: int) -> TaskLine | None:
    is_new = side == "held-back" and chance.random() < 0.5
    names = [name for name in WORLDS if (name in HELD_OUT) == is_new]
    world = WORLDS[chance.choice(names)]
    state = world.start(chance)
    if chance.random() < P_NO_TOOL_FITS:
        return _without(chance, side, world, state)
    wishes = chance.sample(WISHES[world.name], 2 if chance.random() < _P_TWO else 1)
    asked = [(wish, wish.draw(chance, state)) for wish in wishes]
    rows = [str(next(iter(arguments.values()), wish.tool)) for wish, arguments in asked]
    if len(set(rows)) < len(rows):
        return None  # two requests about the same row may undo each other
    text = " ".join(_said(chance, side, is_new, wish, arguments) for wish, arguments in asked)
    calls = [{"name": wish.tool, "arguments": arguments} for wish, arguments in asked]
    ran = perform(Copy(world, state), [(call["name"], call["arguments"]) for call in calls])
    if ran.refused or _DONE in ran.read:
        return None  # the world would not change, so the effect could not be checked
    shown = _shown(chance, world, {wish.tool for wish in wishes})
    return _task(world, state, shown, text, calls)


def _without(chance: random.Random, side: Side, world: World, state: State) -> TaskLine:
    """Return a task that no shown tool fits."""
    if chance.random() < _P_FOREIGN:
        return _task(world, state, _shown(chance, world, set()), foreign(chance), [])
    wish = chance.choice(WISHES[world.name])
    text = _said(chance, side, world.name in HELD_OUT, wish, wish.draw(chance, state))
    others = [deed.name for deed in world.deeds if deed.name != wish.tool]
    shown = chance.sample(others, min(len(others), chance.choice(_N_SHOWN)))
    return _task(world, state, shown, text, [])


def _said(chance: random.Random, side: Side, is_new: bool, wish: Wish, arguments: dict[str, Any]) -> str:
    """Return a request in a phrasing of its side; all phrasings of a held-out world are allowed."""
    *trained, last = wish.phrasings
    phrasing = chance.choice(wish.phrasings if is_new else trained) if side == "train" or is_new else last
    said = phrasing.format(**arguments)
    return said[0].upper() + said[1:]


def _shown(chance: random.Random, world: World, needed: set[str]) -> list[str]:
    others = [deed.name for deed in world.deeds if deed.name not in needed]
    n_more = max(1, chance.choice(_N_SHOWN) - len(needed))
    shown = [*sorted(needed), *chance.sample(others, min(len(others), n_more))]
    chance.shuffle(shown)
    return shown


def _task(world: World, state: State, shown: list[str], text: str, calls: list[dict[str, Any]]) -> TaskLine:
    specs = [world.tool(name) for name in shown]
    return TaskLine(
        id="-",
        messages=(Message(role="user", content=text),),
        tools=tuple(
            Tool(name=spec.name, description=spec.description, parameters=dict(spec.parameters)) for spec in specs
        ),
        gold={"world": world.name, "start": state, "calls": calls},
        license=LICENSE,
        source=f"effects {world.name}",
    )


def _as_canary(task: TaskLine) -> TaskLine:
    """Return the task with a gold that changes the world more often than one reply can."""
    start = WORLDS["todo"].start(random.Random(task.id))
    calls = [
        {"name": "add_note", "arguments": {"text": f"{n} of {task.id}"}} for n in range(DEFAULT_MAX_CALLS + 1)
    ]
    return task.model_copy(update={"gold": {"world": "todo", "start": start, "calls": calls}})
