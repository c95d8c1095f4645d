"""Search in the files of a folder by words and by meaning, with citations: for applications and as a toolset.

The index, its limits and its protection against hostile files are those of the MCP server `search`; this room is
its face for programs. The default embedding model is `agentkit.retrieval.minilm()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkit.retrieval.embedder import minilm
    from agentkit.retrieval.hits import Hit, cited_hits, numbered_sources
    from agentkit.retrieval.toolset import IndexReport, Retrieval, RetrievalError
    from modelstack.inference.minilm import TextEmbedder

__all__ = [
    "Hit",
    "IndexReport",
    "Retrieval",
    "RetrievalError",
    "TextEmbedder",
    "cited_hits",
    "minilm",
    "numbered_sources",
]

_LAZY = {
    "Hit": "agentkit.retrieval.hits",
    "IndexReport": "agentkit.retrieval.toolset",
    "Retrieval": "agentkit.retrieval.toolset",
    "RetrievalError": "agentkit.retrieval.toolset",
    "TextEmbedder": "modelstack.inference.minilm",
    "cited_hits": "agentkit.retrieval.hits",
    "minilm": "agentkit.retrieval.embedder",
    "numbered_sources": "agentkit.retrieval.hits",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    from importlib import import_module

    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
