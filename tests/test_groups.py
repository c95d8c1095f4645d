"""Groups of tests, which pytest-xdist runs in one process each; where it cannot, it says nothing."""

from __future__ import annotations

import pytest

GROUP = "tests/test_groups.py"


@pytest.fixture(scope="module")
def of_the_module() -> None:
    """Nothing; it is made once for the module."""


def check_group(request: pytest.FixtureRequest) -> None:
    marker = request.node.get_closest_marker("xdist_group")
    assert marker is not None and marker.args == (GROUP,)
    if request.config.getoption("loadgroup", False):  # in a process of `--dist loadgroup`, which reads ids
        assert request.node.nodeid.endswith(f"@{GROUP}")


def test_one_process_runs_the_tests_of_a_module(request: pytest.FixtureRequest) -> None:
    check_group(request)


@pytest.mark.slow
@pytest.mark.usefixtures("of_the_module")
def test_a_slow_test_that_shares_a_fixture_of_the_module_is_run_with_the_others(
    request: pytest.FixtureRequest,
) -> None:
    check_group(request)


@pytest.mark.slow
def test_a_slow_test_that_shares_none_is_handed_out_by_itself(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("xdist_group") is None
