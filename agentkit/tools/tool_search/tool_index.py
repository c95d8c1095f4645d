"""The index of tools: words and embeddings, each good where the other is blind.

    score(tool) = FULL_SHARE * cos(request, whole text) + (1 - FULL_SHARE) * max over views of cos(request, view)
                + LEXICAL_WEIGHT * bm25(tool) / max of bm25

The request is read twice: as it is, and without what its arguments are. Weights were chosen on the tuning requests
of `evals/tool_search`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agentkit.tools.definition import ToolDefinition
from agentkit.tools.tool_search.embeddings import tool_vectors
from agentkit.tools.tool_search.lexical import LexicalIndex
from agentkit.tools.tool_search.request_embedder import request_embedder, without_arguments
from agentkit.tools.tool_search.searched_text import searched_text

if TYPE_CHECKING:
    from modelstack.inference.minilm import TextEmbedder

FULL_SHARE = 0.5
"""Weight of the whole text beside the nearest view; 0.3 to 0.7 perform about as well."""
LEXICAL_WEIGHT = 0.2
"""0.15 to 0.3 perform about as well."""
LEAST_SIMILARITY = 0.25
"""Similarity below which a tool that shares no word with the request is not found."""
MAX_QUERY_CHARS = 2_000
"""Characters of a request that are read; its end, where people say what they want."""


@dataclass(frozen=True, slots=True)
class IndexedTool:
    """A tool to search for."""

    definition: ToolDefinition
    source: str = ""
    """Name of its toolset; empty if that says nothing."""


class ToolIndex:
    """An index of tools. Building it and searching block; both are safe in worker threads."""

    def __init__(
        self, tools: Sequence[IndexedTool], embedder: TextEmbedder | None = None, cache: Path | None = None
    ) -> None:
        """Index the tools; without an `embedder` the search is lexical. `cache` is the file of the embeddings."""
        self.tools = tuple(tools)
        texts = [searched_text(tool.definition, tool.source) for tool in tools]
        self._lexical = LexicalIndex(texts)
        self._reader = None if embedder is None else request_embedder(embedder)
        self._vectors = None if embedder is None or not tools else tool_vectors(texts, embedder, cache)
        self._lock = threading.Lock()

    def search(self, request: str, top: int) -> list[ToolDefinition]:
        """Return at most `top` tools for a request, the best first; none if no tool has to do with it."""
        request = request[-MAX_QUERY_CHARS:].strip()
        if not request or not self.tools:
            return []
        lexical = self._lexical.scores(request)
        highest = max(lexical) or 1.0
        similar = self._similarities(request)
        if similar is None:
            scores, is_found = lexical, [score > 0 for score in lexical]
        else:
            scores = [cos + LEXICAL_WEIGHT * score / highest for cos, score in zip(similar, lexical, strict=True)]
            is_found = [cos >= LEAST_SIMILARITY or score > 0 for cos, score in zip(similar, lexical, strict=True)]
        ranked = sorted(range(len(self.tools)), key=lambda index: -scores[index])
        return [self.tools[index].definition for index in ranked if is_found[index]][:top]

    def _similarities(self, request: str) -> list[float] | None:
        """Return the similarity of each tool, from its views; None without embeddings."""
        if self._reader is None or self._vectors is None:
            return None
        with self._lock:  # the embedder may be an application's own
            asked = self._reader.embed([request, without_arguments(request)]).mean(axis=0)
        cosines = self._vectors @ asked
        return (FULL_SHARE * cosines[:, 0] + (1 - FULL_SHARE) * cosines.max(axis=1)).tolist()
