"""What the tests of remote models share, and the in-process one with a tiny random GGUF."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio.lowlevel
import pytest
from chat_server import NOW, ChatServer, Reply

from agentkit.models.local import LocalModel
from agentkit.models.openai_compatible import OpenAICompatibleModel
from agentkit.models.retries import Backoff


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(scope="module")
def model(tiny_gguf: Path) -> Iterator[LocalModel]:
    loaded = LocalModel(tiny_gguf, n_threads=1, n_threads_prefill=1)
    yield loaded
    loaded.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., ChatServer]]:
    """Start servers that end with the test."""
    with ExitStack() as stack:

        def start(*replies: Reply) -> ChatServer:
            return stack.enter_context(ChatServer(*replies))

        yield start


@pytest.fixture
def waits() -> list[float]:
    """The waits that were asked of the backoff, in seconds."""
    return []


@pytest.fixture
def model_of(waits: list[float]) -> Callable[..., OpenAICompatibleModel]:
    """Make a model of a server, with a backoff that records instead of waiting."""

    async def sleep(delay_s: float) -> None:
        waits.append(delay_s)
        await anyio.lowlevel.checkpoint()

    def make(server: ChatServer, **options: Any) -> OpenAICompatibleModel:
        backoff = Backoff(rng=random.Random(7), now=lambda: NOW, sleep=sleep)
        return OpenAICompatibleModel("m", **{"base_url": server.base_url, "backoff": backoff, **options})

    return make
