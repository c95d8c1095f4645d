"""Requests of the torch engine, from submission to reply, and the counts of an engine."""

from __future__ import annotations

from dataclasses import dataclass

from modelstack.inference.engine import EngineError, GenerateRequest, Generation
from modelstack.inference.reply import Reply
from modelstack.inference.streams import Stream


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """Counts of an engine at one time."""

    n_running: int
    n_waiting: int
    n_blocks: int
    n_free_blocks: int
    """Blocks that no request holds; cached ones included."""
    n_cached_blocks: int
    """Free blocks whose content a later request can reuse."""
    cache_bytes: int


class TorchSubmission:
    """A request of a `TorchEngine`; see `engine.Submission`."""

    def __init__(self, request: GenerateRequest, reply: Reply) -> None:
        """Start a request that is in no line."""
        self.request, self.reply = request, reply
        self.stream: Stream | None = None
        """Place in the line; None: the reply ended before any evaluation."""
        self.error: Exception | None = None
        self.is_cancelled = False
        self.n_restored = 0
        """Number of prompt tokens that were restored from disk."""

    @property
    def is_done(self) -> bool:
        """Whether the reply has ended or failed."""
        return self.error is not None or self.reply.finish_reason is not None

    def result(self) -> Generation:
        """Return the reply.

        Raises:
            EngineError: the reply failed, or it has not ended.
            GrammarError: the grammar refused a token that its own mask allowed.
        """
        if self.error is not None:
            raise self.error
        if not self.is_done:
            raise EngineError("the reply has not ended; call step() until the submission is done")
        return self.reply.out
