"""Draws follow the distribution that the parameters describe."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.inference.engine import EngineError, SamplingParams
from modelstack.inference.legal_tokens import LegalTokens
from modelstack.inference.sampling import Sampler, most_probable
from tests.modelstack.inference.fakes import mask_of

N = 12
N_DRAWS = 6000
LOGITS = np.array([2.0, 1.5, 1.4, 1.0, 0.5, 0.3, 0.0, -0.5, -1.0, -2.0, -3.0, -9.0], dtype=np.float32)
CHI_SQUARE_999 = (1e-9, 10.8, 13.8, 16.3, 18.5, 20.5, 22.5, 24.3, 26.1, 27.9, 29.6, 31.3)
"""Critical values at p = 0.001 by degrees of freedom; with one cell left every draw must fall into it."""

EVERYTHING = LegalTokens.all_except(frozenset(), N)


def expected_distribution(params: SamplingParams, legal: list[int]) -> np.ndarray:
    """The filters written down naively, over a sorted list."""
    p = np.zeros(N)
    p[legal] = np.exp(LOGITS[legal].astype(np.float64) / params.temperature)
    p /= p.sum()
    order = sorted(legal, key=lambda i: -p[i])
    if params.top_k:
        order = order[: params.top_k]
    mass = sum(p[i] for i in order)
    kept, reached = [], 0.0
    for i in order:
        if reached >= params.top_p * mass:
            break
        kept.append(i)
        reached += p[i]
    kept = [i for i in kept if p[i] >= params.min_p * p[order[0]]]
    result = np.zeros(N)
    result[kept] = p[kept] / p[kept].sum()
    return result


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.5),
        SamplingParams(temperature=2.0),
        SamplingParams(temperature=1.0, top_k=3),
        SamplingParams(temperature=1.0, top_p=0.7),
        SamplingParams(temperature=1.3, min_p=0.2),
        SamplingParams(temperature=0.8, top_k=6, top_p=0.9, min_p=0.1),
    ],
    ids=str,
)
@pytest.mark.parametrize("legal", [list(range(N)), [1, 3, 4, 6, 7, 9]], ids=["all", "masked"])
def test_draws_follow_the_filtered_distribution(params: SamplingParams, legal: list[int]) -> None:
    sampler = Sampler(N, params, np.random.default_rng(7))
    mask = LegalTokens.from_mask(mask_of(legal, N), N) if len(legal) < N else EVERYTHING
    counts = np.bincount([sampler.draw(LOGITS, mask).token for _ in range(N_DRAWS)], minlength=N)
    expected = expected_distribution(params, legal) * N_DRAWS
    assert counts[expected == 0].sum() == 0
    cells = expected >= 5
    statistic = float(((counts[cells] - expected[cells]) ** 2 / expected[cells]).sum())
    assert statistic < CHI_SQUARE_999[int(cells.sum()) - 1]


def test_log_probabilities_are_those_at_temperature_one_whatever_the_sampling() -> None:
    sampler = Sampler(N, SamplingParams(temperature=0.3, top_k=2, seed=1), np.random.default_rng(1))
    drawn = sampler.draw(LOGITS, LegalTokens.from_mask(mask_of([4, 5], N), N))
    log_sum = math.log(np.exp(LOGITS.astype(np.float64)).sum())
    legal_sum = math.log(np.exp(LOGITS[[4, 5]].astype(np.float64)).sum())
    assert drawn.logprob == pytest.approx(LOGITS[drawn.token] - log_sum, abs=1e-5)
    assert drawn.masked_logprob == pytest.approx(LOGITS[drawn.token] - legal_sum, abs=1e-5)
    assert drawn.n_legal == 2


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("sparse", [True, False])
def test_legal_tokens_far_below_the_best_illegal_one_keep_their_proportions(
    temperature: float, sparse: bool
) -> None:
    logits = np.array([500.0, -500.0, -500.0, 0.0], dtype=np.float32)
    sampler = Sampler(4, SamplingParams(temperature), np.random.default_rng(0))
    flags = np.array([False, True, True, False])
    drawn = sampler.draw(
        logits, LegalTokens.from_ids(np.array([1, 2])) if sparse else LegalTokens.from_flags(flags)
    )
    assert drawn.masked_logprob == pytest.approx(math.log(0.5))
    assert drawn.logprob == pytest.approx(-1000)


@settings(max_examples=60)
@given(st.sets(st.integers(0, 999), min_size=1), st.integers(0, 2**32 - 1))
def test_sparse_and_dense_masks_give_the_same_tokens_and_probabilities(legal: set[int], seed: int) -> None:
    n = 1000
    logits = np.random.default_rng(seed).normal(scale=3, size=n).astype(np.float32)
    ids = sorted(legal)
    flags = np.zeros(n, dtype=np.bool_)
    flags[ids] = True
    forms = [
        LegalTokens.from_ids(np.array(ids)),
        LegalTokens.from_flags(flags),
        LegalTokens.from_mask(mask_of(ids, n), n),
    ]
    sampler = Sampler(n, SamplingParams(), np.random.default_rng(0))
    drawn = [sampler.draw(logits, form) for form in forms]
    assert {d.token for d in drawn} == {ids[int(logits[ids].argmax())]}
    assert drawn[0].masked_logprob == pytest.approx(drawn[1].masked_logprob, abs=1e-5)
    assert forms[2].count == len(ids)
    points = [sampler.choice_point(logits, form, 0) for form in forms]
    assert points[0].token_ids.tolist() == points[1].token_ids.tolist() == points[2].token_ids.tolist() == ids


@settings(max_examples=50)
@given(st.floats(0.1, 3), st.integers(0, 50), st.floats(0.05, 1), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_a_draw_is_always_legal(temperature: float, top_k: int, top_p: float, min_p: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 700
    logits = rng.normal(scale=rng.uniform(0.1, 30), size=n).astype(np.float32)
    flags = rng.random(n) < 0.5
    flags[0] = True
    legal = LegalTokens.from_flags(flags)
    sampler = Sampler(n, SamplingParams(temperature, top_k, top_p, min_p), rng)
    assert all(flags[sampler.draw(logits, legal).token] for _ in range(20))


def test_logits_are_left_unchanged() -> None:
    before = LOGITS.copy()
    sampler = Sampler(N, SamplingParams(temperature=0.7, top_p=0.9), np.random.default_rng(0))
    sampler.draw(LOGITS, LegalTokens.from_mask(mask_of([1, 2, 3], N), N))
    np.testing.assert_array_equal(LOGITS, before)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=-1),
        SamplingParams(temperature=math.nan),
        SamplingParams(top_k=-1),
        SamplingParams(top_p=0),
        SamplingParams(min_p=1.5),
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused(params: SamplingParams) -> None:
    with pytest.raises(EngineError, match="must be"):
        Sampler(N, params, np.random.default_rng(0))


def test_logits_that_are_not_numbers_are_an_error() -> None:
    sampler = Sampler(N, SamplingParams(), np.random.default_rng(0))
    with pytest.raises(EngineError, match="not finite"):
        sampler.draw(np.full(N, np.nan, dtype=np.float32), EVERYTHING)


@pytest.mark.parametrize(
    "legal", [EVERYTHING, LegalTokens.from_mask(mask_of(range(8), N), N)], ids=["dense", "sparse"]
)
def test_greedy_takes_the_likelier_side_of_a_decision_and_not_the_likeliest_token(legal: LegalTokens) -> None:
    greedy = Sampler(N, SamplingParams(), np.random.default_rng(0))
    assert greedy.draw(LOGITS, legal).token == 0
    drawn = greedy.draw(LOGITS, legal, mask_of([0], N))
    assert drawn.token == 1  # token 0 has 0.29 of the mass, all others together the rest
    log_sum = math.log(sum(math.exp(LOGITS[i]) for i in legal.to_ids()))
    assert drawn.masked_logprob == pytest.approx(LOGITS[1] - log_sum, abs=1e-5)
    assert greedy.draw(LOGITS, legal, mask_of([0, 1, 2], N)).token == 0


def test_a_decision_does_not_change_what_is_sampled_at_a_temperature() -> None:
    tokens = [
        Sampler(N, SamplingParams(temperature=1.0), np.random.default_rng(5))
        .draw(LOGITS, EVERYTHING, decision)
        .token
        for decision in (None, mask_of([0], N))
    ]
    assert tokens[0] == tokens[1]


def test_the_most_probable_tokens_come_in_order_and_of_equal_ones_the_first() -> None:
    logits = np.array([0.0, 2.0, -np.inf, 2.0, 1.0, 2.0], dtype=np.float32)
    log_sum = float(np.logaddexp.reduce(logits.astype(np.float64)))
    found = most_probable(logits, 2, log_sum)
    assert [token for token, _ in found] == [1, 3]
    assert [token for token, _ in most_probable(logits, 20, log_sum)] == [1, 3, 5, 4, 0]
    assert sum(math.exp(p) for _, p in most_probable(logits, 20, log_sum)) == pytest.approx(1)
    drawn = Sampler(6, SamplingParams(), np.random.default_rng(0)).draw(
        logits, LegalTokens.all_except(frozenset(), 6)
    )
    assert found[0] == (drawn.token, pytest.approx(drawn.logprob))
