"""Compares this package's multi-turn checker with the original, answer by answer.

    python -m evals.tool_use.bfcl.multi_turn_parity [--data FOLDER] [--every N] [--seed N]

Both checkers judge every case's key and its mutations (`multi_turn_mutations`). Compared are the verdict, the
first check that failed, and whether the model made no call where the key is empty. The original runs in a child
process from the unpacked wheel. Exit status: 1 if the checkers differ, 2 if a file is missing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentkit.errors import UserError
from evals.case import Case
from evals.tool_use.bfcl import multi_turn_original
from evals.tool_use.bfcl.multi_turn_calls import parse_turns
from evals.tool_use.bfcl.multi_turn_cases import environment, load_cases
from evals.tool_use.bfcl.multi_turn_checker import check_turns, keeps_still
from evals.tool_use.bfcl.multi_turn_environment import SOURCE_FOLDER
from evals.tool_use.bfcl.multi_turn_mutations import MUTATIONS, Turns, mutated

_FAULTS = {
    "multi_turn:empty_turn_model_response": "no_call",
    "multi_turn:instance_state_mismatch": "state",
    "multi_turn:execution_response_mismatch": "results",
    None: None,
}
_TIMEOUT_S = 1800


@dataclass(frozen=True, slots=True)
class Judgement:
    """Judgement of one checker on an answer."""

    fault: str | None
    """The first check that failed; None if the answer is correct."""
    keeps_still: bool


@dataclass(frozen=True, slots=True)
class Item:
    """An answer to judge."""

    case: Case
    kind: str
    turns: Turns


@dataclass(frozen=True, slots=True)
class Compared:
    """An answer with the judgements of both checkers."""

    item: Item
    ours: Judgement
    original: Judgement

    @property
    def differs(self) -> bool:
        """Whether the two judgements differ."""
        return self.ours != self.original

    def __str__(self) -> str:
        """Return one line with everything needed to reproduce the comparison."""
        calls = json.dumps([[str(call) for call in turn] for turn in self.item.turns])
        return f"{self.item.case.id} ({self.item.kind}): ours {self.ours}, original {self.original}, calls {calls}"


def answers(cases: Sequence[Case], *, seed: int = 0) -> list[Item]:
    """Return the key of every case and all mutations of it that apply."""
    items: list[Item] = []
    for case in cases:
        for kind in MUTATIONS:
            turns = mutated(case, kind, seed=seed)
            if turns is not None:
                items.append(Item(case, kind, turns))
    return items


def judge(item: Item) -> Judgement:
    """Judge an item with this package's checker."""
    reference = parse_turns(item.case.target)
    verdicts = check_turns(item.turns, reference, environment(item.case), environment(item.case))
    fault = next((verdict.fault for verdict in verdicts if not verdict.is_right), None)
    return Judgement(fault, keeps_still(item.turns, reference) is not False)


def judge_by_original(items: Sequence[Item]) -> list[Judgement]:
    """Judge items with the original checker in one child process.

    Raises:
        UserError: the child failed; the message ends with its error output.
    """
    if not items:
        return []
    wheel = Path(items[0].case.data["simulators"].removesuffix(SOURCE_FOLDER))
    lines = "".join(f"{_as_line(item)}\n" for item in items)
    command = [sys.executable, "-P", str(multi_turn_original.__file__), str(wheel)]
    done = subprocess.run(
        command, input=lines, capture_output=True, text=True, encoding="utf-8", timeout=_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise UserError(f"the original checker of {wheel} failed with {done.returncode}: {done.stderr[-2000:]}")
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    return [Judgement(_FAULTS[verdict["error_type"]], verdict["keeps_still"]) for verdict in verdicts]


def compare(items: Sequence[Item]) -> list[Compared]:
    """Judge all items with both checkers.

    Raises:
        UserError: the original checker failed, as in `judge_by_original`.
    """
    ours = [judge(item) for item in items]
    return [Compared(*each) for each in zip(items, ours, judge_by_original(items), strict=True)]


def table(title: str, name_of: Callable[[Item], str], compared: Sequence[Compared]) -> str:
    """Return a table of this package's judgements and the number of differences, by name of items and over all."""
    groups: dict[str, list[Compared]] = {}
    for each in compared:
        groups.setdefault(name_of(each.item), []).append(each)
    lines = [f"{title:<28}{'answers':>9}{'right':>9}{'no call':>9}{'state':>9}{'results':>9}{'differ':>9}"]
    for name, members in {**groups, "all": list(compared)}.items():
        faults = Counter(each.ours.fault for each in members)
        counts = [faults[fault] for fault in (None, "no_call", "state", "results")]
        n_different = sum(each.differs for each in members)
        lines.append(f"{name:<28}" + "".join(f"{n:>9,}" for n in (len(members), *counts, n_different)))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; return 0 if the checkers agree, 1 if they differ, 2 if a file is missing."""
    parser = argparse.ArgumentParser(prog="evals.tool_use.bfcl.multi_turn_parity", description=__doc__)
    parser.add_argument("--data", help="folder bfcl_eval/data of the wheel; default: fetched")
    parser.add_argument("--every", type=int, default=1, help="take only every N-th case")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        items = answers(load_cases(given.data)[:: given.every], seed=given.seed)
        compared = compare(items)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(table("category", lambda item: item.case.group, compared), "\n")
    print(table("change", lambda item: item.kind, compared), "\n")
    found = [each for each in compared if each.differs]
    for each in found:
        print("DIFFERENCE", each)
    print(f"unexplained differences: {len(found)}")
    return 1 if found else 0


def _as_line(item: Item) -> str:
    case = item.case
    entry = {
        "id": case.id,
        "initial_config": case.data["initial_config"],
        "involved_classes": case.data["classes"],
    }
    turns = [[str(call) for call in turn] for turn in item.turns]
    return json.dumps({"entry": entry, "turns": turns, "truth": case.target})


if __name__ == "__main__":
    sys.exit(main())
