"""Process-wide settings for training: memory allocation, matrix library, threads."""

from __future__ import annotations

import torch

from modelstack.architecture.cpu_products import multiply_by_onednn
from modelstack.train.allocator import keep_freed_memory


def set_up_process(threads: int | None) -> None:
    """Configure this process for fast training.

    Args:
        threads: Number of torch's threads; None: unchanged.
    """
    keep_freed_memory()
    multiply_by_onednn()
    if threads:
        torch.set_num_threads(threads)
