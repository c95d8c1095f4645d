"""A request of an engine that batches, from its submission to its reply."""

from __future__ import annotations

from typing import Generic

from modelstack.inference.engine import EngineError, GenerateRequest, Generation
from modelstack.inference.evaluation import StreamT
from modelstack.inference.reply import Reply
from modelstack.inference.speculation.speculation import DraftedReply


class PendingReply(Generic[StreamT]):
    """A request of a `BatchedEngine`; see `engine.Submission`."""

    def __init__(self, request: GenerateRequest, reply: Reply) -> None:
        """Start a request that is in no line."""
        self.request, self.reply = request, reply
        self.stream: StreamT | None = None
        """Place in the line; None: the reply ended before any evaluation."""
        self.error: Exception | None = None
        self.is_cancelled = False
        self.drafted: DraftedReply | None = None
        """The reply's text and guesses, if the engine speculates."""

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
