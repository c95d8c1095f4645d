"""Our checker and the original's agree on the key and on changed answers."""

from __future__ import annotations

import pytest

from evals.case import Case
from evals.tool_use.bfcl.multi_turn_calls import parse_turns
from evals.tool_use.bfcl.multi_turn_cases import load_cases
from evals.tool_use.bfcl.multi_turn_mutations import MUTATIONS, mutated
from evals.tool_use.bfcl.multi_turn_parity import Compared, Item, Judgement, answers, compare, judge, table
from evals.tool_use.bfcl.wheel import cached_wheel_folder


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    if cached_wheel_folder() is None:
        pytest.skip("needs the bfcl-eval wheel in the cache; any run of the suite fetches it")
    pytest.importorskip("mpmath", reason="BFCL's arithmetic needs mpmath")
    return load_cases()


@pytest.mark.slow
def test_both_checkers_agree_answer_by_answer(cases: list[Case]) -> None:
    # The command compares all cases; a prime step takes some of every category and every pair of classes.
    items = answers(cases[::23])
    compared = compare(items)

    assert not [str(each) for each in compared if each.differs]
    assert {each.ours.fault for each in compared} == {None, "no_call", "state", "results"}
    assert {item.kind for item in items} == set(MUTATIONS)


def test_every_key_is_right(cases: list[Case]) -> None:
    for case in cases:
        item = Item(case, "unchanged", parse_turns(case.target))
        assert judge(item) == Judgement(None, keeps_still=True), case.id


def test_a_mutation_is_the_same_every_time_and_leaves_the_case_as_it_was(cases: list[Case]) -> None:
    for kind in MUTATIONS:
        before = [list(turn) for turn in cases[3].target]
        assert mutated(cases[3], kind, seed=1) == mutated(cases[3], kind, seed=1)
        assert cases[3].target == before


def test_the_table_counts_what_both_said_and_where_they_differ(cases: list[Case]) -> None:
    right, wrong = Judgement(None, keeps_still=True), Judgement("state", keeps_still=True)
    items = [Item(cases[0], kind, []) for kind in ("unchanged", "empty turn", "empty turn")]
    compared = [Compared(*each) for each in zip(items, (right, wrong, wrong), (right, wrong, right), strict=True)]
    _, unchanged, changed, everything = (
        line.split() for line in table("change", lambda item: item.kind, compared).splitlines()
    )
    assert unchanged == ["unchanged", "1", "1", "0", "0", "0", "0"]
    assert changed == ["empty", "turn", "2", "0", "0", "2", "0", "1"]
    assert everything == ["all", "3", "1", "0", "2", "0", "1"]
