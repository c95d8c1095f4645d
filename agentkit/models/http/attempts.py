"""The attempts at one request, under one deadline."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio

from agentkit.errors import ModelError
from agentkit.messages import ModelResponse
from agentkit.models.http.exchange import HTTPExchange, HTTPRequest
from agentkit.models.retries import Backoff, worth_retrying

if TYPE_CHECKING:
    import httpx


class Attempts:
    """The attempts at one request."""

    def __init__(self, new_exchange: Callable[[], HTTPExchange], max_retries: int, backoff: Backoff) -> None:
        """Prepare at most 1 + `max_retries` attempts, each with an exchange of its own."""
        self._new_exchange = new_exchange
        self._max_retries = max_retries
        self._backoff = backoff
        self._exchange: HTTPExchange | None = None
        self._n_attempts = 0
        self.last_error: ModelError | None = None

    @property
    def progress(self) -> str:
        """Progress of the last attempt, as the end of a sentence."""
        if self._exchange is None:
            return "before the request was sent"
        return f"{self._exchange.progress} (attempt {self._n_attempts})"

    async def run(
        self, client: httpx.AsyncClient, request: HTTPRequest, scope: anyio.CancelScope
    ) -> ModelResponse:
        """Try until an attempt succeeds, or fails for good; `scope` has the deadline.

        Raises:
            ModelError: the last attempt failed; subclasses say how.
        """
        while True:
            self._exchange = self._new_exchange()
            self._n_attempts += 1
            try:
                return await self._exchange.run(client, request)
            except ModelError as error:
                delay_s = self._delay_s(self._exchange, error, scope.deadline)
                if delay_s is None:
                    if self._n_attempts > 1:
                        error.add_note(f"This was attempt {self._n_attempts}.")
                    raise
                self.last_error = error
            await self._backoff.sleep(delay_s)

    def _delay_s(self, exchange: HTTPExchange, error: ModelError, deadline: float) -> float | None:
        """Return the seconds before the next attempt; None if there is none, also for lack of time."""
        if exchange.delivered or self._n_attempts > self._max_retries or not worth_retrying(error):
            return None
        delay_s = self._backoff.delay_s(self._n_attempts, exchange.retry_after_s)
        return delay_s if anyio.current_time() + delay_s < deadline else None
