"""Embeddings of requests: the embedding model with an adapter that moves requests towards tools that serve them.

People and definitions say the same in different words. The adapter was fitted on 1,853 requests to tools of
servers that the evaluation does not have (`python -m evals.tool_search.fit_request_adapter`). It reads requests
alone: tools keep the vectors of the model as it is, so the file of their embeddings stays valid.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelstack.inference.minilm import TextEmbedder

ADAPTER = Path(__file__).parent / "request_adapter.safetensors"
"""Low-rank updates of the layers 2 to 5 of all-MiniLM-L6-v2, 0.4 MB."""
_ARGUMENTS = re.compile(r"\"[^\"]*\"|https?://\S+|\b\w*\d\w*\b")
_lock = threading.Lock()
_adapted: dict[str, TextEmbedder] = {}


def request_embedder(embedder: TextEmbedder) -> TextEmbedder:
    """Return the model that embeds requests; with another model than `minilm()`, this is `embedder` itself.

    The first call in a process takes about 0.3 s, and the adapted model 90 MB.
    """
    from modelstack.inference.minilm import load_encoder, loaded_minilm

    folder = loaded_minilm(embedder)
    if folder is None:
        return embedder
    with _lock:
        if embedder.name not in _adapted:
            _adapted[embedder.name] = load_encoder(folder, "requests to tools", adapter=ADAPTER)
        return _adapted[embedder.name]


def without_arguments(request: str) -> str:
    """Return a request without quoted texts, addresses and numbers; the request itself if nothing is left.

    They say what the arguments are and not what the tool does.
    """
    return " ".join(_ARGUMENTS.sub(" ", request).split()) or request
