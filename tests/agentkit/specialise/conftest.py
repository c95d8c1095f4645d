"""The servers of the demonstrations, started once for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import cast

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from agentkit.specialise.demonstrations import play
from agentkit.specialise.demonstrations.play import House, running_house
from modelstack.sft.prior.exact_calls import ask


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    """The event loop that holds the connections to the servers of `house`."""
    with start_blocking_portal() as started:
        yield started


@pytest.fixture(scope="module")
def house(portal: BlockingPortal) -> Iterator[House]:
    """The running servers; whatever plays on them writes a world of its own first."""
    with portal.wrap_async_context_manager(running_house()) as house:
        yield house


@pytest.fixture(scope="module")
def short_replies() -> Iterator[None]:
    """Cut replies to held-back examples: a model of random weights ends none by itself."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(cast(dict[str, object], ask.__kwdefaults__), "max_tokens", 32)
        yield


@pytest.fixture
def plays_in_house(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let functions that start servers play on those of `house`."""
    monkeypatch.setattr(play, "running_house", lambda: nullcontext(house))
