"""Groups of tests, which pytest-xdist runs in one process each; where it cannot, it says nothing."""

from __future__ import annotations

import pytest

GROUP = "tests/test_groups.py"


@pytest.fixture(scope="module")
def of_the_module() -> str:
    return GROUP


def test_one_process_runs_the_tests_that_share_a_fixture_of_their_module(
    of_the_module: str, request: pytest.FixtureRequest
) -> None:
    marker = request.node.get_closest_marker("xdist_group")
    assert marker is not None and marker.args == (of_the_module,)
    if request.config.getoption("loadgroup", False):  # in a process of `--dist loadgroup`, which reads ids
        assert request.node.nodeid.endswith(f"@{of_the_module}")
