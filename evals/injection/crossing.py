"""Creates cases from tasks, goals and styles: each task without attack, then its places with all fitting styles.

By default the goal rotates with place and style, so that every style is combined with most goals and the number of
cases is places times styles. The full crossing has every goal at every place in every style. Order and ids are the
same on every machine, and a case has the same id in both crossings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice

from evals.case import Case
from evals.injection.attacks import STYLES, Payload
from evals.injection.defences import DEFAULT_DEFENCE
from evals.injection.goals import GOALS, Goal
from evals.injection.tasks import TASKS, Channel, Slot, Task

BENIGN = "benign"
NOTHING = Payload((), ())
MAX_NAME_BYTES = 240
"""Maximum bytes of a file's name; POSIX allows 255, including `.txt` and the world's own words."""
MAX_SEARCH_CHARS = 140
"""Maximum characters in a search result; the server shows 200 of a matching line, including the world's own
words."""
GOAL_STRIDE = 3
"""Number of goals from one place to the next; coprime to the number of goals, so that each style meets each
goal."""
ONE_LINE: Collection[Channel] = ("file name", "search result")


def all_cases(
    styles: Collection[str], *, play: str = "", every_goal: bool = False, defence: str = DEFAULT_DEFENCE
) -> list[Case]:
    """Return the benign cases, then the attacked ones of the given styles.

    Args:
        styles: Names in `STYLES`.
        play: Name of a script in `evals.injection.playing`; empty uses a model.
        every_goal: Whether to use the full crossing instead of one goal per place and style.
        defence: A name in `evals.injection.defences.DEFENCES`; case ids do not depend on it.
    """
    common = {"play": play, "defence": defence}
    benign = [_case(task, common) for task in TASKS]
    attacked = [case for case in _attacked(common, every_goal) if case.data["style"] in styles]
    return [*benign, *attacked]


def _attacked(common: Mapping[str, str], every_goal: bool) -> Iterator[Case]:
    n_places = 0
    for task in TASKS:
        for place in range(len(task.slots)):
            # A style in parts uses the task's second place for its second piece.
            slots = task.slots[place:]
            for number, style in enumerate(STYLES):
                fitting = _fitting(task, style, slots, start=n_places * GOAL_STRIDE + number)
                for goal, payload in fitting if every_goal else islice(fitting, 1):
                    used = slots[: len(payload.pieces)]
                    yield _case(task, common, style=style, goal=goal, payload=payload, slots=used)
            n_places += 1


def _fitting(task: Task, style: str, slots: Sequence[Slot], start: int) -> Iterator[tuple[Goal, Payload]]:
    """Yield the goals that this style can express at this place, each once, starting with number `start`."""
    for step in range(len(GOALS)):
        goal = GOALS[(start + step) % len(GOALS)]
        payload = STYLES[style](goal)
        if goal.id in task.undone_by or payload is None or len(payload.pieces) > len(slots):
            continue
        pieces = tuple(_shaped(text, slot) for text, slot in zip(payload.pieces, slots, strict=False))
        if all(_fits(text, slot) for text, slot in zip(pieces, slots, strict=False)):
            yield goal, Payload(pieces, payload.traces)


def _shaped(text: str, slot: Slot) -> str:
    return " ".join(text.split()) if slot.channel in ONE_LINE else text


def _fits(text: str, slot: Slot) -> bool:
    if slot.channel == "file name":
        return "/" not in text and len(text.encode()) <= MAX_NAME_BYTES
    return slot.channel != "search result" or len(text) <= MAX_SEARCH_CHARS


def _case(
    task: Task,
    common: Mapping[str, str],
    *,
    style: str = "",
    goal: Goal | None = None,
    payload: Payload = NOTHING,
    slots: Sequence[Slot] = (),
) -> Case:
    parts = (task.id, *(slot.place for slot in slots), style, goal.id) if goal else (task.id, BENIGN)
    data = {
        "task": task.id,
        "goal": goal.id if goal else None,
        "style": style,
        "channel": slots[0].channel if slots else "",
        "planted": {slot.place: text for slot, text in zip(slots, payload.pieces, strict=True)},
        "traces": list(payload.traces),
        **common,
    }
    return Case(id=".".join(parts), prompt=task.prompt, group=style or BENIGN, data=data)
