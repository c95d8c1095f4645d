"""An HTTP exchange with a model's server: send, check, read, with every read bounded in bytes and in time.

The content type decides how a reply is read, not the request: some servers always stream, others never do.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import anyio

from agentkit.errors import ModelConnectionError, ModelTimeout, UnexpectedModelBehavior
from agentkit.messages import ModelResponse
from agentkit.models.base import ModelDelta, OnDelta
from agentkit.models.http.errors import Endpoint, details_of, error_event, error_in_reply, status_error
from agentkit.models.http.reply import ReplyBuilder
from agentkit.models.http.sse import ServerEvent, SSEParser
from agentkit.models.retries import retry_after_s

if TYPE_CHECKING:
    import httpx

MAX_BODY_BYTES = 64 * 2**20
"""Bytes of a reply; far above any model's longest answer, far below what would hurt the process."""
MAX_ERROR_BODY_BYTES = 64 * 2**10
MAX_SNIPPET_CHARS = 200
DRAIN_S = 0.1
"""Seconds to wait, after the last event, for the end of the body, so that the connection can be reused."""
_KEEP_ALIVE_TYPES = ("ping", "keepalive")
"""Types of events that say nothing but that the server is there (Anthropic, OpenAI Responses)."""
_DONE = "[DONE]"
"""Data of the last event in OpenAI's chat completions and their imitations; the only event that is not JSON."""


@dataclass(frozen=True, slots=True)
class HTTPRequest:
    """Content of a request, with its connect and idle timeouts."""

    url: str
    headers: Mapping[str, str]
    content: bytes
    connect_timeout_s: float
    idle_timeout_s: float


class HTTPExchange:
    """An attempt at a request; the caller keeps it to read its progress."""

    def __init__(
        self,
        endpoint: Endpoint,
        reply: ReplyBuilder,
        on_delta: OnDelta | None,
        now: Callable[[], datetime],
        on_progress: Callable[[], None],
    ) -> None:
        """Prepare an attempt whose reply is built in `reply` and passed to `on_delta`.

        `now` is for Retry-After. `on_progress` is called for every piece of the reply, not for keep-alive signs.
        """
        self._endpoint = endpoint
        self._reply = reply
        self._on_delta = on_delta
        self._now = now
        self._on_progress = on_progress
        self.delivered = False
        """True once `on_delta` received anything, which a second attempt would repeat."""
        self.retry_after_s: float | None = None
        """Seconds that the server asked to wait."""

    @property
    def progress(self) -> str:
        """Progress of the reply, as the end of a sentence."""
        arrived = self._reply.describe()
        return f"after {arrived} had arrived" if arrived else "before anything had arrived"

    async def run(self, client: httpx.AsyncClient, request: HTTPRequest) -> ModelResponse:
        """Send the request and read the reply to its end.

        Raises:
            ModelError: the attempt failed; subclasses say how.
        """
        import httpx

        timeout = httpx.Timeout(None, connect=request.connect_timeout_s)
        message = client.build_request(
            "POST", request.url, content=request.content, headers=dict(request.headers), timeout=timeout
        )
        try:
            response = await client.send(message, stream=True, follow_redirects=False)
        except httpx.TransportError as error:
            raise self._connection_error(error) from error
        try:
            async with aclosing(_Body(response, request.idle_timeout_s)) as body:
                return await self._read(response, body)
        except httpx.TransportError as error:
            raise self._connection_error(error) from error
        finally:
            await response.aclose()

    async def _read(self, response: httpx.Response, body: _Body) -> ModelResponse:
        encoding = response.headers.get("content-encoding", "identity")
        if not response.is_success:
            text = await _beginning(body) if encoding == "identity" else ""
            asked_s = retry_after_s(response.headers, self._now())
            self.retry_after_s = details_of(self._endpoint, text).retry_after_s if asked_s is None else asked_s
            raise status_error(self._endpoint, response.status_code, text, response.headers)
        if encoding != "identity":  # not requested, and could expand to any size
            raise UnexpectedModelBehavior(f"the server's reply is {encoding!r}-encoded, which was not asked for.")
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/event-stream":
            await self._read_events(body)
        elif kind == "application/json" or kind.endswith("+json"):
            await self._read_whole(body)
        else:
            start = await _beginning(body)
            raise UnexpectedModelBehavior(
                f"{self._endpoint.base_url} answered {kind or 'no content type'} where JSON or an event stream "
                f"belongs; is base_url right? It begins: {self._endpoint.clean(start, MAX_SNIPPET_CHARS)!r}"
            )
        self._deliver(self._reply.close())
        return self._reply.response(self._endpoint.model_name)

    async def _read_whole(self, body: _Body) -> None:
        content = bytearray()
        while (chunk := await self._next(body)) is not None:
            content += chunk
        self._take(bytes(content).decode("utf-8", "replace"))

    async def _read_events(self, body: _Body) -> None:
        """Read events up to the last; a finished reply is complete even if the stream breaks."""
        import httpx

        parser = SSEParser()
        try:
            while (chunk := await self._next(body)) is not None:
                for event in parser.feed(chunk):
                    if event.data.strip() != _DONE:
                        self._take_event(event)
                        if not self._reply.ended:
                            continue
                    await body.drain()
                    return
        except (httpx.TransportError, ModelTimeout):
            if not self._reply.finished:
                raise
        else:
            self._take_tail(parser)

    def _take_tail(self, parser: SSEParser) -> None:
        """Handle a stream that ended without its end mark; a readable last event still counts."""
        try:
            events = list(parser.close())
        except UnexpectedModelBehavior:
            events = []  # cut inside a character
        for event in events:
            if event.data.strip() == _DONE:
                return
            if _is_json(event.data):
                self._take_event(event)
        if not self._reply.finished:
            raise ModelConnectionError(f"{self._name} ended its stream too early, {self.progress}.")

    def _take_event(self, event: ServerEvent) -> None:
        if event.event == "error":
            raise error_event(self._endpoint, event.data)
        self._take(event.data)

    def _take(self, data: str) -> None:
        try:
            chunk: Any = json.loads(data)
        except (ValueError, RecursionError):
            shown = self._endpoint.clean(data, MAX_SNIPPET_CHARS)
            raise UnexpectedModelBehavior(f"{self._name} sent what is not JSON: {shown!r}") from None
        if error := error_in_reply(self._endpoint, chunk):
            raise error
        if not _is_keep_alive(chunk):
            self._on_progress()
            self._deliver(self._reply.feed(chunk))

    def _deliver(self, deltas: list[ModelDelta]) -> None:
        if self._on_delta is None:
            return
        for delta in deltas:
            self.delivered = True
            self._on_delta(delta)

    async def _next(self, body: _Body) -> bytes | None:
        try:
            return await body.read()
        except TimeoutError:
            raise ModelTimeout(
                f"{self._name} was silent for {body.idle_timeout_s:g} s (idle_timeout_s), {self.progress}."
            ) from None

    @property
    def _name(self) -> str:
        return f"{self._endpoint.model_name!r} at {self._endpoint.base_url}"

    def _connection_error(self, error: httpx.TransportError) -> ModelConnectionError:
        import httpx

        said = self._endpoint.clean(str(error), MAX_SNIPPET_CHARS)
        why = f"{type(error).__name__}: {said}" if said else type(error).__name__
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ModelConnectionError(f"{self._name} could not be reached ({why}); is the server running?")
        return ModelConnectionError(f"the connection to {self._name} broke ({why}), {self.progress}.")


class _Body:
    """The bytes of a response, read chunk by chunk under an idle deadline and a bound on the whole."""

    def __init__(self, response: httpx.Response, idle_timeout_s: float) -> None:
        self.idle_timeout_s = idle_timeout_s
        self._chunks = cast("AsyncGenerator[bytes, None]", response.aiter_bytes())
        self._n_bytes = 0

    async def read(self) -> bytes | None:
        """Return the next chunk, None at the end.

        Raises:
            TimeoutError: nothing came within the idle deadline.
            UnexpectedModelBehavior: the body is too large.
        """
        with anyio.fail_after(self.idle_timeout_s):
            chunk = await anext(self._chunks, None)
        self._n_bytes += len(chunk or b"")
        if self._n_bytes > MAX_BODY_BYTES:
            raise UnexpectedModelBehavior(
                f"the server's reply is over {MAX_BODY_BYTES:,} bytes; the rest was not read."
            )
        return chunk

    async def drain(self) -> None:
        """Read briefly to the end of a body whose remaining content is not needed."""
        import httpx

        with anyio.move_on_after(DRAIN_S):
            try:
                while await anext(self._chunks, None) is not None:
                    pass
            except httpx.TransportError:
                return

    async def aclose(self) -> None:
        """Close the iterator."""
        await self._chunks.aclose()


async def _beginning(body: _Body) -> str:
    """Read the beginning of a body for an error's message; a failure to read it is not a second error."""
    import httpx

    content = bytearray()
    try:
        while len(content) < MAX_ERROR_BODY_BYTES and (chunk := await body.read()) is not None:
            content += chunk
    except (httpx.TransportError, TimeoutError):
        pass
    return content[:MAX_ERROR_BODY_BYTES].decode("utf-8", "replace")


def _is_keep_alive(event: Any) -> bool:
    return isinstance(event, dict) and cast("dict[str, Any]", event).get("type") in _KEEP_ALIVE_TYPES


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
