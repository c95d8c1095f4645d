"""Steps an engine until its requests have ended, with its cache verified after each step."""

from __future__ import annotations

from typing import Any, Protocol

from modelstack.inference.engine import Generation
from modelstack.inference.pending_reply import PendingReply


class CheckedEngine(Protocol):
    def step(self) -> Any: ...

    def check_integrity(self) -> None: ...


def run(engine: CheckedEngine, *submissions: PendingReply[Any]) -> list[Generation]:
    """Return the replies."""
    for _ in range(10_000):
        if all(submission.is_done for submission in submissions):
            return [submission.result() for submission in submissions]
        engine.step()
        engine.check_integrity()
    raise AssertionError("the replies do not end")
