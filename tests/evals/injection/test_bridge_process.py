"""A child at arm's length: what it may answer, how long it may take, and that none is left behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from evals.injection import bridge_process
from evals.injection.bridge_process import Bridge, BridgeError, BridgePool

COMMAND = (sys.executable, "-I", str(Path(__file__).with_name("fake_bridge.py")))
AT_ONCE_S = 0.2
"""A deadline for answers that never come."""


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    bridge = Bridge(COMMAND)
    yield bridge
    bridge.close()
    assert not bridge.is_alive


def test_requests_are_answered_in_turn_and_text_comes_back_as_it_was(bridge: Bridge) -> None:
    assert bridge.ask("hello")["agentdojo"] == "0.1.35"
    text = "Zeile\n\u2028 \U0001f6b2 \ud800 \x00" + "x" * 300_000
    assert bridge.ask("echo", text=text) == text


def test_an_error_that_is_reported_leaves_the_child_alive(bridge: Bridge) -> None:
    with pytest.raises(
        BridgeError, match=r"'catalog' failed in the bridge: ValueError: no benchmark version 'v0'"
    ):
        bridge.ask("catalog", version="v0")
    assert bridge.ask("echo", text="still here") == "still here"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense", "an answer is not JSON: b'nonsense'"),
        ("[" * 100_000, "an answer is not JSON"),
        ("[]", "an answer is not to request 1"),
        ('{"id": 2, "ok": null}', "an answer is not to request 1"),
        ('{"id": 1}', "an answer is not to request 1"),
    ],
)
def test_an_answer_that_breaks_the_protocol_ends_the_child(bridge: Bridge, line: str, words: str) -> None:
    with pytest.raises(BridgeError, match=words.replace("[", r"\[")):
        bridge.ask("raw", line=line)
    assert not bridge.is_alive


def test_an_answer_without_end_is_cut_off(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_process, "MAX_LINE_BYTES", 1_000)
    with pytest.raises(BridgeError, match="longer than 1,000 bytes"):
        bridge.ask("echo", text="x" * 1_000_000)
    assert not bridge.is_alive


def test_a_second_answer_to_one_request_is_not_taken_for_the_next(bridge: Bridge) -> None:
    assert bridge.ask("raw", line='{"id": 1, "ok": 1}\n{"id": 1, "ok": "stale"}') == 1
    with pytest.raises(BridgeError, match="not to request 2"):
        bridge.ask("echo", text="x")


def test_no_answer_in_time_ends_the_child(bridge: Bridge) -> None:
    with pytest.raises(BridgeError, match="the bridge failed at 'silent': no answer in time"):
        bridge.ask("silent", timeout_s=AT_ONCE_S)
    assert not bridge.is_alive


def test_a_child_that_ends_is_reported_with_its_code_and_last_words(bridge: Bridge) -> None:
    with pytest.raises(BridgeError, match="ended with code 7\nIts last words:\nno more"):
        bridge.ask("end")
    with pytest.raises(BridgeError):
        bridge.ask("hello")


def test_a_child_that_closes_its_output_and_lives_on_is_ended(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_process, "EXIT_TIMEOUT_S", AT_ONCE_S)
    with pytest.raises(BridgeError, match="closed its output"):
        bridge.ask("close_output")
    assert not bridge.is_alive


def test_the_child_sees_no_variable_that_could_hold_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "secret")
    bridge = Bridge(COMMAND)
    try:
        assert set(bridge.ask("variables")) <= {*bridge_process._PASSED_ON, "LC_CTYPE"}
    finally:
        bridge.close()


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(BridgeError, match="'/no/such/program' cannot be started"):
        Bridge(["/no/such/program"])


@pytest.mark.anyio
async def test_a_cancelled_request_ends_the_child_and_its_thread(bridge: Bridge) -> None:
    with anyio.move_on_after(AT_ONCE_S) as scope:
        await bridge.ask_async("silent")
    assert scope.cancelled_caught
    assert not bridge.is_alive


@pytest.mark.anyio
async def test_a_pool_lends_a_child_again_unless_something_went_wrong() -> None:
    pool = BridgePool()
    async with pool.borrow(COMMAND) as first, pool.borrow(COMMAND) as second:
        assert first.pid != second.pid
    async with pool.borrow(COMMAND) as again:
        assert again.pid in (first.pid, second.pid)
    with pytest.raises(BridgeError):
        async with pool.borrow(COMMAND) as failing:
            await failing.ask_async("end")
    async with pool.borrow(COMMAND) as other:
        assert other.pid != failing.pid
        other.kill()
    pool.close()
    for child in (first, second):
        with pytest.raises(ProcessLookupError):
            os.kill(child.pid, 0)
