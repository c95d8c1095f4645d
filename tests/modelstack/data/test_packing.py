"""Plans of rows: nothing lost, nothing twice, no row too long, little padding."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelstack.data.packing import Kind, Piece, padding_share, plan_rows

KINDS: tuple[Kind, ...] = ("best_fit", "concatenate")
lengths_of_documents = st.lists(st.integers(0, 70), max_size=60)


def whole(lengths: list[int]) -> list[Piece]:
    return [Piece(i, 0, n) for i, n in enumerate(lengths)]


def places(pieces: list[Piece]) -> list[tuple[int, int]]:
    return sorted((p.document, p.start + i) for p in pieces for i in range(p.n_tokens))


@pytest.mark.parametrize("kind", KINDS)
@given(lengths=lengths_of_documents, row_tokens=st.integers(1, 40))
def test_each_token_is_in_one_row_or_waits(kind: Kind, lengths: list[int], row_tokens: int) -> None:
    pieces = whole(lengths)
    plan = plan_rows(pieces, row_tokens, kind)
    placed = [piece for row in plan.rows for piece in row]
    assert places(placed + plan.waiting) == places(pieces)


@pytest.mark.parametrize("kind", KINDS)
@given(lengths=lengths_of_documents, row_tokens=st.integers(1, 40))
def test_no_row_is_longer_than_asked_and_less_than_a_row_waits(
    kind: Kind, lengths: list[int], row_tokens: int
) -> None:
    plan = plan_rows(whole(lengths), row_tokens, kind)
    assert all(0 < sum(piece.n_tokens for piece in row) <= row_tokens for row in plan.rows)
    assert sum(piece.n_tokens for piece in plan.waiting) < row_tokens


@given(lengths=lengths_of_documents, row_tokens=st.integers(1, 40))
def test_best_fit_cuts_no_document_that_fits_a_row(lengths: list[int], row_tokens: int) -> None:
    plan = plan_rows(whole(lengths), row_tokens, "best_fit")
    for piece in [piece for row in plan.rows for piece in row] + plan.waiting:
        if lengths[piece.document] <= row_tokens:
            assert piece == Piece(piece.document, 0, lengths[piece.document])
        else:
            assert piece.start % row_tokens == 0


@given(lengths=lengths_of_documents, row_tokens=st.integers(1, 40))
def test_best_fit_is_the_plain_search_for_the_fullest_row(lengths: list[int], row_tokens: int) -> None:
    fragments = [
        Piece(i, start, min(row_tokens, n - start))
        for i, n in enumerate(lengths)
        for start in range(0, n, row_tokens)
    ]
    rows: list[list[Piece]] = []
    rooms: list[int] = []
    for piece in sorted(fragments, key=lambda piece: -piece.n_tokens):
        fitting = [i for i, room in enumerate(rooms) if room >= piece.n_tokens]
        if not fitting:
            fitting = [len(rows)]
            rows.append([])
            rooms.append(row_tokens)
        best = min(fitting, key=lambda i: (rooms[i], i))
        rows[best].append(piece)
        rooms[best] -= piece.n_tokens
    plan = plan_rows(whole(lengths), row_tokens, "best_fit")
    assert sorted([*plan.rows, plan.waiting] if plan.waiting else plan.rows) == sorted(rows)


@given(lengths=lengths_of_documents, row_tokens=st.integers(1, 40))
def test_concatenation_fills_every_row_and_keeps_the_order(lengths: list[int], row_tokens: int) -> None:
    plan = plan_rows(whole(lengths), row_tokens, "concatenate")
    assert padding_share(plan.rows, row_tokens) == 0
    read = [
        (p.document, p.start + i) for row in [*plan.rows, plan.waiting] for p in row for i in range(p.n_tokens)
    ]
    assert read == places(whole(lengths))


def test_padding_of_best_fit_is_below_one_percent_on_lengths_like_a_corpus() -> None:
    draw = random.Random(5)
    lengths = [1 + int(draw.lognormvariate(5, 1.2)) for _ in range(3000)]
    plan = plan_rows(whole(lengths), 512, "best_fit")
    assert padding_share(plan.rows, 512) < 0.01


def test_documents_just_over_half_a_row_pad_nearly_half_of_it() -> None:
    plan = plan_rows(whole([6] * 10), 10, "best_fit")
    assert padding_share(plan.rows, 10) == pytest.approx(0.4)


def test_no_rows_have_no_padding() -> None:
    assert padding_share([], 8) == 0
