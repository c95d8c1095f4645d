"""What the tests of traces share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agentkit.tracing.traced_runs import Runs


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "traces")
