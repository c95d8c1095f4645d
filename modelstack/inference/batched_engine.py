"""The part that all batching engines share: turns of threads, and the loop from logits to tokens.

Each step evaluates one batch, draws the next token of each reply whose logits are known, and puts what follows
into the next batch. There is no other loop: `generate` steps until its own reply has ended. Calls from several
threads take turns step by step, so requests of different threads share batches. Replies are independent: each has
its own random stream and its own grammar, and an error of one ends only that one.

An engine supplies the `Evaluation`: streams of tokens in, logits after their last tokens out.

Letters: R rows of logits, V vocabulary size, L layers, D width of their outputs.
"""

from __future__ import annotations

import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from types import TracebackType
from typing import Generic, Self

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.engine import EngineError, GenerateRequest, Generation, Submission
from modelstack.inference.evaluation import DraftingEvaluation, StreamT
from modelstack.inference.fair_lock import FairLock
from modelstack.inference.pending_reply import PendingReply
from modelstack.inference.reply import ReplyMaker
from modelstack.inference.sequences import common_prefix_length
from modelstack.inference.speculation.speculation import DraftedReply, Drafter, Speculation
from modelstack.tokenizer.vocabulary import Vocabulary


class BatchedEngine(ABC, Generic[StreamT]):
    """A `BatchingEngine` over an evaluation that a subclass supplies."""

    def __init__(self, vocabulary: Vocabulary, seed: int | None, drafter: Drafter | None = None) -> None:
        """Start without requests.

        Args:
            vocabulary: The model's tokens.
            seed: Seed of requests that name none; None draws one.
            drafter: Source of draft tokens; None: each step yields one token of a reply.
        """
        self._speculation = None if drafter is None else Speculation(drafter)
        self._vocabulary = vocabulary
        self._replies = ReplyMaker(vocabulary, np.random.default_rng(seed))
        self._pending: dict[StreamT, PendingReply[StreamT]] = {}
        self._lock = FairLock()
        self._owner: int | None = None
        self._closing = False

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's tokens; its `encode` is for content and yields no special token."""
        return self._vocabulary

    def submit(
        self,
        request: GenerateRequest,
        *,
        on_tokens: Callable[[list[int]], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> PendingReply[StreamT]:
        """Put a request in the line.

        Args:
            request: Prompt and parameters.
            on_tokens: Called with each block of tokens, from the thread that calls `step`.
            cancelled: Called before each step; True ends the reply.

        Raises:
            ContextWindowError: the prompt and one token do not fit.
            EngineError: the prompt or a parameter is invalid, or the engine is closed.
            GrammarError: the grammar refused a token that it forces.
        """
        with self._turn():
            return self._submitted(request, on_tokens, cancelled)

    def step(self) -> list[PendingReply[StreamT]]:
        """Evaluate one batch; return the requests that ended with it.

        An error of one reply ends that reply: `PendingReply.result` raises it. An error of the evaluation is
        raised here; all requests stay in the line.

        Raises:
            EngineError: called from a callback of a request, or the engine is closed.
        """
        with self._turn():
            return self._step()

    def generate(
        self,
        request: GenerateRequest,
        *,
        on_tokens: Callable[[list[int]], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Generation:
        """Answer a request, beside the requests of other threads.

        Args:
            request: Prompt and parameters.
            on_tokens: Called with each block of tokens, from any thread that uses the engine.
            cancelled: Called before each step; True stops the generation.

        Raises:
            ContextWindowError: the prompt and one token do not fit.
            EngineError: the request is invalid, the backend failed, the grammar is at a dead end, or the engine
                is closed.
        """
        with self._turn(cancelled) as has_turn:
            if not has_turn:
                return Generation(finish_reason="cancelled")
            submission = self._submitted(request, on_tokens, cancelled)
        try:
            while not submission.is_done:
                with self._turn():
                    if not submission.is_done:  # a step of another thread may have ended it meanwhile
                        self._step()
        except BaseException:
            if submission.is_done:  # another thread closed the engine
                return submission.result()
            self.cancel(submission)
            raise
        return submission.result()

    def cancel(self, submission: Submission) -> None:
        """End a request and free its part of the cache; ended ones are ignored.

        A callback's own request ends after the callback.

        Raises:
            EngineError: the submission is of another engine.
        """
        if not isinstance(submission, PendingReply):
            raise EngineError(f"{submission!r} was not submitted to this engine")
        submission.is_cancelled = True
        if self._owner != threading.get_ident():
            with self._turn():
                self._drop_cancelled()

    def close(self) -> None:
        """End all requests as cancelled, and free cache and weights. Idempotent.

        Raises:
            EngineError: called from a callback of a request.
        """
        if self._owner == threading.get_ident():
            raise EngineError("close() was called from a callback of a request; cancel the request instead")
        self._closing = True
        with self._lock:
            for submission in list(self._pending.values()):
                submission.reply.finish("cancelled")
                self._end(submission)
            self._free()

    def __enter__(self) -> Self:
        """Return self; leaving the block closes the engine."""
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Close the engine."""
        self.close()

    @property
    def state_layers(self) -> tuple[int, ...]:
        """Layers whose outputs the watches of requests read, from 0, without the last one; none by default."""
        return ()

    @property
    @abstractmethod
    def _evaluation(self) -> DraftingEvaluation[StreamT]:
        """The model's cache and its streams."""

    @abstractmethod
    def _room_for(self, request: GenerateRequest) -> int:
        """Check a request; return the number of tokens that may follow its prompt.

        Raises:
            ContextWindowError: the prompt and one token do not fit.
            EngineError: the request is invalid.
        """

    @abstractmethod
    def _enter(self, submission: PendingReply[StreamT], max_tokens: int) -> StreamT:
        """Put a request in the line; the grammar may have forced the beginning of its reply already."""

    def _may_draft(self, request: GenerateRequest) -> bool:
        """Return whether a request takes drafts; a subclass refuses where they would change a seeded reply."""
        return True

    def _account(self, submission: PendingReply[StreamT], stream: StreamT) -> None:
        """Add an evaluation of a stream's last token to its work, where the evaluation does not do so itself."""

    @abstractmethod
    def _leave(self, submission: PendingReply[StreamT], stream: StreamT) -> None:
        """Remove an ended stream from the evaluation."""

    @abstractmethod
    def _free(self) -> None:
        """Free cache and weights. Idempotent."""

    def _submitted(
        self,
        request: GenerateRequest,
        on_tokens: Callable[[list[int]], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> PendingReply[StreamT]:
        max_tokens = min(request.max_tokens, self._room_for(request))
        if request.watch is not None and not self.state_layers:
            raise EngineError("a request with a watch needs an engine that was loaded with state_layers")

        def stop() -> bool:
            return submission.is_cancelled or self._closing or (cancelled is not None and cancelled())

        reply = self._replies.make(request, max_tokens, on_tokens, stop)
        submission = PendingReply[StreamT](request, reply)
        # A watch reads the end of the prompt before anything is written, even if the first tokens are forced.
        if request.watch is not None or reply.advance():
            stream = submission.stream = self._enter(submission, max_tokens)
            self._pending[stream] = submission
        return submission

    def _step(self) -> list[PendingReply[StreamT]]:
        ended = self._drop_cancelled()
        self._draft()
        started = perf_counter()
        ready = self._evaluation.step()
        if self._speculation is not None:
            self._speculation.costs.add(ready.n_tokens, perf_counter() - started)
        end = 0
        for stream, draft in zip(ready.streams, ready.drafts or itertools.repeat([]), strict=False):
            submission = self._pending[stream]
            start, end = end, end + 1 + len(draft)
            self._account(submission, stream)
            try:
                logits_RV = ready.logits_RV[start:end, : len(self._vocabulary)]
                states_RLD = None if ready.states_RLD is None else ready.states_RLD[start:end]
                goes_on = self._continued(submission, stream, logits_RV, draft, states_RLD)
            except Exception as error:  # of this reply alone: its grammar, its callback, its logits
                submission.error = error
                goes_on = False
            if not goes_on:
                ended.append(self._end(submission))
        for stream, error in ready.failed:
            self._pending[stream].error = error
            ended.append(self._end(self._pending[stream]))
        return ended

    def _continued(
        self,
        submission: PendingReply[StreamT],
        stream: StreamT,
        logits_RV: NDArray[np.float32],
        draft: Sequence[int],
        states_RLD: NDArray[np.float32] | None,
    ) -> bool:
        """Draw the next tokens; return whether the reply goes on, with what must be evaluated next.

        Args:
            submission: The request.
            stream: Its stream.
            logits_RV: Logits after the stream's last token and after each token of the draft.
            draft: The draft. The next token is drawn as long as the drawn and forced ones follow it.
            states_RLD: States of the same tokens for the request's monitor, which reads a draft token's once the
                reply has taken it.
        """
        reply, written = submission.reply, submission.reply.out.ids
        first = len(written)
        while True:
            row, watch = len(written) - first, submission.request.watch
            if watch is not None and states_RLD is not None and not watch(states_RLD[row], written):
                reply.finish("content_filter")
                return False
            is_opening = watch is not None and not written
            goes_on = not is_opening or reply.advance()
            if goes_on and not (is_opening and written):
                reply.take(logits_RV[row])
                goes_on = reply.advance()
            n = len(written) - first
            if not goes_on or n > len(draft) or written[first:] != draft[:n]:
                break
        self._evaluation.extend(stream, written[first:])
        reply.out.stats.drafted_tokens += len(draft)
        reply.out.stats.accepted_tokens += common_prefix_length(list(draft), written[first:])
        if submission.drafted is not None and self._speculation is not None:
            self._speculation.learn(submission.drafted, written[first:], len(draft))
        return goes_on

    def _draft(self) -> None:
        """Set the drafts of the replies that are being written."""
        speculation = self._speculation
        if speculation is None:
            return
        written = [(stream, each) for stream, each in self._pending.items() if self._is_drafted(each)]
        for stream, each in written:
            if each.drafted is None:
                asked = each.request
                each.drafted = DraftedReply([*asked.expected_ids, *asked.prompt_ids], each.reply, stream)
        replies = [each.drafted for _, each in written if each.drafted is not None]
        drafts = speculation.draft(replies, self._evaluation.max_step_tokens)
        for (stream, _), draft in zip(written, drafts, strict=True):
            self._evaluation.draft(stream, draft)

    def _is_drafted(self, submission: PendingReply[StreamT]) -> bool:
        return bool(submission.reply.out.ids) and self._may_draft(submission.request)

    def _end(self, submission: PendingReply[StreamT]) -> PendingReply[StreamT]:
        stream = submission.stream
        assert stream is not None
        del self._pending[stream]
        self._leave(submission, stream)
        return submission

    def _drop_cancelled(self) -> list[PendingReply[StreamT]]:
        dropped = [submission for submission in self._pending.values() if submission.reply.is_cancelled]
        for submission in dropped:
            submission.reply.finish("cancelled")
            self._end(submission)
        return dropped

    @contextmanager
    def _turn(self, stop: Callable[[], bool] | None = None) -> Iterator[bool]:
        """Wait for the engine; yields False if `stop` returned True meanwhile."""
        me = threading.get_ident()
        if self._owner == me:
            raise EngineError("the engine was called from a callback of one of its own requests")
        if not self._lock.acquire(stop):
            yield False
            return
        try:
            if self._closing:
                raise EngineError("the engine is closed; load it again")
            self._owner = me
            yield True
        finally:
            self._owner = None
            self._lock.release()
