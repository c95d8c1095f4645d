"""Agreement of all ranks on verdicts and on the checkpoint to use, before any rank acts.

It uses a separate gloo group: a checkpoint written in the background and a guard that judges each step would mix
up their messages on a shared one. Texts are sent as bytes; nothing is pickled.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist


@dataclass(frozen=True, slots=True)
class Ranks:
    """The ranks of a run, including this one."""

    group: dist.ProcessGroup | None
    """Process group; None: a single process without a group."""

    @classmethod
    def of_run(cls, timeout: timedelta | None = None) -> Ranks:
        """Return all ranks with a new group; if torch.distributed is initialised, each rank must call this.

        Args:
            timeout: Maximum time that ranks wait for each other; None: torch's half hour.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return cls(None)
        group = dist.new_group(backend="gloo", timeout=timeout)
        assert isinstance(group, dist.ProcessGroup)  # an int only for ranks outside the group, and there are none
        return cls(group)

    @property
    def rank(self) -> int:
        """Number of this rank."""
        return 0 if self.group is None else dist.get_rank(self.group)

    @property
    def world(self) -> int:
        """Number of ranks."""
        return 1 if self.group is None else dist.get_world_size(self.group)

    def worst(self, own: int) -> int:
        """Return the largest of all ranks' numbers: a guard's `worst_of_ranks`."""
        if self.group is None:
            return own
        number = torch.tensor(own)
        dist.all_reduce(number, dist.ReduceOp.MAX, group=self.group)
        return int(number)

    def texts(self, own: str) -> list[str]:
        """Return every rank's text, by rank."""
        if self.group is None:
            return [own]
        data = own.encode("utf-8")
        longest = self.worst(len(data))
        sent = torch.zeros(8 + longest, dtype=torch.uint8)  # the text's length, then the text
        sent[:8] = torch.tensor([len(data)]).view(torch.uint8)
        sent[8 : 8 + len(data)] = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)[: len(data)]
        received = [torch.empty_like(sent) for _ in range(self.world)]
        dist.all_gather(received, sent, group=self.group)
        return [_text(one) for one in received]


def _text(received: torch.Tensor) -> str:
    n_bytes = int(received[:8].view(torch.int64))
    return received[8 : 8 + n_bytes].numpy().tobytes().decode("utf-8")
