"""Tasks of reasoning-gym: the same for the same seed, graded strictly, and without executing an answer."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelstack.errors import UserError
from modelstack.reasoning.verifiers.bounded_child import ChildLimits
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.reasoning.verifiers.gym import (
    EVALUATING,
    GymGold,
    GymTask,
    GymVerifier,
    answer_of,
    dataset_of,
    is_safe_to_evaluate,
)
from modelstack.reasoning.verifiers.rewards import Completion, Item

SUMS = GymTask("chain_sum", seed=1, size=3)


@pytest.fixture(scope="module")
def verifier() -> Iterator[GymVerifier]:
    pytest.importorskip("reasoning_gym")
    made = GymVerifier(limits=ChildLimits(wall_s=60.0, cpu_s=10))
    yield made
    made.close()


@pytest.fixture(scope="module")
def lenient() -> Iterator[GymVerifier]:
    pytest.importorskip("reasoning_gym")
    made = GymVerifier(threshold=0.05, limits=ChildLimits(wall_s=60.0, cpu_s=1))
    yield made
    made.close()


def gold_answer(gold: GymGold) -> str:
    return dataset_of(gold.task)[gold.index]["answer"]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>1</answer> <answer> 2\n3 </answer>", "2\n3"),
        ("<answer>1</answer> <answer>2", "1"),
        (r"<think><answer>1</answer></think> \boxed{4}", "4"),
        ("<think><answer>1</answer>", None),
        ("1", None),
    ],
)
def test_an_answer_stands_in_its_tags_or_as_in_mathematics(text: str, answer: str | None) -> None:
    assert answer_of(text) == answer


@pytest.mark.parametrize(
    "answer",
    [
        "(1 + 2) * 3",
        "3*x**2 + sin(x) + C",
        "['a', 'b']",
        "[[1, 2], [3, 4]]",
        "_ Q _\nQ _ _",
        "-1.5",
        "x*log(x)",
        "1 2 3",
    ],
)
def test_plain_data_and_arithmetic_may_be_evaluated(answer: str) -> None:
    assert is_safe_to_evaluate(answer)


@pytest.mark.parametrize(
    "answer",
    ["__import__('os').system('true')", "exec(chr(97))", "open('x')", "''.join(x)", "S('exec(1)')", "().__class__",
     "[x for x in {1}]", "lambda: 1", "(lambda x: 1)(2)", "x.y", "x . y", "\uff45val(1)", "f'{1}'", "[1](open)",
     "sin(open(1))", "a = 1", "x; y", "'\\x41'"],
)  # fmt: skip
def test_what_could_be_executed_is_not_evaluated(answer: str) -> None:
    assert not is_safe_to_evaluate(answer)


def test_without_reasoning_gym_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install .*\[verifiers\]"):
        GymVerifier()
    with pytest.raises(UserError, match=r"pip install .*\[verifiers\]"):
        next(SUMS.items())


def test_items_are_the_same_for_the_same_seed(verifier: GymVerifier) -> None:
    first, other = list(SUMS.items()), list(GymTask("chain_sum", seed=2, size=3).items())
    assert [item.prompt for item in first] == [item.prompt for item in SUMS.items()]
    assert [item.prompt for item in first] != [item.prompt for item in other]
    assert [item.id for item in first] == ["chain_sum/1/0", "chain_sum/1/1", "chain_sum/1/2"]


def test_a_level_makes_tasks_harder(verifier: GymVerifier) -> None:
    def longest(level: int) -> int:
        return max(len(item.prompt) for item in GymTask("chain_sum", seed=1, size=20, level=level).items())

    assert longest(0) < longest(3)


def test_settings_that_are_refused_are_told(verifier: GymVerifier) -> None:
    with pytest.raises(UserError, match="no task 'chain_sums'"):
        next(GymTask("chain_sums", seed=1).items())
    with pytest.raises(UserError, match="refuses level None"):
        next(GymTask("chain_sum", seed=1, config={"min_terms": 9, "max_terms": 2}).items())
    with pytest.raises(UserError, match="Name the parts"):
        next(GymTask("composite", seed=1).items())
    with pytest.raises(UserError, match="threshold is 0"):
        GymVerifier(threshold=0.0)


def test_part_of_a_reward_is_none_unless_the_threshold_says_so(
    verifier: GymVerifier, lenient: GymVerifier
) -> None:
    item = next(SUMS.items())
    answer = gold_answer(item.gold)
    assert verifier.score(item, Completion(f"<answer>{answer}</answer>")).value == 1.0
    hedged = Completion(f"<answer>{answer} or so</answer>")
    reward = verifier.score(item, hedged)
    assert reward.value == 0.0
    assert 0 < (reward.parts["graded"] or 0) < 1
    assert lenient.score(item, hedged).value == 1.0


@pytest.mark.parametrize("name", ["countdown", "spiral_matrix", "simple_integration", "leg_counting"])
def test_the_gold_of_a_task_is_right_and_its_hacks_are_not(
    name: str, verifier: GymVerifier, tmp_path: Path
) -> None:
    item = next(GymTask(name, seed=3, size=1).items())
    assert verifier.score(item, Completion(f"<answer>{gold_answer(item.gold)}</answer>")).value == 1.0
    touched = tmp_path / "touched"
    for hack in (f"open('{touched}', 'w')", f"exec(\"open('{touched}', 'w')\")", "("):
        assert verifier.score(item, Completion(f"<answer>{hack}</answer>")).value == 0.0
    assert not touched.exists()


def test_an_answer_whose_grading_never_ends_is_wrong(lenient: GymVerifier) -> None:
    item = next(GymTask("countdown", seed=3, size=1).items())
    reward = lenient.score(item, Completion("<answer>9**9**9**9</answer>"))
    assert (reward.value, reward.reason) == (0.0, "grading took too long")


def test_canaries_of_the_gym_earn_nothing(verifier: GymVerifier) -> None:
    assert GuardedReward(verifier).run_probes() == 0


def test_every_grader_that_executes_an_answer_is_known() -> None:
    pytest.importorskip("reasoning_gym")
    specification = importlib.util.find_spec("reasoning_gym")
    assert specification is not None and specification.origin is not None
    executing: set[str] = set()
    for file in Path(specification.origin).parent.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        if re.search(r"(?:\beval|\bsympify|sympy\.parse_expr|sp\.parse_expr|\(parse_expr)\(answer\b", text):
            executing |= set(re.findall(r"DATASET_NAME = \"(\w+)\"|register_dataset\(\s*\"(\w+)\"", text)[0])
    assert executing - {""} == EVALUATING


def test_an_item_of_a_grader_that_refuses_its_own_answer_is_unscorable() -> None:
    class Refusing(GymVerifier):
        def __init__(self) -> None:
            self._threshold, self._oracle = 1.0, lambda place: 0.5  # type: ignore[assignment]

    assert Refusing().score(Item("x", GymGold(SUMS, 0)), Completion("<answer>1</answer>")).value is None
