"""Processes that share a training, started by torchrun: rows are split by rank, weights are sharded by FSDP2.

The first process claims the folder, reads the data before the others and writes the stage. If it raises a
UserError, every process raises it. Each process reads only its share of the weights (`starting_point.load_start`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeGuard, TypeVar

import torch
import torch.distributed as dist

from modelstack.decide.memory import Layout
from modelstack.errors import UserError
from modelstack.stability.agreement import Ranks
from modelstack.train.parallel.mesh import Mesh, join_processes, make_mesh

PREPARING = timedelta(hours=12)
"""Maximum time that other processes wait while the first one prepares or measures."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Processes:
    """Processes of a run and this process's place among them."""

    ranks: Ranks
    mesh: Mesh | None
    """Mesh of the processes; None: there is only one."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return self.ranks.rank

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.ranks.world

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the only process that writes files."""
        return self.rank == 0

    def own(self, n: int, what: str) -> int:
        """Return this process's part of `n` equal items.

        Args:
            n: Number of items of all processes.
            what: Name of `n` in the error.

        Raises:
            UserError: `n` is not a multiple of the number of processes.
        """
        if n % self.world:
            raise UserError(f"{what} is {n}, not a multiple of the {self.world} processes: change one of them")
        return n // self.world

    def total(self, n: float) -> float:
        """Return the sum of a number over the processes."""
        if self.mesh is None:
            return n
        return float(self.mesh.sum_over_data(torch.tensor(n, dtype=torch.float64, device=self.mesh.device)))

    def gathered(self, own: Iterable[Any]) -> list[Any]:
        """Return the items of all processes in the order of ranks; each item must be JSON-serialisable."""
        if self.mesh is None:
            return list(own)
        return [item for text in self.ranks.texts(json.dumps(list(own))) for item in json.loads(text)]

    def all_have(self, own: Result | None) -> TypeGuard[Result]:
        """Return whether no process has None; every process calls this."""
        return self.ranks.worst(int(own is None)) == 0

    def on_first(self, do: Callable[[], Result]) -> Result | None:
        """Call `do` in the first process while the others wait; return its result there, None elsewhere.

        Raises:
            UserError: The first process raised it.
        """
        result, complaint = None, ""
        if self.is_first:
            try:
                result = do()
            except UserError as error:
                if self.mesh is None:
                    raise
                complaint = str(error)
        if complaint := self.ranks.texts(complaint)[0]:
            raise UserError(complaint)
        return result

    def first_then_others(self, make: Callable[[], Result]) -> Result:
        """Call `make` in the first process, then in the others, which can read files that the first one wrote.

        Raises:
            UserError: A process raised it.
        """
        made = self.on_first(lambda: (make(),))
        return make() if made is None else made[0]


ALONE = Processes(Ranks(None), None)


@contextmanager
def joined_processes(kind: str) -> Iterator[Processes]:
    """Join the processes that torchrun started; yield `ALONE` without torchrun.

    Args:
        kind: Kind of device, "cpu" or "cuda".
    """
    is_joined = dist.is_available() and dist.is_initialized()
    is_launched = dist.is_available() and dist.is_torchelastic_launched()
    world = dist.get_world_size() if is_joined else int(os.environ["WORLD_SIZE"]) if is_launched else 1
    if world == 1:
        yield ALONE
        return
    join_processes(kind)
    try:
        yield Processes(Ranks.of_run(PREPARING), make_mesh(Layout(shard=world), kind))
    finally:
        if not is_joined:
            dist.destroy_process_group()
