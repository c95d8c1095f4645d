from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
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


@pytest.fixture(scope="session")
def torch_server(tiny_gguf: Path) -> Iterator[Served]:
    """The same model on the torch engine, which reads prompts in several chunks."""
    pytest.importorskip("torch", reason="needs torch (extra `train`)")
    from modelstack.inference.torch.engine import TorchEngine

    with TorchEngine.load(tiny_gguf, max_step_tokens=64) as engine, served(engine) as found:
        yield found


@pytest.fixture(params=["llama.cpp", "torch"])
def server(request: pytest.FixtureRequest) -> Served:
    """The model on each engine."""
    return request.getfixturevalue("tiny_server" if request.param == "llama.cpp" else "torch_server")


@pytest.fixture
def client(server: Served) -> Iterator[openai.OpenAI]:
    """OpenAI's client of the model on each engine."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client
