"""`agentkit chat`: over a pipe, and on a real terminal with Ctrl-C."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentkit.cli.cards import EventPrinter
from agentkit.cli.chat import NO_REPLY, PROMPT, Conversation
from agentkit.cli.console import notes_console
from agentkit.events import TextDeltaEvent
from agentkit.messages import ModelRequest, ModelResponse, TextPart, ToolCallPart, ToolReturnPart, UserPromptPart
from agentkit.run.state import RunState

Run = Callable[..., Any]
CTRL_C, CTRL_D = "\x03", "\x04"
MAX_PRESSES, PATIENCE_S = 10, 1.0
GIVE_UP_S = 60
"""Silence after which a test fails instead of hanging."""


# -- over a pipe --------------------------------------------------------------------------------------------


def test_turns_share_one_conversation_and_one_server(agentkit: Run, server: Callable[..., str]) -> None:
    typed = "call it\n/usage\nagain\n/usage\n"
    done = agentkit("chat", "--model", "test", "--mcp", server("echo"), stdin=typed)
    assert done.returncode == 0
    assert done.stderr.count("● echo") == 1  # the second turn still knows the first one's result
    assert done.stdout.count('{"echo": {"result": "hello"}}') == 2
    assert "2 model requests · 1 tool call " in done.stderr and "3 model requests · 1 tool call " in done.stderr


def test_a_chat_is_continued_in_its_folder_and_nowhere_else(
    agentkit: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, other = tmp_path / "one", tmp_path / "one more"
    for each in (folder, other):
        each.mkdir()
    monkeypatch.chdir(folder)
    agentkit("chat", "--model", "test", stdin="first\n")
    agentkit("chat", "--model", "test", stdin="second\n/reset\nthird\n")
    done = agentkit("chat", "--model", "test", "--continue", stdin="fourth\n")
    assert "the last chat of this folder, 2 messages" in done.stderr
    assert "4 messages" in agentkit("chat", "--model", "test", "-c", stdin="").stderr
    monkeypatch.chdir(other)
    missing = agentkit("chat", "--model", "test", "--continue", stdin="")
    assert missing.returncode == 1 and "begin one without --continue" in missing.stderr


def test_a_chat_without_a_journal_is_not_stored(agentkit: Run, tmp_path: Path) -> None:
    done = agentkit("chat", "--model", "test", "--no-journal", stdin="hello\n")
    assert "chat       is not stored" in done.stderr and not (tmp_path / "runs.db").exists()
    refused = agentkit("chat", "--model", "test", "--no-journal", "--continue", stdin="")
    assert refused.returncode == 1 and "leave --no-journal out" in refused.stderr


def test_a_reset_forgets_what_was_said(agentkit: Run, server: Callable[..., str]) -> None:
    done = agentkit("chat", "--model", "test", "--mcp", server("echo"), stdin="call it\n/reset\ncall it\n")
    assert done.stderr.count("● echo") == 2


def test_the_commands_tell_what_there_is(agentkit: Run, server: Callable[..., str]) -> None:
    done = agentkit(
        "chat", "--model", "test", "--mcp", server("echo"), stdin="/help\n/tools\n/nonsense\n\n/quit\nno\n"
    )
    assert done.returncode == 0 and done.stdout == ""
    assert "echo  Give the text back." in done.stderr
    assert "/reset      start a new conversation" in done.stderr
    assert "/nonsense is not a command" in done.stderr


def test_an_error_ends_the_turn_and_not_the_chat(agentkit: Run) -> None:
    nobody = "http://127.0.0.1:9/v1#none"
    done = agentkit("chat", "--model", nobody, "--no-trace", stdin="hello\n/usage\n")
    assert done.returncode == 0
    assert done.stderr.count("error: ") == 1 and "0 model requests" in done.stderr


# -- what is kept of a turn that was stopped ----------------------------------------------------------------


def conversation() -> Conversation:
    return Conversation(EventPrinter(notes_console(), None))


def test_a_reply_that_was_cut_off_is_kept_as_far_as_it_came() -> None:
    kept = conversation()
    kept.hear(TextDeltaEvent("It is "))
    kept.hear(TextDeltaEvent("four"))
    asked = ModelRequest((UserPromptPart("2 + 2?"),))
    kept.keep(RunState((asked,)))
    assert kept.messages == (asked, ModelResponse((TextPart("It is four"),)))


def test_a_turn_stopped_during_a_call_leaves_no_call_without_result() -> None:
    call = ToolCallPart("wait", "{}")
    messages = (
        ModelRequest((UserPromptPart("wait"),)),
        ModelResponse((call,)),
        ModelRequest((ToolReturnPart("wait", call.tool_call_id, "Interrupted", is_error=True),)),
    )
    kept = conversation()
    kept.keep(RunState(messages))
    assert kept.messages == (*messages, ModelResponse((TextPart(NO_REPLY),)))


# -- on a terminal ------------------------------------------------------------------------------------------


class Terminal:
    """A chat on a pseudo-terminal."""

    def __init__(self, leader: int, child: subprocess.Popen[bytes]) -> None:
        self._leader = leader
        self._child = child
        self.shown = ""

    def wait_for(self, text: str) -> None:
        """Read until `text` has been shown since the last call."""
        while text not in self.shown:
            self.shown += self._read() or pytest.fail(f"the chat ended before it showed {text!r}: {self.shown}")
        self.shown = self.shown.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self._leader, text.encode())

    def end(self) -> int:
        while chunk := self._read():
            self.shown += chunk
        return self._child.wait()

    def press_until(self, key: str, text: str) -> None:
        """Press a key, again if need be, until `text` is shown.

        CPython notices a Ctrl-C that comes between its prompt and its read only at the next key.
        """
        for _ in range(MAX_PRESSES):
            self.type(key)
            while text not in self.shown and select.select([self._leader], [], [], PATIENCE_S)[0]:
                self.shown += self._read() or pytest.fail(
                    f"the chat ended before it showed {text!r}: {self.shown}"
                )
            if text in self.shown:
                self.shown = self.shown.partition(text)[2]
                return
        pytest.fail(f"{key!r} was pressed {MAX_PRESSES} times and {text!r} not shown: {self.shown}")

    def _read(self) -> str:
        if not select.select([self._leader], [], [], GIVE_UP_S)[0]:
            pytest.fail(f"the chat has been silent for {GIVE_UP_S} s: {self.shown}")
        try:
            return os.read(self._leader, 65_536).decode(errors="replace")
        except OSError:  # how Linux says that the other side is closed
            return ""


@contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    leader, follower = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "agentkit.cli.main", "chat", *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "dumb"},
        start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
    )
    os.close(follower)
    try:
        yield Terminal(leader, child)
    finally:
        child.kill()
        child.wait()
        os.close(leader)


def test_ctrl_c_stops_the_turn_and_keeps_the_chat(server: Callable[..., str], tmp_path: Path) -> None:
    with terminal("--model", "test", "--mcp", server("wait")) as chat:
        chat.wait_for(PROMPT)
        chat.type("wait for it\n")
        chat.wait_for("● wait {}")
        chat.type(CTRL_C)
        chat.wait_for("stopped")
        chat.wait_for(PROMPT)
        chat.type("and now?\n")
        chat.wait_for("Interrupted; the call may or may not have taken effect.")  # the model knows of it
        chat.wait_for(PROMPT)
        chat.type("/quit\n")
        assert chat.end() == 0


def test_ctrl_c_at_the_prompt_does_not_leave_and_ctrl_d_does() -> None:
    with terminal("--model", "test") as chat:
        chat.wait_for(PROMPT)
        chat.type("half a li")
        chat.press_until(CTRL_C, "Ctrl-D or /quit leaves.")
        chat.wait_for(PROMPT)
        chat.type("hello\n")
        chat.wait_for("success (no tool calls)")
        chat.wait_for(PROMPT)
        chat.type(CTRL_D)
        assert chat.end() == 0
