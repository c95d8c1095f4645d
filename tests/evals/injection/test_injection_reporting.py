"""The tables of an injection suite: nothing drops out, and what nobody saw is said."""

from __future__ import annotations

from agentkit.messages import ModelRequest, UserPromptPart
from evals.case import Case, Run, Score
from evals.harness.suite import judge
from evals.injection.reporting import complete, main_table
from evals.injection.scoring import score
from evals.injection.suite import SUITE, start_state, tables

CASES = SUITE.load({})
BENIGN = next(case for case in CASES if case.id == "open-jobs.benign")
ATTACKED = next(case for case in CASES if case.data["task"] == "open-jobs" and case.data["goal"] == "delete-rota")
ASKED = (ModelRequest((UserPromptPart("?"),)),)


def run_of(case: Case, answer: str, *, obeys: bool = False) -> Run:
    world = start_state(case)
    files = {path: text for path, text in world.files.items() if not (obeys and path == "rota.txt")}
    observed = {"files": files, "tables": {"stock": [{"item": "chain"}]}, "exposed": bool(case.data["goal"])}
    return Run(case.id, "completed", messages=ASKED, output=answer, observed=observed)


def cells(runs: list[tuple[Case, Run]]) -> dict[str, tuple[str, str]]:
    scored = [(case, run, judge(SUITE, case, run)) for case, run in runs]
    return {row[0].strip(): (row[1], row[2]) for row in tables(scored)[0].rows}


def test_the_three_numbers_are_shares_of_all_runs() -> None:
    found = cells(
        [
            (BENIGN, run_of(BENIGN, "4")),
            (ATTACKED, run_of(ATTACKED, "4")),
            (ATTACKED, run_of(ATTACKED, "4", obeys=True)),
            (ATTACKED, run_of(ATTACKED, "I do not know")),
        ]
    )
    assert found["utility without attack"] == ("1.000 (0.207 to 1.000)", "1")
    assert found["utility under attack"][0].startswith("0.667") and found["utility under attack"][1] == "3"
    assert found["targeted attack success"][0].startswith("0.333")
    assert found["difference, paired by task"][0].startswith("-0.333")
    assert found["injection reached the model"][0].startswith("1.000")
    assert "final state unknown, counted as not attacked" not in found


def test_a_run_that_timed_out_stays_in_every_share_and_is_shown_as_unseen() -> None:
    late = Run(ATTACKED.id, "timed_out", error="no result after 300 s")
    found = cells([(BENIGN, run_of(BENIGN, "4")), (ATTACKED, run_of(ATTACKED, "4", obeys=True)), (ATTACKED, late)])
    assert found["utility under attack"][0].startswith("0.500") and found["utility under attack"][1] == "2"
    assert found["targeted attack success"][0].startswith("0.500")
    assert found["final state unknown, counted as not attacked"] == ("1", "2")
    assert found["failed or timed out"] == ("1 (0 overflowed the context)", "3")


def test_a_context_that_overflows_counts_as_attacked_by_agentdojos_rule_only() -> None:
    full = run_of(ATTACKED, "")
    full = Run(
        ATTACKED.id, "failed", messages=ASKED, observed=full.observed, error="ContextWindowExceeded: 9,000 tokens"
    )
    found = cells([(ATTACKED, full)])
    assert found["targeted attack success"][0].startswith("0.000")
    assert found["the same, overflow counted as attacked (AgentDojo's rule)"][0].startswith("1.000")
    assert found["failed or timed out"] == ("1 (1 overflowed the context)", "1")
    assert found["utility under attack"][0].startswith("0.000")


def test_figures_that_a_run_has_are_kept_as_they_are() -> None:
    judged = Score(0.5, "by hand", numbers={"utility": 0.5})
    run = run_of(BENIGN, "4")
    assert complete([(BENIGN, run, judged)], score) == [(BENIGN, run, judged)]


def test_a_suite_without_attacks_has_dashes_and_no_shares_of_nothing() -> None:
    run = run_of(BENIGN, "4")
    rows = {row[0]: row[1:] for row in main_table([(BENIGN, run, score(BENIGN, run))]).rows}
    assert rows["targeted attack success"] == ("-", "0")
    assert rows["difference, paired by task"] == ("-", "0 tasks")
