"""Toy trainings without pictures, which would take a third of their time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelstack.train import curves


@contextmanager
def without_pictures() -> Iterator[None]:
    """Write an empty file in place of a run's curves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "draw", _write_nothing)
        yield


def _write_nothing(_numbers: curves.Curves, path: Path) -> Path:
    path.write_bytes(b"")
    return path
