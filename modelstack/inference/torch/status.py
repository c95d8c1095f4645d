"""Counts of a torch engine at one time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """Requests, blocks and bytes of an engine."""

    n_running: int
    n_waiting: int
    n_blocks: int
    n_free_blocks: int
    """Blocks that no request holds; cached ones included."""
    n_cached_blocks: int
    """Free blocks whose content a later request can reuse."""
    cache_bytes: int
