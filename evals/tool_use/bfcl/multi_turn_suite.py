"""Suite `bfcl-multi-turn`: executed conversations over simulated file systems, vehicles, brokers and others.

Berkeley Function-Calling Leaderboard v4, 4 x 200 cases (repository ShishirPatil/gorilla). A case is correct if,
after every turn, the simulated objects have the expected state and the results of the key's calls have occurred.
Cases that fail, time out or run out of steps are wrong.

One difference from the original is intended: a conversation that runs out of steps in its last turn fails here,
like one that does so in an earlier turn. The original looks only at the number of turns and would check it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from agentkit.errors import UserError
from evals.case import Case, Run, Score
from evals.harness.suite import Suite, Table, check_options
from evals.statistics import wilson
from evals.tool_use.bfcl.disputed import MULTI_TURN_DISPUTED
from evals.tool_use.bfcl.multi_turn_calls import Call, parse_turns
from evals.tool_use.bfcl.multi_turn_cases import CATEGORIES, environment, load_cases, parse_categories
from evals.tool_use.bfcl.multi_turn_checker import TurnVerdict, check_turns, keeps_still
from evals.tool_use.bfcl.multi_turn_solver import MAX_STEPS_PER_TURN, solve_conversation

OPTIONS = {
    "data": "folder bfcl_eval/data of the bfcl-eval wheel, or the wheel; left out: it is fetched with pip",
    "categories": "comma-separated: base, miss_func, miss_param, long_context; left out: all that are there",
    "max_steps_per_turn": f"rounds of calls in one turn; left out: {MAX_STEPS_PER_TURN}, the original's",
}
_MOST_STEPS = 1000


def load(options: Mapping[str, str]) -> list[Case]:
    """Return the cases.

    Raises:
        UserError: an option is not known or not valid, or a file is missing.
    """
    check_options(SUITE.name, options, OPTIONS)
    steps = _steps(options.get("max_steps_per_turn", str(MAX_STEPS_PER_TURN)))
    categories = parse_categories(options["categories"]) if "categories" in options else None
    cases = load_cases(options.get("data"), categories)
    return [replace(case, data={**case.data, "max_steps_per_turn": steps}) for case in cases]


def score(case: Case, run: Run) -> Score:
    """Replay the calls of the run and of the key, each in a new world, and compare them after every turn."""
    reference = parse_turns(case.target)
    turns = _performed(run)
    verdicts = check_turns(turns, reference, environment(case), environment(case))
    checked = [verdict for verdict in verdicts[: len(turns)] if verdict.is_checked]
    n_checked = sum(verdict.is_checked for verdict in verdicts)
    numbers = {"turns_right": sum(verdict.is_right for verdict in checked) / n_checked if n_checked else 0.0}
    still = keeps_still(turns, reference)
    if still is not None:
        numbers["kept_still"] = float(still and len(turns) == len(reference))
    answer = "; ".join(", ".join(map(str, calls)) or "-" for calls in turns)
    if run.status in ("failed", "timed_out"):
        return Score(0.0, f"{run.status}: {run.error}", answer, numbers)
    if run.status == "limit_reached":
        return Score(0.0, f"turn {len(turns)} did not end within the steps allowed", answer, numbers)
    if len(turns) != len(reference):
        return Score(0.0, f"{len(turns)} turns took place, expected {len(reference)}", answer, numbers)
    for number, verdict in enumerate(verdicts, 1):
        if not verdict.is_right:
            return Score(0.0, f"turn {number}: {_explain(verdict)}", answer, numbers)
    return Score(1.0, "state and results right after every turn", answer, numbers)


def tables(scored: Sequence[tuple[Case, Run, Score]]) -> list[Table]:
    """Return a table by category: accuracy with Wilson's interval, with and without disputed cases; failures."""
    rows: list[tuple[str, ...]] = []
    for category in CATEGORIES:
        of_category = [item for item in scored if item[0].group == category]
        if of_category:
            rows.append(_row(category.removeprefix("multi_turn_"), of_category))
    columns = (
        "category", "n", "right (95 % interval)", "disputed", "right without", "turns right", "kept still",
        "failed", "steps ran out",
    )  # fmt: skip
    return [Table("BFCL multi-turn", columns, tuple(rows))]


SUITE = Suite(
    name="bfcl-multi-turn",
    version=1,
    description="BFCL v4 multi-turn over simulated APIs; state and results are checked after every turn",
    load=load,
    solve=solve_conversation,
    score=score,
    options=OPTIONS,
    tables=tables,
    case_timeout_s=1800.0,
)


def _performed(run: Run) -> list[list[Call]]:
    """Return the calls of the run, turn by turn, as recorded by the solver."""
    turns = run.observed.get("turns", ())
    return [[Call(call["name"], call["arguments"]) for call in turn["calls"]] for turn in turns]


def _explain(verdict: TurnVerdict) -> str:
    if verdict.fault == "no_call":
        return "no call was made, and some were needed"
    shown = ", ".join(detail[:200] for detail in verdict.details[:3])
    if verdict.fault == "state":
        return f"the state differs in {shown}"
    return f"{len(verdict.details)} of the results needed never came: {shown}"


def _row(name: str, scored: Sequence[tuple[Case, Run, Score]]) -> tuple[str, ...]:
    n = len(scored)
    n_right = sum(score.value == 1.0 for _, _, score in scored)
    undisputed = [score.value for case, _, score in scored if case.id not in MULTI_TURN_DISPUTED]
    still = [score.numbers["kept_still"] for _, _, score in scored if "kept_still" in score.numbers]
    return (
        name,
        str(n),
        str(wilson(n_right, n)),
        str(n - len(undisputed)),
        f"{sum(undisputed) / len(undisputed):.3f}" if undisputed else "-",
        f"{sum(score.numbers.get('turns_right', 0.0) for _, _, score in scored) / n:.3f}",
        f"{sum(still) / len(still):.3f}" if still else "-",
        str(sum(run.status in ("failed", "timed_out") for _, run, _ in scored)),
        str(sum(run.status == "limit_reached" for _, run, _ in scored)),
    )


def _steps(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_STEPS:
        raise UserError(f"max_steps_per_turn={text!r} must be a whole number from 1 to {_MOST_STEPS}.")
    return int(text)
