"""Best of n, self-consistency and their curves: equal to counting every subset."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.inference.best_of import best_of_n, sample_replies, self_consistency
from modelstack.inference.curves_at_k import (
    CURVES,
    Judged,
    best_at_k,
    curve,
    majority_at_k,
    pass_at_k,
    weighted_vote_at_k,
)
from modelstack.inference.engine import GenerateRequest, SamplingParams
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.inference.thinking import ThinkingBudget
from tests.modelstack.inference.fakes import ScriptedGrammar
from tests.modelstack.inference.tiny_gguf import write_tiny_gguf

ANSWERS = st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=7)


def over_subsets(n: int, k: int, of: Callable[[Sequence[int]], float]) -> float:
    """The plain mean over all subsets."""
    values = [of(chosen) for chosen in itertools.combinations(range(n), k)]
    return math.fsum(values) / len(values)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_reply(right: list[bool], data: Any) -> None:
    k = data.draw(st.integers(1, len(right)))
    expected = over_subsets(len(right), k, lambda chosen: float(any(right[i] for i in chosen)))
    assert pass_at_k(len(right), sum(right), k) == pytest.approx(expected)


@settings(deadline=None, max_examples=80)
@given(ANSWERS, st.sets(st.sampled_from(["a", "b", "c"])), st.data())
def test_majority_at_k_is_the_mean_over_subsets_with_ties_shared(
    answers: list[str | None], gold: set[str], data: Any
) -> None:
    k = data.draw(st.integers(1, len(answers)))

    def won(chosen: Sequence[int]) -> float:
        counts = Counter(answers[i] for i in chosen if answers[i] is not None)
        winners = [answer for answer, n in counts.items() if n == max(counts.values())]
        return sum(winner in gold for winner in winners) / len(winners) if winners else 0.0

    found = majority_at_k(answers, [answer in gold for answer in answers], k)
    assert found == pytest.approx(over_subsets(len(answers), k, won))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=7), st.data())
def test_best_at_k_is_the_mean_over_subsets_with_ties_shared(replies: list[tuple[int, bool]], data: Any) -> None:
    values, right = [float(value) for value, _ in replies], [is_right for _, is_right in replies]
    k = data.draw(st.integers(1, len(replies)))

    def best(chosen: Sequence[int]) -> float:
        top = [i for i in chosen if values[i] == max(values[j] for j in chosen)]
        return sum(right[i] for i in top) / len(top)

    # Among equals of the whole group each is as often in a subset as the other.
    assert best_at_k(values, right, k) == pytest.approx(over_subsets(len(replies), k, best))


def test_many_replies_are_counted_exactly_and_soon() -> None:
    # 64 replies, 40 of them right, the others all of different answers: the majority is all but certain.
    answers = ["right"] * 40 + [f"wrong {i}" for i in range(24)]
    right = [answer == "right" for answer in answers]
    assert majority_at_k(answers, right, 1) == pytest.approx(40 / 64)
    assert majority_at_k(answers, right, 16) > 0.999
    assert majority_at_k(answers, right, 64) == 1.0
    # Two answers of 32 each: a coin at every odd k, and with ties shared at every other too.
    answers = ["x", "y"] * 32
    for k in (1, 2, 7, 64):
        assert majority_at_k(answers, [answer == "x" for answer in answers], k) == pytest.approx(0.5)


def test_a_weighted_vote_follows_its_weights() -> None:
    answers, right = ["a", "a", "b"], [False, False, True]
    assert weighted_vote_at_k(answers, right, [1, 1, 1], 3) == 0
    assert weighted_vote_at_k(answers, right, [1, 1, 3], 3) == 1
    # Of two, `b` is in two of three subsets and outweighs each `a`.
    assert weighted_vote_at_k(answers, right, [1, 1, 3], 2, n_subsets=4000) == pytest.approx(2 / 3, abs=0.03)
    same = [weighted_vote_at_k(answers, right, [1, 1, 3], 2, n_subsets=50, seed=s) for s in (1, 1)]
    assert same[0] == same[1]


def test_votes_and_best_replies() -> None:
    vote = self_consistency(["7", None, "8", "8"])
    assert (vote.answer, vote.share, dict(vote.weights)) == ("8", 0.5, {"7": 1.0, "8": 2.0})
    assert self_consistency(["7", "8"]).answer == "7"  # of equals the first
    assert self_consistency(["7", "8", "8"], [5.0, 1.0, 1.0]).answer == "7"
    assert self_consistency([None, None]).answer is None
    assert self_consistency(["7"], [0.0]).answer is None
    with pytest.raises(ValueError, match="each needs one, finite and at least 0"):
        self_consistency(["7"], [-1.0])
    assert best_of_n([0.5, None, 2.0, 2.0]) == 2
    assert best_of_n([None, None]) is None


def test_curves_have_an_interval_over_tasks() -> None:
    tasks = [Judged(("1", "1", "2", "3"), (True, True, False, False), (-0.1, -0.2, -0.9, -0.8))] * 5
    tasks += [Judged(("1", "2", "2", None), (True, False, False, False), (-0.5, -0.1, -0.1, -0.1))] * 5
    for name, at_k in CURVES.items():
        points = curve(tasks, [1, 2, 4], at_k)
        assert [point.k for point in points] == [1, 2, 4], name
        # A share of drawn subsets of one comes near the mean, the others are the mean.
        assert points[0].value == pytest.approx(0.375, abs=0.06 if "weighted" in name else 1e-9)
        assert all(0 <= point.low <= point.value <= point.high <= 1 for point in points)
        assert points[0].n_tasks == 10
    last = {name: curve(tasks, [4], at_k)[0].value for name, at_k in CURVES.items()}
    assert last["pass@k"] == 1.0 and last["maj@k"] == 0.5 and last["best@k by log-probability"] == 0.5


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: pass_at_k(4, 5, 1), "n_right is 5 of 4"),
        (lambda: pass_at_k(4, 1, 5), "k is 5 of 4"),
        (lambda: majority_at_k(["a"], [True], 0), "k is 0 of 1"),
        (lambda: majority_at_k(["a", "a"], [True, False], 1), "'a' is right in one reply and wrong in another"),
        (lambda: curve([], [1], CURVES["maj@k"]), "at least one task"),
    ],
    ids=["right", "k", "zero", "mixed", "empty"],
)
def test_numbers_that_do_not_fit_are_refused(call: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        call()


def test_several_replies_of_an_engine_differ_and_come_again(tmp_path: Any) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf")
    with LlamaCppEngine(file, n_threads=1, n_threads_prefill=1, context_window=256) as engine:
        prompt = engine.vocabulary.encode("The quick brown fox")
        request = GenerateRequest(prompt, 6, sampling=SamplingParams(temperature=1.0, seed=5))
        replies = sample_replies(engine, request, 4)
        assert len({reply.ids for reply in replies}) > 1
        assert [reply.ids for reply in sample_replies(engine, request, 4)] == [reply.ids for reply in replies]
        thoughtful = sample_replies(engine, request, 2, budget=ThinkingBudget(max_tokens=3))
        assert all(reply.n_thinking == 3 and "</think>" in reply.text for reply in thoughtful)
        assert all(reply.is_truncated and reply.mean_logprob < 0 for reply in replies)
        with pytest.raises(ValueError, match="1 at temperature 0"):
            sample_replies(engine, GenerateRequest(prompt, 6), 2)
        grammar = ScriptedGrammar([])
        with pytest.raises(ValueError, match="the state of one reply"):
            sample_replies(engine, GenerateRequest(prompt, 6, grammar=grammar), 1)
