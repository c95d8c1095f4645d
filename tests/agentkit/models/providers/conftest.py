"""Fixtures that the tests of the suite share: each provider, and a model of a scripted server."""

from __future__ import annotations

import random
from typing import Any

import anyio.lowlevel
import pytest
from chat_server import NOW, ChatServer
from protocols import PROTOCOLS
from provider_protocol import ModelAt, ProviderProtocol, origin_of

from agentkit.models.http.model import HTTPModel
from agentkit.models.retries import Backoff


@pytest.fixture(params=PROTOCOLS, ids=lambda protocol: protocol.name)
def protocol(request: pytest.FixtureRequest) -> ProviderProtocol:
    """Each provider."""
    return request.param


@pytest.fixture
def model_at(protocol: ProviderProtocol, waits: list[float]) -> ModelAt:
    """Make a model of a server, with a backoff that records instead of waiting."""

    async def sleep(delay_s: float) -> None:
        waits.append(delay_s)
        await anyio.lowlevel.checkpoint()

    def make(server: ChatServer, **options: Any) -> HTTPModel:
        backoff = Backoff(rng=random.Random(7), now=lambda: NOW, sleep=sleep)
        return protocol.model(origin_of(server), **{"backoff": backoff, **options})

    return make
