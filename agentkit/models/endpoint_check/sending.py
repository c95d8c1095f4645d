"""Sends one probe: bounded in time, bytes and events, without redirects, without retries.

A failure is data here, not an error: the reply says why nothing came.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import anyio

from agentkit.errors import UnexpectedModelBehavior
from agentkit.models.endpoint_check.probe import ProbeRequest
from agentkit.models.endpoint_check.replies import ServerReply, StreamEvent, shown
from agentkit.models.http.credentials import request_headers
from agentkit.models.http.sse import SSEParser

if TYPE_CHECKING:
    import httpx

MAX_REPLY_BYTES = 4 * 2**20
"""Bytes of a reply; no probe asks for more than a few kilobytes."""
MAX_EVENTS = 20_000
MAX_TEXT_CHARS = 64 * 2**10
"""Characters of a body that are kept as text, for errors and for replies of an unknown form."""
WRONG_KEY = "agentkit-doctor-wrong-key"


@dataclass(slots=True)
class _Read:
    """The part of a reply that was read so far."""

    content: bytearray = field(default_factory=bytearray)
    events: list[StreamEvent] = field(default_factory=list[StreamEvent])
    has_done: bool = False
    n_reads: int = 0


class Sender:
    """Sends requests to one endpoint."""

    def __init__(self, client: httpx.AsyncClient, base_url: str, key: str | None, timeout_s: float) -> None:
        """Send to `base_url`, with the key if there is one; each request takes at most `timeout_s`."""
        self._client = client
        self._base_url = base_url
        self._key = key
        self._timeout_s = timeout_s

    async def send(self, request: ProbeRequest) -> ServerReply:
        """Send a request; a failure is told in the reply."""
        started_s = anyio.current_time()
        with anyio.move_on_after(self._timeout_s):
            return await self._sent(request, started_s)
        return ServerReply(error=f"no complete reply within {self._timeout_s:g} s", elapsed_s=self._timeout_s)

    async def _sent(self, request: ProbeRequest, started_s: float) -> ServerReply:
        import httpx

        message = self._client.build_request(
            "GET" if request.body is None else "POST",
            self._url(request.path),
            content=None if request.body is None else json.dumps(request.body, ensure_ascii=False).encode(),
            headers=request_headers(self._key_headers(request), {}),
            timeout=None,
        )
        try:
            response = await self._client.send(message, stream=True, follow_redirects=False)
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
            return ServerReply(error=_why(error), elapsed_s=anyio.current_time() - started_s)
        read, failure = _Read(), ""
        is_stream = response.headers.get("content-type", "").lower().startswith("text/event-stream")
        try:
            await _read_body(response, read, started_s, is_stream=is_stream)
        except (httpx.HTTPError, UnexpectedModelBehavior, _TooLargeError) as error:
            failure = f"the reply broke off: {_why(error)}"
        finally:
            await response.aclose()
        return _reply(response, read, failure, anyio.current_time() - started_s, is_stream=is_stream)

    def _url(self, path: str) -> str:
        if not path.startswith("/"):
            return f"{self._base_url}/{path}"
        root = self._base_url.split("://", 1)
        return f"{root[0]}://{root[1].split('/', 1)[0]}{path}"

    def _key_headers(self, request: ProbeRequest) -> dict[str, str]:
        key = WRONG_KEY if request.key == "wrong" else self._key
        version = {"anthropic-version": "2023-06-01"} if request.protocol == "anthropic" else {}
        if key is None:
            return version
        match request.protocol:
            case "anthropic":
                return {**version, "x-api-key": key}
            case "gemini":
                return {"x-goog-api-key": key}
            case "openai":
                return {"authorization": f"Bearer {key}"}


class _TooLargeError(Exception):
    """A reply exceeds a bound."""


async def _read_body(response: httpx.Response, read: _Read, started_s: float, *, is_stream: bool) -> None:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise _TooLargeError("it is compressed, which was not asked for")
    parser = SSEParser(MAX_REPLY_BYTES)
    async for chunk in response.aiter_bytes():
        read.n_reads += 1
        read.content += chunk
        if len(read.content) > MAX_REPLY_BYTES:
            raise _TooLargeError(f"it is over {MAX_REPLY_BYTES:,} bytes")
        if is_stream:
            for event in parser.feed(chunk):
                _take(event.data, read, anyio.current_time() - started_s)
            if read.has_done:
                return
    if is_stream:
        for event in parser.close():
            _take(event.data, read, anyio.current_time() - started_s)


def _take(data: str, read: _Read, at_s: float) -> None:
    if data.strip() == "[DONE]":
        read.has_done = True
    elif len(read.events) >= MAX_EVENTS:
        raise _TooLargeError(f"it has over {MAX_EVENTS:,} events")
    else:
        read.events.append(StreamEvent(at_s, read.n_reads, _parsed(data)))


def _reply(
    response: httpx.Response, read: _Read, failure: str, elapsed_s: float, *, is_stream: bool
) -> ServerReply:
    text = bytes(read.content[: 4 * MAX_TEXT_CHARS]).decode("utf-8", "replace")
    return ServerReply(
        status=response.status_code,
        body=None if is_stream else _parsed(bytes(read.content).decode("utf-8", "replace")),
        text=text[:MAX_TEXT_CHARS],
        content_type=response.headers.get("content-type", "").partition(";")[0].strip().lower(),
        location=response.headers.get("location", ""),
        events=tuple(read.events),
        is_stream=is_stream,
        has_done=read.has_done,
        elapsed_s=elapsed_s,
        error=failure,
        connection=_connection(response),
    )


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _connection(response: httpx.Response) -> str:
    """Return how the server was reached; a TLS connection was verified, or there would be no response."""
    stream = response.extensions.get("network_stream")
    found = stream.get_extra_info("ssl_object") if stream is not None else None
    if not isinstance(found, ssl.SSLObject | ssl.SSLSocket):
        return "plain HTTP"
    certificate: Mapping[str, Any] = found.getpeercert() or {}
    return f"{found.version()}, certificate valid until {certificate.get('notAfter', '?')}"


def _why(error: Exception) -> str:
    """Return the reason of a failure, with the cause that httpx wraps."""
    said = shown(str(error) or str(error.__cause__ or ""))
    if isinstance(error, _TooLargeError | UnexpectedModelBehavior):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def with_secrets_hidden(value: Any, secrets: Sequence[str]) -> Any:
    """Return JSON-like data without the secrets, which a server may repeat in whatever it sends."""
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "[secret]")
        return value
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return {with_secrets_hidden(k, secrets): with_secrets_hidden(v, secrets) for k, v in items}
    if isinstance(value, list | tuple):
        return [with_secrets_hidden(item, secrets) for item in cast("list[Any]", value)]
    return value
