"""The killable child: it ends when it must, and the next call works."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from mcp_servers.child import ChildCrash, ChildTimeout, KillableChild
from mcp_servers.failures import ToolFailure
from mcp_servers.filesystem.searching import REGEX_WORKER


@pytest.fixture
def child() -> Iterator[KillableChild]:
    child = KillableChild(REGEX_WORKER)
    yield child
    child.close()


def request(pattern: str, text: str = "abc") -> dict[str, object]:
    return {"pattern": pattern, "ignore_case": False, "text": text, "limit": 10}


def test_a_catastrophic_match_is_killed_and_the_next_call_works(child: KillableChild) -> None:
    with pytest.raises(ChildTimeout):
        child.call(request("(a+)+$", "a" * 64 + "b"), timeout_s=0.5)
    assert child.call(request("b", "a\nb"), timeout_s=30) == [2]


def test_a_match_that_needs_too_much_memory_fails_alone(child: KillableChild) -> None:
    """`re` keeps a frame per repeat of a group: hundreds of bytes for each of four million letters."""
    with pytest.raises(ToolFailure, match="too much memory"):
        child.call(request("(?:(.)|x)*y", "a" * 4_000_000), timeout_s=30)
    assert child.call(request("b"), timeout_s=30) == [1]


def test_a_crash_is_told_from_a_timeout() -> None:
    child = KillableChild("mcp_servers.no_such_module")
    with pytest.raises(ChildCrash):
        child.call({}, timeout_s=30)


def test_a_wrong_pattern_is_the_models_mistake(child: KillableChild) -> None:
    with pytest.raises(ToolFailure, match="regex=false"):
        child.call(request("(unclosed"), timeout_s=30)


def test_a_closed_child_starts_again(child: KillableChild) -> None:
    assert child.call(request("c"), timeout_s=30) == [1]
    child.close()
    assert child.call(request("c"), timeout_s=30) == [1]


def test_closing_does_not_wait_for_the_request_that_runs(child: KillableChild) -> None:
    ended: list[str] = []

    def ask() -> None:
        with pytest.raises(ChildCrash):
            child.call(request("(a+)+$", "a" * 64 + "b"), timeout_s=600)
        ended.append("crash")

    thread = threading.Thread(target=ask)
    thread.start()
    while child._process is None:
        thread.join(timeout=0.01)
    child.close()
    thread.join(timeout=60)
    assert ended == ["crash"]
