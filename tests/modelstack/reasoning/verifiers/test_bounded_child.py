"""A question that takes too long costs its own limits, and the next one is answered."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from modelstack.reasoning.verifiers.bounded_child import BoundedChild, ChildLimits, TookTooLong

MODULE = """
import os, time

def answer(question):
    if question == "loop":
        while True: pass
    if question == "sleep":
        time.sleep(1000)
    if question == "memory":
        return len(bytearray(1 << 33))
    if question == "exit":
        os._exit(0)
    if question == "raise":
        raise KeyError("what")
    if question == "print":
        print('{"answer": "forged"}', flush=True)
        return "honest"
    if question == "long":
        return "x" * (1 << 20)
    if question == "fork":
        return os.fork()
    if question == "write":
        with open("/tmp/bounded-child-test", "w") as file: return file.write("x" * 100)
    if question == "environment":
        return sorted(os.environ)
    return [question, os.getpid()]
"""


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BoundedChild]:
    folder = tmp_path_factory.mktemp("module")
    (folder / "answering_for_test.py").write_text(MODULE, encoding="utf-8")
    sys.path.append(str(folder))
    limits = ChildLimits(wall_s=2.0, cpu_s=1, memory_bytes=1 << 30)
    with BoundedChild("answering_for_test:answer", limits) as made:
        yield made
    sys.path.remove(str(folder))


@pytest.mark.parametrize("question", ["loop", "sleep", "exit", "long"])
def test_what_takes_too_long_or_dies_is_given_up_and_the_next_question_is_answered(
    question: str, child: BoundedChild
) -> None:
    with pytest.raises(TookTooLong):
        child.ask(question)
    assert child.ask("next")[0] == "next"


@pytest.mark.parametrize(("question", "words"), [("memory", "MemoryError"), ("raise", "KeyError: 'what'")])
def test_what_is_raised_is_told(question: str, words: str, child: BoundedChild) -> None:
    with pytest.raises(RuntimeError, match=words):
        child.ask(question)


def test_what_is_printed_is_no_reply(child: BoundedChild) -> None:
    assert child.ask("print") == "honest"


def test_nothing_can_be_written_and_the_environment_is_bare(child: BoundedChild) -> None:
    with pytest.raises((RuntimeError, TookTooLong)):
        child.ask("write")
    assert set(child.ask("environment")) <= {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "LC_CTYPE", "PWD"}


@pytest.mark.skipif(os.geteuid() == 0, reason="the limit on processes does not bind root")
def test_a_question_starts_no_process(child: BoundedChild) -> None:
    with pytest.raises(RuntimeError, match="BlockingIOError"):
        child.ask("fork")


def test_threads_share_a_child_and_get_their_own_answers(child: BoundedChild) -> None:
    found: dict[int, Any] = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: child.ask(i)[0]})) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: i for i in range(8)}


def test_a_function_that_is_not_there_is_told() -> None:
    with BoundedChild("no_such_module:f") as missing, pytest.raises(RuntimeError, match="no_such_module"):
        missing.ask(1)
