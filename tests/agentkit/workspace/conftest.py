"""Sandboxes of each user, with a folder of their own.

Their folders are not pytest's: it closes its own to other users whenever one of its processes starts.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agentkit.workspace.sandbox_users import USERS, Sandbox, make_sandboxes


@pytest.fixture(scope="module", params=USERS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """Sandbox in an empty folder; the tests of a module share it."""
    folder = Path(tempfile.mkdtemp(prefix="agentkit-test-"))
    try:
        yield from make_sandboxes(request.param, folder)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Folder of the host that every user may read."""
    folder = Path(tempfile.mkdtemp(prefix="agentkit-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def secret(open_folder: Path) -> Path:
    """File of the host that every user may read and write."""
    path = open_folder / "secret"
    path.write_text("the secret")
    path.chmod(0o666)
    return path
