"""The other side of `prefill_process`: prompts are read and their blocks stored until the input ends."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from modelstack.inference.engine import EngineError, GenerateRequest
from modelstack.inference.torch.engine import TorchEngine


def answer_prompts(engine: TorchEngine, lines: IO[bytes], answers: IO[bytes]) -> None:
    """Read prompts until the input ends; those that wait are read together.

    Args:
        engine: An engine that stores conversations in the folder that the other process restores from.
        lines: Prompts, in the protocol of `prefill_process`.
        answers: Their numbers, each after its blocks were stored.
    """
    waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def listen() -> None:
        for line in lines:
            waiting.put(line)
        waiting.put(None)

    threading.Thread(target=listen, name="prompts asked", daemon=True).start()
    running: dict[object, int] = {}
    is_open = True
    while is_open or running:
        with suppress(queue.Empty):
            while is_open:
                line = waiting.get(block=not running)
                if line is None:
                    is_open = False
                    break
                asked = json.loads(line)
                request = GenerateRequest(asked["prompt"], 1, conversation=str(asked["number"]))
                try:
                    running[engine.submit(request)] = asked["number"]
                except EngineError:  # the engine that asks says what is wrong
                    _answer(answers, asked["number"])
                if waiting.empty():
                    break
        for ended in engine.step() if running else ():
            engine.flush()
            _answer(answers, running.pop(ended))


def _answer(answers: IO[bytes], number: int) -> None:
    answers.write(json.dumps({"number": number}).encode() + b"\n")
    answers.flush()


@contextmanager
def protocol_streams() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Yield standard input and output; what else writes to the output goes to the error stream."""
    with os.fdopen(os.dup(1), "wb") as answers, os.fdopen(os.dup(0), "rb") as lines:
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        yield lines, answers
