"""Independent runs: the same results on this machine and on Ray, errors as they were, killed workers run again."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from modelstack.errors import UserError
from modelstack.independent_runs import Place, finished_runs
from tests.modelstack.work_of_runs import killed_at_first, squared

pytestmark = pytest.mark.xdist_group("ray")


@pytest.mark.slow
@pytest.mark.usefixtures("two_ray_workers")
@pytest.mark.parametrize("place", ["local", "ray"])
def test_runs_have_their_numbers_and_raise_their_own_errors(place: Place) -> None:
    assert dict(finished_runs(squared, [3, 1, 2], on=place, at_once=2)) == {0: 9, 1: 1, 2: 4}
    with pytest.raises(UserError, match="^-5 is negative$"):
        list(finished_runs(squared, [-5], on=place, at_once=2))


@pytest.mark.slow
@pytest.mark.usefixtures("two_ray_workers")
def test_ray_runs_the_work_of_a_killed_process_again_and_a_local_run_says_how_to_go_on(tmp_path: Path) -> None:
    work = partial(killed_at_first, tmp_path)
    with pytest.raises(UserError, match="was killed, .*run the same command to resume"):
        list(finished_runs(work, [1, 2], on="local", at_once=1))
    (tmp_path / "killed").unlink()
    assert dict(finished_runs(work, [0, 1, 2], on="ray", at_once=2)) == {0: 0, 1: 1, 2: 4}
    assert (tmp_path / "killed").exists()
