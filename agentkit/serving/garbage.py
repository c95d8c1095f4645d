"""Garbage collection in a process that serves agents and nothing else."""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 10_000
"""New objects after which Python looks for cyclic garbage, 5 ms of work.

Its default of 700 visits the objects of the runs in progress at every twentieth step, which are no garbage: 7 %
of the server's CPU time.
"""


def collect_seldom() -> None:
    """Exclude the objects that exist from garbage collections, and make collections rarer.

    A full collection would visit the 100,000 objects of modules and classes: all runs wait 40 ms for it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
