"""A schedule of faults is checked before the run and comes back from JSON; a random one follows its seed."""

import math

import pytest

from modelstack.errors import UserError
from modelstack.stability.faults import (
    KINDS,
    BadLoss,
    Faults,
    FullDisk,
    SigKill,
    at_random,
    parse,
)

ALL = [
    {"kind": "sigkill", "step": 120, "rank": 1},
    {"kind": "gradient", "step": 3, "value": math.inf},
    {"kind": "loss", "step": 4, "factor": math.nan},
    {"kind": "random_tokens", "step": 5, "n_steps": 2, "lr_factor": 3.0},
    {"kind": "bit_flip", "step": 6, "parameter": "lm_head.weight", "bit": 29},
    {"kind": "checkpoint", "step": 7, "damage": "flip"},
    {"kind": "full_disk", "step": 8},
    {"kind": "slow", "step": 9, "seconds": 0.5},
]


def test_every_kind_is_read_from_a_table_and_survives_json() -> None:
    faults = parse(ALL, seed=4)
    assert {fault.kind for fault in faults.schedule} == set(KINDS)
    again = Faults.model_validate_json(faults.model_dump_json())
    assert again.model_dump_json() == faults.model_dump_json()
    assert math.isnan(again.schedule[2].factor)  # pyright: ignore
    assert again.schedule[1].value == math.inf  # pyright: ignore


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "sigkil", "step": 1}, r"fault kind 'sigkil' is not known; nearest: sigkill"),
        ({"step": 1}, r"fault kind None is not known"),
        ({"kind": "loss", "step": -1}, r"schedule.0.loss.step: .*greater than or equal to 0.*-1"),
        ({"kind": "slow", "step": 1, "minutes": 3}, r"schedule.0.slow.minutes: Extra inputs"),
        ({"kind": "random_tokens", "step": 1, "rank": 1}, r"schedule.0.random_tokens.rank"),
    ],
)
def test_a_wrong_table_is_refused_by_name(table: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse([table])


def test_the_same_fault_twice_is_refused() -> None:
    with pytest.raises(UserError, match="sigkill of step 1, rank all, at 1 twice"):
        parse([{"kind": "sigkill", "step": 1}, {"kind": "sigkill", "step": 1}])


def test_random_times_follow_their_seed_and_their_mean() -> None:
    makers = [
        lambda step: SigKill(step=step, rank=1),
        lambda step: FullDisk(step=step),
        lambda step: BadLoss(step=step),
    ]
    a, b, other = (at_random(makers, seed=seed, n_steps=30_000, mean_steps=60) for seed in (0, 0, 1))
    assert a == b != other
    steps = [fault.step for fault in a.schedule]
    assert steps == sorted(steps) and steps[-1] < 30_000
    assert 440 < len(steps) < 560  # 500, and three standard deviations
    kinds = [fault.kind for fault in a.schedule]
    assert all({*kinds[n : n + 3]} == {"sigkill", "full_disk", "loss"} for n in range(0, len(kinds) - 2, 3))
    assert len({tuple(kinds[n : n + 3]) for n in range(0, len(kinds) - 2, 3)}) == 6  # every order
