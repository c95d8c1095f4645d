"""All tasks, one from each area in turn, so that the first ten (`--limit 10`) cover all areas."""

from __future__ import annotations

from itertools import chain, zip_longest

from evals.tool_use.executed.task import Task
from evals.tool_use.executed.tasks import (
    club,
    code,
    configs,
    helpdesk,
    inventory,
    invoices,
    logs,
    notes,
    orders,
    storeroom,
)

AREAS: tuple[tuple[Task, ...], ...] = (
    notes.TASKS,
    orders.TASKS,
    logs.TASKS,
    inventory.TASKS,
    configs.TASKS,
    club.TASKS,
    code.TASKS,
    helpdesk.TASKS,
    invoices.TASKS,
    storeroom.TASKS,
)

TASKS: tuple[Task, ...] = tuple(task for task in chain.from_iterable(zip_longest(*AREAS)) if task is not None)
