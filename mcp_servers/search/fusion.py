"""Hybrid search: passages ranked by words and by meaning, in one order.

Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009): a passage scores the sum of 1 / (60 + rank) over
the rankings that contain it, so that BM25 and cosines need no common scale.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mcp_servers.search.finding import BELOW_PATH, Found, Place, hit_of
from mcp_servers.search.nearest import Near, VectorSearch, embedded
from mcp_servers.search.policy import Limits
from mcp_servers.search.queries import Query, excluding, matching_any, plain_words
from mcp_servers.search.stop_words import without_stop_words
from mcp_servers.search.word_ranking import DEPTH, has_all_words, ranked_by_word

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from modelstack.inference.minilm import TextEmbedder

Mode = Literal["lexical", "vector", "hybrid"]
RANK_OFFSET = 60
"""The constant of the paper; it weakens the difference between the first ranks."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A passage in the fused order."""

    passage_id: int
    file_id: int
    score: float
    line: int | None
    """Offset of the window nearest to the query; None if the passage was found by words alone."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The fused order, and facts about it."""

    passages: Sequence[Ranked]
    has_all_words: bool
    """True if some passage has all words of the query."""
    n_by_meaning: int


class Ranker:
    """Ranks the passages of one index."""

    def __init__(self, embedder: TextEmbedder) -> None:
        """Rank by the vectors of this model; codes are held between searches."""
        self._embedder = embedder
        self._vectors = VectorSearch(embedder.width)

    def query_vector(self, query: Query) -> NDArray[np.float32]:
        """Return the vector of a query [D]; call it before the index is read.

        Raises:
            ToolFailure: The model failed.
        """
        return embedded(self._embedder, [query.text])[0]

    def ranking(
        self,
        connection: sqlite3.Connection,
        query: Query,
        query_D: NDArray[np.float32],
        place: Place,
        mode: Literal["vector", "hybrid"] = "hybrid",
    ) -> Ranking:
        """Return the best passages; those with an excluded word are left out of both rankings."""
        near = self._near(connection, query, query_D, place)
        lines = {each.passage_id: each.line for each in near}
        if mode == "vector":
            scores = {each.passage_id: each.similarity for each in near}
        else:
            by_word = [passage_id for passage_id, _ in ranked_by_word(connection, query, place)]
            scores = fused([by_word, [each.passage_id for each in near]])
        files = _files(connection, scores)
        ranked = [
            Ranked(passage_id, files[passage_id], score, lines.get(passage_id))
            for passage_id, score in scores.items()
            if passage_id in files
        ]
        return Ranking(ranked, has_all_words(connection, query, place), len(near))

    def _near(
        self, connection: sqlite3.Connection, query: Query, query_D: NDArray[np.float32], place: Place
    ) -> list[Near]:
        allowed = _allowed(connection, place) if place != Place() else None
        near = self._vectors.nearest(connection, query_D, DEPTH, allowed)
        if not query.excluded or not near:
            return near
        sql = "SELECT rowid FROM words WHERE words MATCH ?"
        unwanted = {row[0] for row in connection.execute(sql, (excluding(query),))}
        return [each for each in near if each.passage_id not in unwanted]


def fused(rankings: Iterable[Sequence[int]]) -> dict[int, float]:
    """Return the score of each passage by reciprocal rank fusion, best first; ties keep the order given."""
    scores = dict[int, float]()
    for ranking in rankings:
        for rank, passage_id in enumerate(ranking, 1):
            scores[passage_id] = scores.get(passage_id, 0.0) + 1 / (RANK_OFFSET + rank)
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


def page_of(connection: sqlite3.Connection, query: Query, ranking: Ranking, page: int, limits: Limits) -> Found:
    """Return one page of a ranking; a few passages of each file at most, if several files are in it."""
    n_files = len({each.file_id for each in ranking.passages})
    kept = ranking.passages if n_files == 1 else _limited(ranking.passages, limits.hits_per_file)
    first = (page - 1) * limits.hits_per_page
    match, words = matching_any(without_stop_words(query)), plain_words(query)
    hits = [
        hit_of(connection, each.passage_id, each.score, match, words, limits, each.line or 0)
        for each in kept[first : first + limits.hits_per_page]
    ]
    has_more = len(kept) > first + len(hits)
    return Found(hits, len(ranking.passages), n_files, ranking.has_all_words, has_more)


def _limited(ranked: Iterable[Ranked], per_file: int) -> list[Ranked]:
    n_of_file = Counter[int]()
    kept = list[Ranked]()
    for each in ranked:
        n_of_file[each.file_id] += 1
        if n_of_file[each.file_id] <= per_file:
            kept.append(each)
    return kept


def _files(connection: sqlite3.Connection, passages: Mapping[int, float]) -> dict[int, int]:
    """Return the file of each passage; a passage of which only the file's name is indexed has one, too."""
    marks = ", ".join("?" * len(passages))
    return dict(connection.execute(f"SELECT id, file_id FROM passages WHERE id IN ({marks})", list(passages)))


def _allowed(connection: sqlite3.Connection, place: Place) -> NDArray[np.int64]:
    """Return the ids of the vectors of the files in a place, ascending."""
    import numpy as np

    rows = connection.execute(
        "SELECT vectors.id FROM files CROSS JOIN passages ON passages.file_id = files.id "
        "CROSS JOIN vectors ON vectors.passage_id = passages.id "
        f"WHERE (:kind = '' OR files.kind = :kind) AND {BELOW_PATH}",
        {"kind": place.kind, "path": place.path},
    ).fetchall()
    return np.sort(np.fromiter((row[0] for row in rows), np.int64, len(rows)))
