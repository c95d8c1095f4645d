"""The response that writes replies while it is sent: as one JSON body, or as server-sent events."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import anyio
from anyio.abc import TaskGroup
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from modelstack.inference.server.errors import ApiError, api_error
from modelstack.inference.server.replying import Pieces, Replies, Work
from modelstack.inference.server.turns import Piece, ServedReply

logger = logging.getLogger(__name__)
CLOSED_REQUEST = 499
"""Status, in the figures, of a request whose client left."""
JSON = "application/json"
PING_EVERY_S = 15.0
"""Seconds after which a stream sends a comment, so that proxies keep the connection while no piece comes."""
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
Event = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """How a protocol writes replies and errors."""

    whole: Callable[[Sequence[ServedReply]], dict[str, Any] | bytes]
    """Returns the body of complete replies, as JSON or encoded already."""
    events: Callable[[Pieces], AsyncIterator[Event]] | None = None
    """Yields the events of a stream; None: the replies are sent when they are complete."""
    are_named: bool = False
    """Whether the name of an event, its field `type`, is sent beside it."""
    last: str = ""
    """Data of the last event."""
    error: Callable[[ApiError], dict[str, Any]] = ApiError.as_openai


OPENAI = Form(lambda replies: {})
ANTHROPIC = replace(OPENAI, are_named=True, error=ApiError.as_anthropic)


def form_of(path: str) -> Form:
    """Return the form of the errors of a path."""
    if path == "/v1/messages":
        return ANTHROPIC
    return replace(OPENAI, are_named=True) if path == "/v1/responses" else OPENAI


class _ClientStalledError(Exception):
    """The client reads nothing of the reply."""


class ReplyResponse(Response):
    """Writes replies; stops them when the client leaves, or reads nothing for too long.

    An error before the first piece has its own status. One after it is the stream's last event.
    """

    def __init__(
        self, replies: Replies, works: Sequence[Work], form: Form, path: str, counted: Callable[[int], None]
    ) -> None:
        """Answer with the replies of `works`; `counted` receives the status."""
        super().__init__()
        self._replies = replies
        self._works = works
        self._form = form
        self._path = path
        self._counted = counted
        self._lock = anyio.Lock()
        """Held while a part of the body is sent."""
        self._is_over = False
        """Whether the last part was sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write the replies and send them."""
        status = CLOSED_REQUEST
        async with anyio.create_task_group() as tasks:

            async def stop_if_left() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            async def answer() -> None:
                nonlocal status
                status = await self._answered(scope, receive, send, tasks)
                tasks.cancel_scope.cancel()

            tasks.start_soon(stop_if_left)
            tasks.start_soon(answer)
        self._counted(status)

    async def _answered(self, scope: Scope, receive: Receive, send: Send, tasks: TaskGroup) -> int:
        """Return the status of the response that was sent."""
        has_begun = False
        try:
            async with self._replies.written(self._works) as pieces:
                if self._form.events is None:
                    whole = self._form.whole(await _whole(pieces))
                    response = JSONResponse(whole) if isinstance(whole, dict) else Response(whole, media_type=JSON)
                else:
                    first = await anext(pieces)
                    has_begun = True
                    tasks.start_soon(self._ping, send)
                    await self._stream(self._form.events(_chained(first, pieces)), send)
                    return 200
        except _ClientStalledError:
            return CLOSED_REQUEST
        except Exception as error:
            known = api_error(error)
            if known.status == 500:
                logger.exception("%s failed", self._path)
            if has_begun:
                with suppress(_ClientStalledError):
                    await self._send(error_event(known, self._form), send, is_last=True)
                return known.status
            response = error_response(known, self._form)
        await response(scope, receive, send)
        return response.status_code

    async def _stream(self, events: AsyncIterator[Event], send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        async for event in events:
            await self._send(_encoded(event, is_named=self._form.are_named), send)
        last = f"data: {self._form.last}\n\n".encode() if self._form.last else b""
        await self._send(last, send, is_last=True)

    async def _ping(self, send: Send) -> None:
        with suppress(_ClientStalledError):  # the next piece meets it, too
            while True:
                await anyio.sleep(PING_EVERY_S)
                await self._send(b": waiting\n\n", send)

    async def _send(self, part: bytes, send: Send, *, is_last: bool = False) -> None:
        async with self._lock:
            if self._is_over:
                return
            self._is_over = is_last
            with anyio.move_on_after(self._replies.limits.send_timeout_s):
                await send({"type": "http.response.body", "body": part, "more_body": not is_last})
                return
            raise _ClientStalledError


def error_response(error: ApiError, form: Form) -> Response:
    """Return the response to a request that is not answered."""
    return JSONResponse(form.error(error), error.status, error.headers)


def error_event(error: ApiError, form: Form) -> bytes:
    """Return the last event of a stream that an error ends."""
    body = form.error(error)
    return _encoded({"type": "error", **body} if form.are_named else body, is_named=form.are_named)


async def _whole(pieces: Pieces) -> list[ServedReply]:
    """Return all replies in their order."""
    found = {index: piece async for index, piece in pieces if isinstance(piece, ServedReply)}
    return [found[index] for index in sorted(found)]


async def _chained(first: tuple[int, Piece | ServedReply], pieces: Pieces) -> Pieces:
    yield first
    async for each in pieces:
        yield each


def _encoded(event: Event, *, is_named: bool) -> bytes:
    data = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    return (f"event: {event['type']}\n" if is_named else "").encode() + f"data: {data}\n\n".encode(
        "utf-8", "replace"
    )
