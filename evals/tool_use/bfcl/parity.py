"""Compares this package's BFCL checker with the original, item by item, on correct and mutated answers.

    python -m evals.tool_use.bfcl.parity [--wheel FOLDER] [--rounds N] [--seed N] [--limit N]

Correct answers are made from every key: first values, each acceptable value in turn, optional parameters omitted,
calls reversed. Every first rendering is then changed by every applicable mutation, `--rounds` times, and some
correct answers by several mutations at once. For Java and JavaScript, both converters also get random literals.
Final answers of the agentic categories are rephrased and mutated likewise (`agentic_mutations`).

Two verdicts agree if both say correct or both say wrong. An exception in the original would end its whole
evaluation: then this checker must say wrong, and the exception must match an entry of `EXPLAINED`. Exit status 1
if anything else differs.

The original runs in its own process with only the wheel's files (`original_child`).
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from evals.tool_use.bfcl import original_child
from evals.tool_use.bfcl.agentic import AGENTIC, check_answer, load_answers
from evals.tool_use.bfcl.agentic_mutations import gold_answers, spoiled_answers
from evals.tool_use.bfcl.checker import calls_from_dicts, check_calls
from evals.tool_use.bfcl.data import (
    CATEGORIES,
    Language,
    Question,
    data_folder,
    has_answers,
    language,
    load_questions,
)
from evals.tool_use.bfcl.java import java_value
from evals.tool_use.bfcl.javascript import javascript_value
from evals.tool_use.bfcl.literal_mutations import LITERAL_MUTATIONS, random_literals
from evals.tool_use.bfcl.literals import UnsupportedTypeError
from evals.tool_use.bfcl.mutations import ANY_MUTATIONS, mutants, several_changes
from evals.tool_use.bfcl.renderings import Calls, first_rendering, renderings
from evals.tool_use.bfcl.wheel import wheel_folder

DEFAULT_SEED = 7
N_LITERALS = 20_000
"""Number of random literals for each of the two languages."""
LITERALS_AT_ONCE = 500
N_SEVERAL = 10
"""Number of answers with several mutations, per question and round."""
EXPLAINED: Mapping[str, str] = {
    r"OverflowError: int too large to convert to float": "an integer for a float is converted whatever its size",
    r"NotImplementedError: \w+ conversion is not implemented": "Java's Set, Hashtable, Queue, Stack are not read",
    r"ValueError: invalid literal for int\(\) with base 10: '-?\d+n'": "a bigint with a line break after it",
}
"""Exceptions of the original (regular expressions) with their cause; this checker says wrong for all of them."""


@dataclass
class Report:
    """Counts and differences of a comparison."""

    by_category: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Counts by (category, name): right answers, mutated, judged right, original raised, differences."""
    by_kind: Counter[tuple[str, str]] = field(default_factory=Counter)
    raised: Counter[str] = field(default_factory=Counter)
    """Exceptions of the original, counted by the pattern that explains them."""
    other_error_types: int = 0
    """Number of answers that both call wrong, with different error types."""
    differences: list[str] = field(default_factory=list)

    def add(self, category: str, kind: str, original: Sequence[Any], ours: tuple[bool, str], shown: Any) -> None:
        """Count one comparison; `original` is the child's reply, `ours` is (valid, error type)."""
        gold = kind.startswith("gold")
        valid, said = original
        pattern = explanation(said) if valid is None else None
        for table, key in ((self.by_category, category), (self.by_kind, kind)):
            table[key, "right answers" if gold else "mutated"] += 1
            table[key, "judged right"] += bool(valid)
            table[key, "original raised"] += valid is None
        if valid is None:
            self.raised[pattern or f"NOT EXPLAINED {said}"] += 1
        self.other_error_types += valid is False and not ours[0] and said != ours[1]
        if (valid is None and (pattern is None or ours[0])) or (valid is not None and valid != ours[0]):
            for table, key in ((self.by_category, category), (self.by_kind, kind)):
                table[key, "differences"] += 1
            self.differences.append(f"{category}, {kind}: original {original}, ours {ours}: {shown}"[:600])

    def total(self, what: str) -> int:
        """Return the sum of a count over all categories."""
        return sum(n for (_, counted), n in self.by_category.items() if counted == what)


class Original:
    """The original checker in its own process; a context manager."""

    def __init__(self, wheel: Path) -> None:
        """Prepare the command; `wheel` is the folder of the unpacked wheel."""
        self._command = [sys.executable, "-I", "-S", str(original_child.__file__), str(wheel)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Start the process."""
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            encoding="utf-8",
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def verdicts(self, question: Question, outputs: Sequence[Calls], *, underscores: bool) -> list[list[Any]]:
        """Return [valid, error type] or [None, exception] for each output."""
        return self._ask(
            {
                "functions": question.functions,
                "answer": question.answer,
                "language": language(question.category),
                "category": question.category,
                "underscores": underscores,
                "outputs": [original_child.encode(calls) for calls in outputs],
            }
        )

    def answers(self, acceptable: Sequence[str], answers: Sequence[str]) -> list[list[Any]]:
        """Return [valid, error type] or [None, exception] for each final answer."""
        return self._ask({"acceptable": acceptable, "answers": answers})

    def literals(self, texts: Sequence[tuple[str, str, str, str | None]]) -> list[list[Any]]:
        """Return [True, repr of the value] or [None, exception] for each (language, text, type, inner type)."""
        return self._ask({"literals": texts})

    def _ask(self, request: Mapping[str, Any]) -> list[list[Any]]:
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        reply = self._process.stdout.readline()
        if not reply:
            raise RuntimeError(
                f"the original checker ended with {self._process.wait()}: {' '.join(self._command)}"
            )
        return json.loads(reply)


def explanation(exception: str) -> str | None:
    """Return the pattern of `EXPLAINED` that matches an exception of the original, or None."""
    return next((pattern for pattern in EXPLAINED if re.fullmatch(pattern, exception, re.DOTALL)), None)


def compare(
    wheel: Path,
    *,
    seed: int = DEFAULT_SEED,
    rounds: int = 1,
    limit: int | None = None,
    n_literals: int = N_LITERALS,
) -> Report:
    """Compare both checkers on the wheel's data.

    Args:
        wheel: Folder of the unpacked wheel.
        seed: Seed of the mutations.
        rounds: Number of times that every mutation is made of every correct answer.
        limit: Number of questions per category, evenly spread; None takes all.
        n_literals: Number of random literals for each of Java and JavaScript.

    Raises:
        UserError: the wheel's data cannot be read.
        RuntimeError: the original checker ended unexpectedly.
    """
    report, draw = Report(), random.Random(seed)
    folder = data_folder(wheel)
    with Original(wheel) as original:
        for category in filter(has_answers, CATEGORIES):
            questions = load_questions(folder, category)
            for question in questions[:: max(1, len(questions) // limit)] if limit else questions:
                _compare_question(original, question, rounds, draw, report)
        for category in AGENTIC:
            _compare_answers(original, category, load_answers(folder, category), rounds, limit, draw, report)
        for spoken in ("java", "javascript"):
            _compare_literals(original, spoken, n_literals, draw, report)
    return report


def _compare_question(
    original: Original, question: Question, rounds: int, draw: random.Random, report: Report
) -> None:
    assert question.answer is not None  # categories without answers are not compared
    answers = list(_answers(question, rounds, draw))
    for underscores in (False, True):
        # The spelling of names hardly affects other rules, so underscores are tried on correct answers and a share
        # of the others.
        chosen = [
            answer for answer in answers if not underscores or answer[0].startswith("gold") or draw.random() < 0.1
        ]
        if underscores:
            chosen = [(kind, _with_underscores(calls, draw)) for kind, calls in chosen]
        replies = original.verdicts(question, [calls for _, calls in chosen], underscores=underscores)
        for (kind, calls), reply in zip(chosen, replies, strict=True):
            verdict = check_calls(
                question.functions,
                calls_from_dicts(calls),
                question.answer,
                category=question.category,
                language=language(question.category),
                underscores=underscores,
            )
            report.add(question.category, kind, reply, (verdict.valid, verdict.error_type), (question.id, calls))


def _answers(question: Question, rounds: int, draw: random.Random) -> Iterator[tuple[str, Calls]]:
    gold = list(renderings(question))
    yield from gold
    kinds = {**ANY_MUTATIONS, **LITERAL_MUTATIONS[language(question.category)]}
    right = first_rendering(question)
    for _ in range(rounds):
        yield from mutants(question, right, kinds, draw)
        for _, calls in draw.choices(gold, k=N_SEVERAL):
            yield "values: several changes", several_changes(question, calls, kinds, draw)


def _with_underscores(calls: Calls, draw: random.Random) -> Calls:
    """Return calls with underscores for dots in nine of ten cases; the rest covers the wrong spelling."""
    if draw.random() < 0.1:
        return calls
    return [{name.replace(".", "_"): arguments for name, arguments in call.items()} for call in calls]


def _compare_answers(
    original: Original,
    category: str,
    keys: Mapping[str, Sequence[str]],
    rounds: int,
    limit: int | None,
    draw: random.Random,
    report: Report,
) -> None:
    others = [option for key in keys.values() for option in key]
    for item, acceptable in list(keys.items())[:: max(1, len(keys) // limit) if limit else 1]:
        answers = [*gold_answers(acceptable), *spoiled_answers(acceptable, others, rounds, draw)]
        replies = original.answers(acceptable, [answer for _, answer in answers])
        for (kind, answer), reply in zip(answers, replies, strict=True):
            verdict = check_answer(answer, acceptable)
            report.add(category, kind, reply, (verdict.valid, verdict.error_type), (item, answer))


def _compare_literals(original: Original, spoken: Language, n: int, draw: random.Random, report: Report) -> None:
    convert = java_value if spoken == "java" else javascript_value
    texts = [(spoken, *literal) for literal in random_literals(spoken, n, draw)]
    for start in range(0, n, LITERALS_AT_ONCE):
        part = texts[start : start + LITERALS_AT_ONCE]
        for (_, text, declared, inner), (read, said) in zip(part, original.literals(part), strict=True):
            try:
                ours = repr(convert(text, declared, inner))
            except UnsupportedTypeError:
                ours = ""
            # Equal values count as correct, so that an exception of the original never matches a value of this
            # converter.
            reply = [None, said] if read is None else [said == ours, "another value"]
            agreed = (bool(ours) and read is not None, "")
            report.add(
                f"{spoken} literals", f"random literal: {declared}", reply, agreed, (text, inner, said, ours)
            )


def table(counts: Counter[tuple[str, str]], first_column: str) -> str:
    """Format counts as an aligned table with a row per key and a total."""
    columns = ("right answers", "mutated", "judged right", "original raised", "differences")
    keys = list(dict.fromkeys(key for key, _ in counts))
    rows = [(key, *(f"{counts[key, column]:,}" for column in columns)) for key in keys]
    totals = [f"{sum(counts[key, column] for key in keys):,}" for column in columns]
    rows = [(first_column, *columns), *rows, ("all", *totals)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns) + 1)]
    lines = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print the report, and return 0 if nothing differs, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m evals.tool_use.bfcl.parity", description="Our BFCL checker against the original."
    )
    parser.add_argument("--wheel", type=Path, help="folder of the unpacked bfcl-eval wheel; default: fetched once")
    parser.add_argument("--rounds", type=int, default=1, help="number of times every mutation is made (default 1)")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help=f"default {DEFAULT_SEED}")
    parser.add_argument("--limit", type=int, help="number of questions per category; default: all")
    given = parser.parse_args(arguments)
    report = compare(given.wheel or wheel_folder(), seed=given.seed, rounds=given.rounds, limit=given.limit)
    print(table(report.by_category, "category"), "\n")
    print(table(report.by_kind, "kind of answer"), "\n")
    for pattern, n in report.raised.items():
        print(f"original raised {n:,} times: {pattern}\n    {EXPLAINED.get(pattern, 'NO EXPLANATION')}")
    print(f"\nboth wrong with another type of error: {report.other_error_types:,}")
    for difference in report.differences[:50]:
        print("DIFFERENCE", difference)
    print(f"unexplained differences: {len(report.differences)}")
    return 1 if report.differences else 0


if __name__ == "__main__":
    raise SystemExit(main())
