"""A second process that reads prompts, so that a long prompt does not stop the replies of others.

Prefill and decode disaggregated (DistServe, arXiv 2401.09670), on one machine. The engine sends a prompt to the
process, which evaluates it and stores keys and values in whole blocks in shared memory (`prefix_store`): files
that are verified by their checksum, under a hash of the tokens and of the weights. Meanwhile the request waits
without blocks. When the answer comes, the engine restores the blocks and evaluates what is left, at least the last
token.

The process has a lease on a prompt: `LEASE_S` a token. If it ends, is late or stores what cannot be used, the
engine evaluates the prompt itself. The process is started again for the next prompt. It ends when the engine's
process does, since its input then ends.

Protocol: one JSON object per line, `{"number": 3, "prompt": [1, 2]}` and `{"number": 3}`.
"""

from __future__ import annotations

import json
import logging
import queue
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from modelstack.inference.state_store import StateStore

logger = logging.getLogger(__name__)

LEASE_S = 0.1
"""Seconds per token of a prompt after which the engine evaluates it itself, besides `START_S`."""
START_S = 60.0
"""Seconds that the process may take to load the model."""
RESTART_S = 5.0
"""Seconds between two starts of a process that ended."""


class PrefillProcess:
    """The process and the prompts that it was given. Used under the engine's lock."""

    def __init__(
        self, command: Sequence[str], store: StateStore, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start the process.

        Args:
            command: Program that calls `prompt_reader.answer_prompts` on its standard input and output.
            store: Folder in shared memory, into which the process stores keys and values.
            environment: Variables of the process; None: those of this one.
        """
        self.store = store
        self._command, self._environment = list(command), environment
        self._due: dict[int, float] = {}
        """End of the lease of each prompt that is being read."""
        self._given_back: list[int] = []
        """Prompts of a process that ended."""
        self._asked: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        """Lines for the process; a thread writes them, as the process may not read."""
        self._answers: queue.SimpleQueue[tuple[subprocess.Popen[bytes], int | None]] = queue.SimpleQueue()
        self._started = 0.0
        self._child: subprocess.Popen[bytes] | None = None
        self._start()

    @property
    def pid(self) -> int | None:
        """Number of the process; None: it has ended."""
        return None if self._child is None else self._child.pid

    def send(self, number: int, prompt: Sequence[int]) -> bool:
        """Give a prompt to the process; False if there is none to take it."""
        if self._child is None and time.monotonic() - self._started > RESTART_S:
            self._start()
        if self._child is None:
            return False
        self._asked.put(json.dumps({"number": number, "prompt": list(prompt)}).encode() + b"\n")
        self._due[number] = max(time.monotonic(), self._started + START_S) + LEASE_S * len(prompt)
        return True

    def arrived(self, wait_s: float) -> list[int]:
        """Return the prompts that need not be waited for any longer; waits at most `wait_s` for the first."""
        found, self._given_back = self._given_back, []
        with suppress(queue.Empty):
            while True:
                child, number = self._answers.get(timeout=0 if found else wait_s)
                if child is not self._child:
                    continue  # of a process that has ended
                if number is None:
                    logger.warning("the process that reads prompts has ended; the engine reads them itself")
                    self._end()
                elif number in self._due:
                    found.append(number)
                    del self._due[number]
        late = [number for number, due in self._due.items() if time.monotonic() > due]
        for number in late:
            del self._due[number]
        found += late + self._given_back
        self._given_back = []
        return found

    def close(self) -> None:
        """End the process. Idempotent."""
        self._end()

    def _start(self) -> None:
        self._started = time.monotonic()
        child = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment,
            start_new_session=True,
        )
        self._child = child
        asked = self._asked = queue.SimpleQueue[bytes | None]()

        def tell() -> None:
            assert child.stdin is not None
            with suppress(OSError), child.stdin as lines:
                while (line := asked.get()) is not None:
                    lines.write(line)
                    lines.flush()

        def listen() -> None:
            assert child.stdout is not None
            with child.stdout as lines, suppress(OSError, ValueError, KeyError, TypeError):
                for line in lines:
                    self._answers.put((child, int(json.loads(line)["number"])))
            self._answers.put((child, None))

        threading.Thread(target=tell, name="prompts asked", daemon=True).start()
        threading.Thread(target=listen, name="prompts read", daemon=True).start()

    def _end(self) -> None:
        """Forget the process, and give back the prompts that it had."""
        child, self._child = self._child, None
        self._given_back += self._due
        self._due.clear()
        self._asked.put(None)
        if child is not None:
            child.kill()
            child.wait()
