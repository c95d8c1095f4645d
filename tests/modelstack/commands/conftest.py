"""Golden files of modelstack's commands, and trainings without plots."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelstack.cli import app
from tests.golden import UPDATE, Golden

FOLDER = Path(__file__).with_name("golden")


@pytest.fixture
def golden(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Golden:
    """Golden files, in an empty folder and in UTC."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    return Golden(app, "modelstack", FOLDER, update=bool(request.config.getoption(UPDATE)))


def write_nothing(_figure: object, path: Path, **_options: object) -> None:
    """Write an empty file in place of a figure."""
    Path(path).write_bytes(b"")


@pytest.fixture(scope="module")
def no_pictures() -> Iterator[None]:
    """Write empty files in place of plots, which would take most of a toy training's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", write_nothing)
        yield
