"""The suite's servers in this process, as in the tests of `mcp-tasks`."""

from __future__ import annotations

import pytest

from evals.harness.suite import Solver
from evals.tool_use.first_hour.running import solver
from tests.evals.tool_use.executed.conftest import in_process_server


@pytest.fixture
def solve_in_process() -> Solver:
    return solver(in_process_server)
