from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.modelstack.inference.server.serving import Served, served


@pytest.fixture(scope="session")
def tiny_server(tiny_gguf: Path) -> Iterator[Served]:
    """The tiny model of random weights, served without a key."""
    from modelstack.inference.llama.engine import LlamaCppEngine

    with (
        LlamaCppEngine(tiny_gguf, n_threads=1, n_threads_prefill=1, n_cells=4096) as engine,
        served(engine) as found,
    ):
        yield found
