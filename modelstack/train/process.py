"""What a process that trains sets once: its memory, who multiplies its matrices, its threads."""

from __future__ import annotations

import torch

from modelstack.architecture.cpu_products import multiply_by_onednn
from modelstack.train.allocator import keep_freed_memory


def set_up_process(threads: int | None) -> None:
    """Set this process up to train as fast as it can.

    Args:
        threads: Of torch; None: as many as it has taken.
    """
    keep_freed_memory()
    multiply_by_onednn()
    if threads:
        torch.set_num_threads(threads)
