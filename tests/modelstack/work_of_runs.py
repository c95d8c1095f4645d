"""Functions that runs are made of, in a module that Ray's workers can import."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from modelstack.errors import UserError


def squared(number: int) -> int:
    if number < 0:
        raise UserError(f"{number} is negative")
    return number**2


def killed_at_first(folder: Path, number: int) -> int:
    """Kill the own process, unless an earlier one was."""
    if number == 1 and not (folder / "killed").exists():
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return squared(number)
