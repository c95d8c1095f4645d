"""The suite's server in this process, as in the tests of `mcp-tasks`, without its changing tools."""

from __future__ import annotations

from functools import partial

import pytest

from evals.harness.suite import Solver
from evals.tool_use.long_results.running import solver
from tests.evals.tool_use.executed.conftest import in_process_server


@pytest.fixture
def solve_in_process() -> Solver:
    return solver(partial(in_process_server, write=False))
