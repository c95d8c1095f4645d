"""Final answers of mathematics: where they are found, and when they are the gold."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelstack.errors import UserError
from modelstack.reasoning.verifiers import symbolic
from modelstack.reasoning.verifiers.bounded_child import ChildLimits
from modelstack.reasoning.verifiers.math_answers import final_answer
from modelstack.reasoning.verifiers.math_comparison import Symbolic, compare
from modelstack.reasoning.verifiers.mathematics import MathVerifier
from modelstack.reasoning.verifiers.rewards import Completion, Item
from modelstack.reasoning.verifiers.symbolic import MathVerify

TRAIN = Path(__file__).resolve().parents[5] / "shared/data/posttrain/math/gsm8k_train.jsonl"
HAS_MATH_VERIFY = importlib.util.find_spec("math_verify") is not None


class NoSymbols:
    """Reads no expression, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def reads(self, gold: str) -> bool:
        self.asked += 1
        return False

    def equal(self, gold: str, answer: str) -> bool:
        self.asked += 1
        return False


@pytest.mark.parametrize(
    ("text", "answer", "place"),
    [
        (r"\boxed{1} then \boxed{\frac{1}{2}}.", r"\frac{1}{2}", "boxed"),
        (r"\boxed{\boxed{7}}", "7", "boxed"),
        (r"\boxed{5} and \boxed{6", "5", "boxed"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}", "boxed"),
        (r"#### 3 so \boxed{4}", "4", "boxed"),
        ("#### 1,234\n", "1,234", "hashes"),
        ("The answer is 3.\n#### 4", "4", "hashes"),
        ("The answer is 3. No, the final answer is: 4.5. Sure.", "4.5", "sentence"),
        (r"<think>\boxed{1}</think> \boxed{2}", "2", "boxed"),
    ],
)
def test_the_last_marked_answer_is_found_by_the_order_of_marks(text: str, answer: str, place: str) -> None:
    assert final_answer(text) == (answer, place)


def test_without_a_mark_a_number_counts_only_where_that_is_asked_for() -> None:
    assert final_answer("so 3 or 4") is None
    assert final_answer("so 3 or 4", lenient=True) == ("4", "last number")
    assert final_answer("no number", lenient=True) is None


def test_an_answer_within_unfinished_reasoning_is_none() -> None:
    assert final_answer(r"<think> it is \boxed{4}") is None
    assert final_answer(r"<think>a</think> \boxed{4} <think> hm", lenient=True) is None


@pytest.mark.parametrize(
    "text",
    [r"\boxed{" * 20_000, "{" * 30_000 + "}" * 30_000, "####" * 20_000, "the answer is " * 20_000, "-" * 200_000,
     r"\boxed{" + "9" * 200_000 + "}"],
    ids=["boxes", "braces", "hashes", "sentences", "signs", "digits"],
)  # fmt: skip
def test_no_text_makes_the_search_slow_or_gives_a_text_for_an_answer(text: str) -> None:
    found = final_answer(text, lenient=True)
    assert found is None or len(found.text) <= 1_000


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("18", "18.00", True),
        ("18", "$18", True),
        ("1234", "1,234", True),
        ("18", "18 apples", True),
        ("5 cm", r"5\text{ cm}", True),
        ("5 cm", "5", True),
        ("5 cm", "5 km", False),
        ("0.5", r"\frac{1}{2}", True),
        ("0.5", r"\frac12", True),
        ("-3/4", "-0.75", True),
        (r"50\%", "0.5", True),
        ("50", "50%", True),
        ("50%", "5", False),
        ("1/3", ".333", False),
        ("3", "3 or 4", False),
        ("3", "", False),
        ("1", "1e0", False),
        ("Evelyn", "evelyn", True),
        ("Evelyn", "nylevE", False),
        ("(1, 2)", "(1,2.0)", True),
        ("(1, 2)", "(2, 1)", False),
        (r"\{1, 2\}", "{2, 1}", True),
        ("1, 2", "2 and 1", True),
        ("[0, 1)", "[0,1)", True),
        ("[0, 1)", "(0, 1)", False),
        ("(1, 2)", "(1, 2, 3)", False),
    ],
)
def test_numbers_words_and_collections_are_compared_without_symbols(gold: str, answer: str, verdict: bool) -> None:
    symbols = NoSymbols()
    assert compare(gold, answer, lambda: symbols) is verdict
    assert symbols.asked <= (answer == "1e0") + (answer == "3 or 4")


@pytest.mark.parametrize("gold", ["", "  ", r"\frac{", "{{{", "5x+"])
@pytest.mark.parametrize("answer", ["", "5", r"\frac{", "{{{"])
def test_a_gold_that_nothing_reads_is_unscorable_whatever_the_answer(gold: str, answer: str) -> None:
    assert compare(gold, answer, NoSymbols) is None
    reward = MathVerifier(symbolic=NoSymbols).score(Item("x", gold), Completion(rf"\boxed{{{answer}}}"))
    assert reward.value is None


def test_a_reward_says_what_was_extracted_and_where() -> None:
    reward = MathVerifier().score(Item("x", "18"), Completion("#### 18"))
    assert (reward.value, reward.answer, reward.reason) == (1.0, "18", "hashes, gold '18'")
    assert MathVerifier().score(Item("x", "18"), Completion("18")).value == 0.0
    assert MathVerifier(lenient=True).score(Item("x", "18"), Completion("18")).value == 1.0


def test_an_expression_without_math_verify_is_an_error_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install .*\[verifiers\]"):
        MathVerifier(symbolic=MathVerify).score(Item("x", "x^2"), Completion(r"\boxed{x^2}"))


def test_every_sixteenth_gold_of_gsm8k_is_right_by_its_own_solution_and_wrong_by_the_next() -> None:
    if not TRAIN.exists():
        pytest.skip("needs GSM8K")
    with TRAIN.open(encoding="utf-8") as lines:
        solutions = [json.loads(line)["answer"] for line in lines]
    solutions = solutions[::16]
    golds = [solution.rpartition("#### ")[2] for solution in solutions]
    verifier = MathVerifier(symbolic=NoSymbols)
    assert len(golds) == 468
    for gold, solution, other in zip(golds, solutions, [*golds[1:], golds[0]], strict=True):
        assert verifier.score(Item("x", gold), Completion(solution)).value == 1.0
        same = gold.replace(",", "") == other.replace(",", "")
        assert verifier.score(Item("x", gold), Completion(f"#### {other}")).value == float(same), (gold, other)


# -- math-verify, in its child ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def math_verify() -> Iterator[Symbolic]:
    pytest.importorskip("math_verify")
    child = MathVerify(ChildLimits(wall_s=60.0, cpu_s=1))
    yield child
    child.close()


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("(x+1)^2", "x^2+2x+1", True),
        ("5", r"\sqrt{25}", True),
        ("5", "x=5", True),
        ("5x", "5", False),
        (r"(1, \sqrt{4})", "(1, 2)", True),
        (r"(-\infty, 3]", r"(-\infty,3]", True),
        ("1 < x < 2", "(1, 2)", True),
        (r"\pi", "3.14", False),
        (r"\frac{", "3", None),
    ],
)
def test_expressions_are_compared_by_symbols(
    gold: str, answer: str, verdict: bool | None, math_verify: Symbolic
) -> None:
    assert compare(gold, answer, lambda: math_verify) is verdict


@pytest.mark.parametrize("answer", ["9**9**9**9", "9^{9^{9^{9}}}"])
def test_an_answer_that_never_ends_is_wrong_and_the_next_one_is_judged(answer: str, math_verify: Symbolic) -> None:
    assert compare("5", answer, lambda: math_verify) is False
    assert compare("5", r"\sqrt{25}", lambda: math_verify) is True


def test_expressions_are_compared_outside_the_main_thread(math_verify: Symbolic) -> None:
    found: list[bool | None] = []
    threads = [
        threading.Thread(target=lambda: found.append(compare("x+x", "2x", lambda: math_verify))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True, True]


@pytest.mark.skipif(HAS_MATH_VERIFY, reason="math-verify is installed")
def test_the_child_is_not_started_where_math_verify_is_not_installed() -> None:
    symbolic.shared.cache_clear()
    with pytest.raises(UserError, match="math-verify"):
        symbolic.shared()
