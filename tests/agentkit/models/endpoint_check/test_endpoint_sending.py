"""Sending a probe: whatever a server does, a bounded reply or a reason comes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest

from agentkit.models.endpoint_check.probe import ProbeRequest
from agentkit.models.endpoint_check.replies import ServerReply
from agentkit.models.endpoint_check.sending import (
    MAX_EVENTS,
    MAX_REPLY_BYTES,
    WRONG_KEY,
    Sender,
    with_secrets_hidden,
)

pytestmark = pytest.mark.anyio
ASK = ProbeRequest("chat/completions", {"model": "m", "messages": []})
Handler = Callable[[httpx.Request], Any]


async def sent(
    handler: Handler, request: ProbeRequest = ASK, key: str | None = "sk-1234", **bounds: Any
) -> ServerReply:
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        return await Sender(client, "http://h.example/base/v1", key, bounds.get("timeout_s", 5.0)).send(request)


def answer(content: Any, **headers: str) -> Handler:
    return lambda request: httpx.Response(200, headers=headers, content=content)


@pytest.mark.parametrize(
    ("request_", "url", "header"),
    [
        (ASK, "http://h.example/base/v1/chat/completions", ("authorization", "Bearer sk-1234")),
        (ProbeRequest("/props"), "http://h.example/props", ("authorization", "Bearer sk-1234")),
        (ProbeRequest("messages", {}, protocol="anthropic"), None, ("x-api-key", "sk-1234")),
        (
            ProbeRequest("/v1beta/x", {}, protocol="gemini"),
            "http://h.example/v1beta/x",
            ("x-goog-api-key", "sk-1234"),
        ),
        (ProbeRequest("models", key="wrong"), None, ("authorization", f"Bearer {WRONG_KEY}")),
    ],
)
async def test_the_key_goes_in_the_header_of_the_protocol(
    request_: ProbeRequest, url: str | None, header: tuple[str, str]
) -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={})

    await sent(handler, request_)
    assert url is None or str(seen[0].url) == url
    assert seen[0].headers[header[0]] == header[1]
    assert seen[0].method == ("GET" if request_.body is None else "POST")
    await sent(handler, request_, key=None)
    assert ("sk-1234" in str(seen[1].headers)) is False


async def test_a_redirect_is_told_and_not_followed() -> None:
    hosts: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        return httpx.Response(307, headers={"location": "http://elsewhere.example/"})

    reply = await sent(handler)
    assert hosts == ["h.example"] and (reply.status, reply.location) == (307, "http://elsewhere.example/")


async def test_a_reply_that_is_too_large_is_cut_off() -> None:
    async def endless() -> Any:
        while True:
            yield b"x" * 2**16

    reply = await sent(answer(endless()))
    assert f"over {MAX_REPLY_BYTES:,} bytes" in reply.error and not reply.is_ok


async def test_a_stream_of_too_many_events_is_cut_off() -> None:
    async def endless() -> Any:
        while True:
            yield b"data: {}\n\n" * 1000

    reply = await sent(answer(endless(), **{"content-type": "text/event-stream"}))
    assert f"over {MAX_EVENTS:,} events" in reply.error and len(reply.events) == MAX_EVENTS


async def test_a_compressed_reply_is_not_expanded() -> None:
    async def packed() -> Any:
        yield b"\x1f\x8b" + b"0" * 100

    reply = await sent(answer(packed(), **{"content-encoding": "gzip"}))
    assert "compressed" in reply.error


async def test_a_server_that_is_silent_is_left() -> None:
    async def silent(request: httpx.Request) -> httpx.Response:
        await anyio.sleep_forever()
        raise AssertionError

    reply = await sent(silent, timeout_s=0.05)
    assert (reply.status, reply.error) == (0, "no complete reply within 0.05 s")


async def test_a_broken_connection_is_a_reason() -> None:
    def refuses(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")

    assert (await sent(refuses)).error == "ConnectError: [SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate"

    async def breaks() -> Any:
        yield b'{"choices": '
        raise httpx.ReadError("reset")

    reply = await sent(answer(breaks()))
    assert (reply.status, reply.error) == (200, "the reply broke off: ReadError: reset") and not reply.is_ok


async def test_a_stream_is_read_up_to_its_end_mark() -> None:
    chunks = [b'data: {"choices": [', b'{"delta": {"content": "a"}}]}\n\ndata: [DONE]\n\n', b"data: {}\n\n"]

    async def pieces() -> Any:
        for chunk in chunks:
            yield chunk

    reply = await sent(answer(pieces(), **{"content-type": "text/event-stream; charset=utf-8"}))
    assert reply.is_stream and reply.has_done and [event.n_read for event in reply.events] == [2]


async def test_text_that_is_not_json_or_utf_8_is_kept_as_text() -> None:
    reply = await sent(answer(b"<html>\xff</html>", **{"content-type": "text/html"}))
    assert (reply.body, reply.text, reply.content_type) == (None, "<html>\ufffd</html>", "text/html")
    deep = await sent(answer(b"[" * 200_000))
    assert deep.body is None and deep.status == 200


def test_a_secret_is_hidden_wherever_it_stands() -> None:
    value = {"sk-1234": ["a sk-1234", {"x": ("sk-1234",)}], "n": 1, "none": None}
    hidden = with_secrets_hidden(value, ("sk-1234",))
    assert "sk-1234" not in json.dumps(hidden) and json.dumps(hidden).count("[secret]") == 3
    assert with_secrets_hidden(value, ()) == json.loads(json.dumps(value))
