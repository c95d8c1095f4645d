"""The Python server computes, keeps what it is asked to keep, and lets nothing out."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client, StdioServerParameters, stdio_client

from mcp_servers.failures import ToolFailure
from mcp_servers.long_calls import run_stoppable
from mcp_servers.python.policy import Limits, Printed, check_code, check_session, json_value, shown
from mcp_servers.python.sandbox import Sandbox, Stop
from mcp_servers.python.server import build_server
from tests.mcp_servers.server_harness import REPOSITORY, Ask, ask_once, asker


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    async with Client(build_server(limits=Limits(seconds=0.5))) as client:
        yield asker(client)


@pytest.mark.anyio
async def test_what_is_printed_and_the_last_value_are_shown(ask: Ask) -> None:
    assert (await ask("run_python", code="print('a')\nprint('b')\n6 * 7"))[0] == "a\nb\n42"
    assert (await ask("run_python", code="x = 1"))[0] == "Nothing was printed, and the last line has no value."
    assert (await ask("run_python", code="import math\nround(math.pi, 2)"))[0] == "3.14"


@pytest.mark.anyio
async def test_values_come_as_data_too() -> None:
    async with Client(build_server()) as client:
        result = await client.call_tool("run_python", {"code": "{'a': [1, 2.5, None], 'b': (True, 'x')}"})
        assert result.structured_content is not None
        assert result.structured_content["data"] == {"a": [1, 2.5, None], "b": [True, "x"]}
        result = await client.call_tool("run_python", {"code": "float('inf')"})
        assert result.structured_content is not None
        assert (result.structured_content["value"], result.structured_content["data"]) == ("inf", None)


@pytest.mark.anyio
async def test_errors_are_pythons_own_with_what_was_printed_before(ask: Ask) -> None:
    text, is_error = await ask("run_python", code="print('before')\n1 / 0")
    assert is_error
    assert text.startswith("before\nTraceback")
    assert "ZeroDivisionError" in text
    text, is_error = await ask("run_python", code="def")
    assert is_error
    assert "SyntaxError" in text


@pytest.mark.anyio
async def test_nothing_is_kept_unless_a_session_is_named(ask: Ask) -> None:
    await ask("run_python", code="x = 1")
    assert (await ask("run_python", code="x"))[1]
    await ask("run_python", code="x = 1", session="one")
    await ask("run_python", code="x = 2", session="two")
    assert (await ask("run_python", code="x", session="one"))[0] == "1"
    assert (await ask("run_python", code="1 / 0", session="one"))[1]
    assert (await ask("run_python", code="x", session="one"))[0] == "1"  # an error loses nothing
    assert (await ask("drop_session", session="one"))[0] == "Dropped. Sessions: two."
    assert (await ask("run_python", code="x", session="one"))[1]
    text, is_error = await ask("drop_session", session="three")
    assert is_error
    assert "Those there are: two, one" in text


@pytest.mark.anyio
async def test_the_session_used_longest_ago_makes_room() -> None:
    async with Client(build_server(limits=Limits(max_sessions=2))) as client:
        ask = asker(client)
        for name in ("a", "b", "a", "c"):
            await ask("run_python", code=f"x = '{name}'", session=name)
        assert (await ask("run_python", code="x", session="a"))[0] == "'a'"
        assert (await ask("run_python", code="x", session="b"))[1]


ESCAPES = {
    "files": "open('/etc/passwd').read()",
    "files by path": "from pathlib import Path\nPath('/etc/passwd').read_text()",
    "writing": "open('/tmp/escaped', 'w').write('x')",
    "environment": "import os\nos.environ['PATH']",
    "getenv": "import os\nos.getenv('PATH') or 1 / 0",
    "processes": "import os\nos.system('touch /tmp/escaped')",
    "subprocess": "import subprocess",
    "sockets": "import socket",
    "http": "import urllib.request",
    "ctypes": "import ctypes",
    "import": "__import__('os').system('id')",
    "builtins": "().__class__.__base__.__subclasses__()",
    "globals of a function": "(lambda: 0).__globals__",
    "frames": "import sys\nsys._getframe()",
    "code objects": "(lambda: 0).__code__.co_consts",
    "evaluated": "eval(\"__import__('os').getcwd()\")",
    "standard input": "input()",
    "exit": "import sys\nsys.exit(0)",
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", ESCAPES)
async def test_code_reaches_nothing_outside(name: str, ask: Ask) -> None:
    Path("/tmp/escaped").unlink(missing_ok=True)
    text, is_error = await ask("run_python", code=ESCAPES[name])
    assert is_error
    assert "root:" not in text
    assert not Path("/tmp/escaped").exists()
    assert (await ask("run_python", code="1 + 1"))[0] == "2"


GREEDY = {
    "an endless loop": ("while True:\n    pass", "time limit"),
    "a large list": ("[0] * 10**10", "MemoryError"),
    "a large number": ("10 ** 10 ** 9", "MemoryError"),
    "a large text": ("'a' * 10**11", "MemoryError"),
    "wide formatting": ("'%099999999999d' % 1", "Error"),
    "recursion": ("def f(n):\n    return f(n + 1)\nf(0)", "RecursionError"),
    "deep data": ("x = []\nfor _ in range(10**6):\n    x = [x]\nx", ""),
    "a pattern that never ends": ("import re\nre.match('(a|a)*$', 'a' * 60 + 'b')\n1 / 0", "Error"),
    "sleep": ("import time\ntime.sleep(10**6)\n1 / 0", "ZeroDivisionError"),
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", GREEDY)
async def test_code_that_takes_too_much_is_ended(name: str, ask: Ask) -> None:
    code, expected = GREEDY[name]
    text, is_error = await ask("run_python", code=code, session="greedy")
    if expected:
        assert is_error
    assert expected in text
    assert (await ask("run_python", code="1 + 1", session="greedy"))[0] == "2"


@pytest.mark.anyio
async def test_a_session_that_is_full_says_how_to_go_on(ask: Ask) -> None:
    text, is_error = await ask(
        "run_python", code="x = []\nwhile True:\n    x.append('a' * 10**6 + str(len(x)))", session="full"
    )
    assert is_error
    assert "MemoryError" in text
    assert "drop_session frees it" in text
    await ask("drop_session", session="full")
    assert (await ask("run_python", code="1 + 1", session="full"))[0] == "2"


@pytest.mark.anyio
async def test_long_output_is_cut_and_says_so(ask: Ask) -> None:
    text, _ = await ask("run_python", code="for i in range(20_000):\n    print('line', i)\n'v' * 30_000")
    assert len(text) < 2 * Limits().output_chars + 200
    assert "print less" in text
    assert "look at a part of it" in text


@pytest.mark.anyio
async def test_hidden_characters_are_taken_out(ask: Ask) -> None:
    text, _ = await ask("run_python", code="print('a' + chr(0x202E) + chr(27) + 'b')\nchr(0xE0041) + 'c'")
    assert text.split("\n")[0] == "ab"
    assert not set(text) & {"\u202e", "\x1b", chr(0xE0041)}


@pytest.mark.anyio
async def test_functions_that_are_passed_in_can_be_called() -> None:
    def lookup(name: str, *, limit: int = 1) -> list[str]:
        return [name] * limit

    def broken() -> None:
        raise ValueError("no luck")

    server = build_server(functions={"lookup": lookup, "broken": broken})
    async with Client(server) as client:
        ask = asker(client)
        assert (await ask("run_python", code="lookup('x', limit=2)"))[0] == "['x', 'x']"
        text, is_error = await ask("run_python", code="broken()")
        assert is_error
        assert "ValueError: no luck" in text
        assert (await ask("run_python", code="while True:\n    lookup('x')"))[1]
        assert client.instructions is not None
        assert "lookup, broken" in client.instructions
        (tool, _) = (await client.list_tools()).tools
        assert tool.annotations is not None
        assert not tool.annotations.read_only_hint


@pytest.mark.anyio
async def test_a_cancelled_call_ends_its_snippet() -> None:
    sandbox = Sandbox(Limits(seconds=600), {})
    stop = Stop()
    try:
        with anyio.move_on_after(0.3) as scope:
            await run_stoppable(lambda: sandbox.run("while True:\n    pass", "s", stop), stop)
        assert scope.cancelled_caught  # and this line is reached long before the 600 s are over
        assert sandbox.sessions == []
        assert sandbox.run("1 + 1", "s").value == 2
    finally:
        sandbox.close()


def endless(sandbox: Sandbox, session: str) -> tuple[Stop, threading.Thread]:
    """Run an endless loop in a thread; both are returned when it runs."""
    stop, printing = Stop(), threading.Event()
    sandbox._functions = {"begun": printing.set}
    thread = threading.Thread(target=lambda: sandbox.run("begun()\nwhile True:\n    pass", session, stop))
    thread.start()
    assert printing.wait(60)
    return stop, thread


def waiting(sandbox: Sandbox, session: str, n: int) -> tuple[list[threading.Thread], list[Any]]:
    """Begin `n` calls that find the session busy."""
    outcomes: list[Any] = []
    kept = sandbox._sessions[session]
    n_waiting, all_wait = itertools.count(1), threading.Event()

    class Watched:
        """The session's lock; says when all calls wait for it."""

        def __enter__(self) -> None:
            if next(n_waiting) == n:
                all_wait.set()
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    def run() -> None:
        try:
            outcomes.append(sandbox.run("1 + 1", session))
        except Exception as error:
            outcomes.append(error)

    lock, kept.lock = kept.lock, Watched()  # pyright: ignore[reportAttributeAccessIssue]
    threads = [threading.Thread(target=run) for _ in range(n)]
    for thread in threads:
        thread.start()
    assert all_wait.wait(60)
    return threads, outcomes


@pytest.mark.parametrize("how", ["cancelled", "dropped"])
def test_calls_that_waited_for_a_session_that_ends_run_in_a_new_one(how: str) -> None:
    sandbox = Sandbox(Limits(seconds=600), {})
    try:
        stop, first = endless(sandbox, "s")
        threads, outcomes = waiting(sandbox, "s", 3)
        dropping = threading.Thread(target=sandbox.drop, args=("s",))
        if how == "dropped":
            dropping.start()
            while "s" in sandbox.sessions:
                pass
        stop()
        for thread in (first, *threads):
            thread.join(60)
        assert [outcome.value for outcome in outcomes] == [2, 2, 2]
        assert sum(outcome.is_new for outcome in outcomes) == 1
        assert sandbox.sessions == ["s"]
    finally:
        sandbox.close()


def test_calls_that_waited_when_the_server_closes_are_clear_errors() -> None:
    sandbox = Sandbox(Limits(seconds=600), {})
    stop, first = endless(sandbox, "s")
    threads, outcomes = waiting(sandbox, "s", 2)
    closing = threading.Thread(target=sandbox.close)
    closing.start()
    while sandbox.sessions:
        pass
    stop()
    for thread in (first, closing, *threads):
        thread.join(60)
    assert [type(outcome) for outcome in outcomes] == [ToolFailure, ToolFailure]
    assert "closing" in str(outcomes[0])


def test_a_worker_that_is_killed_when_its_snippet_has_just_ended_is_used_no_more() -> None:
    sandbox, stop = Sandbox(Limits(), {}), Stop()
    try:
        sandbox._functions = {"cancel": lambda: setattr(stop, "_is_asked", True)}
        assert sandbox.run("x = 1\ncancel()", "s", stop).error == ""
        assert sandbox.run("2", "s").is_new
    finally:
        sandbox.close()


@pytest.mark.anyio
async def test_calls_around_a_cancelled_one_are_answered() -> None:
    async with Client(build_server(limits=Limits(seconds=600))) as client:
        ask = asker(client)
        answers: list[tuple[str, bool]] = []

        async def add() -> None:
            answers.append(await ask("run_python", code="1 + 1", session="s"))

        async with anyio.create_task_group() as tasks:
            with anyio.move_on_after(0.5):
                for _ in range(2):
                    tasks.start_soon(add)
                await ask("run_python", code="while True:\n    pass", session="s")
            await add()
        assert answers == [("2", False)] * 3


@pytest.mark.anyio
async def test_a_killed_worker_takes_its_session_and_nothing_else(ask: Ask) -> None:
    sandbox = Sandbox(Limits(), {})
    try:
        sandbox.run("x = 1", "s")
        worker = sandbox._sessions["s"].monty.worker_pid
        assert worker is not None
        os.kill(worker, 9)
        assert "was stopped" in sandbox.run("x", "s").error
        outcome = sandbox.run("2", "s")
        assert (outcome.value, outcome.is_new) == (2, True)
    finally:
        sandbox.close()


@pytest.mark.anyio
async def test_snippets_of_one_session_follow_each_other() -> None:
    async with Client(build_server()) as client:
        ask = asker(client)
        await ask("run_python", code="x = 0", session="s")

        async def add_one() -> None:
            await ask("run_python", code="x += 1", session="s")

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(add_one)
        assert (await ask("run_python", code="x", session="s"))[0] == "8"


@pytest.mark.anyio
async def test_it_runs_as_a_child_process() -> None:
    parameters = StdioServerParameters(
        command=sys.executable, args=["-m", "mcp_servers.python", "--seconds", "2"], cwd=REPOSITORY
    )
    async with Client(stdio_client(parameters)) as client:
        assert (await asker(client)("run_python", code="sum(range(10))"))[0] == "45"


@pytest.mark.anyio
@pytest.mark.parametrize("code", ["", "  \n"])
async def test_empty_code_says_what_to_write(code: str) -> None:
    text, is_error = await ask_once(build_server(), "run_python", code=code)
    assert is_error
    assert "The code is empty" in text


@given(st.text(max_size=60))
def test_a_session_name_that_passes_is_a_plain_word(text: str) -> None:
    try:
        name = check_session(text)
    except ToolFailure:
        return
    assert name.isascii()
    assert 1 <= len(name) <= 40


@given(st.text(min_size=1, max_size=60))
def test_code_is_left_as_it_is(text: str) -> None:
    if text.strip():
        assert check_code(text) == text


JSON: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(alphabet="ab\u202e\x1b")
    | st.binary(max_size=3),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(max_size=3) | st.integers(), inner),
    max_leaves=20,
)


@given(JSON)
def test_every_value_is_shown_and_only_json_is_data(value: object) -> None:
    import json

    text, is_cut = shown(repr(value), 50)
    assert len(text) <= 50
    assert is_cut == (len(shown(repr(value), 10**6)[0]) > 50)
    json.dumps(json_value(value, 1_000), allow_nan=False)


def test_a_value_that_holds_itself_has_no_json() -> None:
    value: list[object] = []
    value.append(value)
    assert json_value(value, 1_000) is None


@given(st.lists(st.text(max_size=20)), st.integers(min_value=1, max_value=40))
def test_no_more_is_kept_than_allowed(pieces: list[str], most: int) -> None:
    printed = Printed(most)
    for piece in pieces:
        printed.add("stdout", piece)
    assert len(printed.text) <= most
    assert printed.n_chars == sum(map(len, pieces))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("2**20000", "cannot be written"),
        ("{'a': [-(2**20000)]}", "cannot be written"),
        ("x = []\nfor i in range(5000):\n    x = [x]\nx", "too many others inside each other"),
        ("x = {}\nfor i in range(5000):\n    x = {1: x}\nx", "too many others inside each other"),
    ],
)
@pytest.mark.usefixtures("each_recursion_limit")
async def test_a_value_that_python_cannot_write_is_an_answer(code: str, said: str) -> None:
    async with Client(build_server()) as client:
        text, is_error = await asker(client)("run_python", code=code)
        assert not is_error
        assert said in text
        assert await asker(client)("run_python", code="1 + 1") == ("2", False)
