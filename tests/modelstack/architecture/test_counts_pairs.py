"""Pairs of tokens that attention computes, by closed formula, against the masks that the model uses."""

import pytest
import torch
from count_cases import toy
from hypothesis import given
from hypothesis import strategies as st

from modelstack.architecture.attention.compressor import visible_entries
from modelstack.architecture.counts.flops import count_flops
from modelstack.architecture.counts.terms import Span
from modelstack.architecture.decoder import make_context
from modelstack.errors import UserError

NEW, PAST = st.integers(1, 200), st.integers(0, 300)


@given(NEW, PAST, st.one_of(st.none(), st.integers(1, 250)))
def test_causal_pairs_are_those_that_the_mask_lets_through(new: int, past: int, window: int | None) -> None:
    context = make_context(torch.zeros(1, new, dtype=torch.long))
    context.n_past = past
    n_keys = new + past if window is None else new + min(past, window - 1)
    mask = context.mask(window, n_keys)
    seen = new * n_keys if mask is None else int(mask.sum())
    assert Span(new, past).pairs(window) == seen
    assert Span(new, past, "full").pairs(window) == new * n_keys
    if window is not None:
        assert Span(new, past).banded_pairs(window) == seen <= Span(new, past, "full").banded_pairs(window)


@given(NEW, PAST, st.integers(1, 20), st.one_of(st.none(), st.integers(1, 30)))
def test_causal_pairs_with_entries_are_those_that_are_visible(
    new: int, past: int, rate: int, top: int | None
) -> None:
    context = make_context(torch.zeros(1, new, dtype=torch.long))
    context.n_past = past
    visible = visible_entries(context, rate, (past + new) // rate, 0, new).sum(-1)
    assert Span(new, past).compressed_pairs(rate, top) == int(
        visible.clamp(max=top).sum() if top else visible.sum()
    )


@given(NEW, PAST, st.integers(1, 20), st.integers(1, 30))
def test_full_pairs_are_never_fewer_than_causal_ones(new: int, past: int, rate: int, top: int) -> None:
    causal, full = Span(new, past), Span(new, past, "full")
    assert causal.compressed_pairs(rate, top) <= full.compressed_pairs(rate, top)
    assert causal.compressed_pairs(rate) <= full.compressed_pairs(rate)


@pytest.mark.parametrize(
    ("n_tokens", "n_past", "mtp", "message"),
    [
        (0, 0, False, "n_tokens 0 must be at least 1"),
        (4, -1, False, "n_past -1 must be at least 0"),
        (1, 0, True, "n_tokens 1 is too few for 1 multi-token predictions"),
        (9, 3, True, "n_past 3 must be 0"),
    ],
)
def test_a_pass_that_cannot_be_is_refused(n_tokens: int, n_past: int, mtp: bool, message: str) -> None:
    with pytest.raises(UserError, match=message):
        count_flops(toy("deepseek_v4"), n_tokens, n_past, mtp=mtp)
