"""Servers killed with SIGKILL while a run is followed: a client sees each event once, and effects happen once."""

from __future__ import annotations

import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agentkit.serving.killed_servers import begin_forks, trial

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs fork and SIGKILL"),
    pytest.mark.xdist_group("killed servers"),
]


@pytest.fixture(scope="module")
def forks() -> Iterator[subprocess.Popen[str]]:
    with begin_forks() as process:
        yield process
        process.terminate()


@pytest.mark.parametrize("seed", range(8))
async def test_a_client_does_not_notice_kills(forks: subprocess.Popen[str], tmp_path: Path, seed: int) -> None:
    assert await trial(forks, tmp_path, random.Random(seed)) >= 1  # the approval alone takes the run up again
