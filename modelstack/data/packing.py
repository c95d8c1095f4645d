"""Packing of documents into rows of T tokens without loss.

Best-fit decreasing: pieces in order of decreasing length, each into the fullest row with enough room, which a
bisection finds (the optimised form of Ding et al. 2024, arXiv 2404.10830, who use a segment tree). A document
longer than a row is cut into whole rows and a remainder; no other document is cut. Concatenation is the older
method: documents joined and cut every T tokens, without padding, but most documents are cut.

A plan consists of plain numbers: it is the same on every rank, can be checked without tensors, and is cheap for
skipped rows. Pieces that do not fill a row wait for the next window of documents.

Letters: T tokens of a row.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

Kind = Literal["best_fit", "concatenate"]


class Piece(NamedTuple):
    """A span of tokens of one document."""

    document: int
    start: int
    n_tokens: int


Row = list[Piece]


class Plan(NamedTuple):
    """Rows to train on, and pieces that wait for the next window."""

    rows: list[Row]
    waiting: list[Piece]


def plan_rows(pieces: Iterable[Piece], row_tokens: int, kind: Kind) -> Plan:
    """Return the rows of a window of pieces; every token is in exactly one row or waits."""
    return _PLANNERS[kind]([piece for piece in pieces if piece.n_tokens], row_tokens)


def padding_share(rows: Sequence[Row], row_tokens: int) -> float:
    """Return the share of positions in the rows that hold no token."""
    used = sum(piece.n_tokens for row in rows for piece in row)
    return 1 - used / (len(rows) * row_tokens) if rows else 0.0


def _best_fit(pieces: list[Piece], row_tokens: int) -> Plan:
    fragments = [fragment for piece in pieces for fragment in _fragments(piece, row_tokens)]
    # Stable sort: among equal lengths, the piece that waited longest comes first.
    fragments.sort(key=lambda piece: -piece.n_tokens)
    rows: list[Row] = []
    open_rows: list[tuple[int, int]] = []
    """Pairs (room, row number), sorted: the first with enough room is the fullest row that fits."""
    for piece in fragments:
        at = bisect.bisect_left(open_rows, (piece.n_tokens, 0))
        if at < len(open_rows):
            room, number = open_rows.pop(at)
        else:
            room, number = row_tokens, len(rows)
            rows.append([])
        rows[number].append(piece)
        if room > piece.n_tokens:
            bisect.insort(open_rows, (room - piece.n_tokens, number))
    return Plan(rows, rows.pop(open_rows[-1][1]) if open_rows else [])


def _fragments(piece: Piece, row_tokens: int) -> Iterable[Piece]:
    end = piece.start + piece.n_tokens
    for start in range(piece.start, end, row_tokens):
        yield Piece(piece.document, start, min(row_tokens, end - start))


def _concatenate(pieces: list[Piece], row_tokens: int) -> Plan:
    rows: list[Row] = []
    row: Row = []
    room = row_tokens
    for document, start, n_tokens in pieces:
        while n_tokens:
            taken = min(room, n_tokens)
            row.append(Piece(document, start, taken))
            start, n_tokens, room = start + taken, n_tokens - taken, room - taken
            if not room:
                rows.append(row)
                row, room = [], row_tokens
    return Plan(rows, row)


_PLANNERS: dict[Kind, Callable[[list[Piece], int], Plan]] = {"best_fit": _best_fit, "concatenate": _concatenate}
