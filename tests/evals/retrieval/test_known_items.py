"""Known items: each question has a page that is there, and ranks are counted by pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkit.retrieval import Retrieval
from evals.retrieval import known_items
from evals.retrieval.known_items import questions, rank_of, ranks
from tests.mcp_servers.word_embedder import WordEmbedder

ROOT = Path(__file__).parents[3]


def test_each_question_has_a_page_of_the_documentation() -> None:
    asked = questions()
    assert len(asked) == len({question for question, _ in asked}) >= 40
    for question, page in asked:
        assert question.strip() == question and (ROOT / "docs" / page).is_file(), page


def test_ranks_are_counted_by_pages() -> None:
    assert rank_of("b", ["a", "a", "a", "b", "c"]) == 2
    assert rank_of("a", ["a"]) == 1 and rank_of("x", ["a"]) is None


@pytest.mark.anyio
async def test_the_rank_of_the_right_page_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    for name, text in {"cats.md": "The kitten sleeps.", "cars.md": "An automobile drives."}.items():
        (tmp_path / "docs" / name).write_text(text, encoding="utf-8")
    asked = [("feline", "cats.md"), ("vehicle", "cars.md"), ("automobile", "cats.md")]
    monkeypatch.setattr(known_items, "questions", lambda: asked)
    async with Retrieval(tmp_path / "docs", index=tmp_path / "i.db", embedder=WordEmbedder()) as docs:
        await docs.refresh()
        assert await ranks(docs, "vector") == [1, 1, 2]
        assert await ranks(docs, "lexical") == [None, None, None]
