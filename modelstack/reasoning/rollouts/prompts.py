"""Endless sequence of a run's prompts: every task once in an epoch, in a new order in each epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from modelstack.data.order import Order
from modelstack.errors import UserError
from modelstack.reasoning.sampling.sampled import Asked
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.tokenizer.chat import ChatEncoder


class Prompts:
    """Sequence of prompts; its state is the position `n_drawn`."""

    def __init__(self, tasks: Sequence[PolicyTask], encoder: ChatEncoder, seed: int) -> None:
        """Initialise before the first prompt.

        Raises:
            UserError: There are no tasks.
        """
        if not tasks:
            raise UserError("there are no tasks to train on: name files with tasks")
        self.tasks = tasks
        self.n_drawn = 0
        self._ids = [tuple(task.prompt_ids(encoder)) for task in tasks]
        self._seed = seed

    def draw(self) -> Asked:
        """Return the next prompt with its own seed."""
        epoch, position = divmod(self.n_drawn, len(self.tasks))
        number = Order(len(self.tasks), self._seed, epoch, "prompts").document(position)
        seed = int.from_bytes(hashlib.sha256(f"{self._seed} {self.n_drawn}".encode()).digest()[:7], "big")
        self.n_drawn += 1
        return Asked(self.tasks[number], self._ids[number], seed)
