"""Failures of every provider: typed, bounded, in time; a cut reply is never a whole one, and no key is shown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from chat_server import HELLO, ChatServer, Connection, Reply, hang_up, raw, say_nothing, stream
from provider_protocol import KEY, ModelAt, ProviderProtocol, Recording

from agentkit.errors import (
    ContextWindowExceeded,
    ModelConnectionError,
    ModelError,
    ModelHTTPError,
    ModelTimeout,
    UnexpectedModelBehavior,
)
from agentkit.models.base import ModelDelta, ModelRequestParameters, TextDelta
from agentkit.models.http.exchange import MAX_BODY_BYTES
from agentkit.models.http.model import HTTPModel

pytestmark = pytest.mark.anyio

Serve = Callable[..., ChatServer]
NO_PARAMETERS = ModelRequestParameters()
MEGABYTE = 2**20


async def failure(model: HTTPModel, *, deltas: list[ModelDelta] | None = None) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await model.request(HELLO, NO_PARAMETERS, on_delta=None if deltas is None else deltas.append)
    assert KEY not in str(caught.value) and KEY not in getattr(caught.value, "body", "")
    return caught.value


def refusal(protocol: ProviderProtocol, error: str, headers: dict[str, str] | None = None) -> Reply:
    return raw(protocol.body_of(error), status=protocol.status_of(error), headers=headers)


@pytest.mark.parametrize("error", ["error_401", "error_404"])
async def test_a_mistake_of_the_caller_is_final_and_names_the_fix(
    protocol: ProviderProtocol, error: str, model_at: ModelAt, serve: Serve
) -> None:
    server = serve(refusal(protocol, error))
    found = await failure(model_at(server))
    assert isinstance(found, ModelHTTPError)
    assert (found.status_code, found.retryable) == (protocol.status_of(error), False)
    assert (protocol.key_variable if error == "error_401" else "base_url") in str(found)
    assert len(server.requests) == 1


@pytest.mark.parametrize("error", ["error_429", "error_500", "error_overloaded"])
async def test_a_transient_failure_is_tried_again_after_the_time_that_is_asked(
    protocol: ProviderProtocol, error: str, model_at: ModelAt, serve: Serve, waits: list[float]
) -> None:
    server = serve(refusal(protocol, error, {"Retry-After": "7"}), protocol.streamed_text.reply)
    response = await model_at(server).request(HELLO, NO_PARAMETERS)
    assert response.text == expected_text(protocol.streamed_text)
    assert waits == [7.0]
    assert server.bodies == [server.bodies[0]] * 2


@pytest.mark.parametrize("error", ["error_429", "error_500", "error_overloaded"])
async def test_a_failure_that_lasts_is_told_with_its_status_and_the_servers_words(
    protocol: ProviderProtocol, error: str, model_at: ModelAt, serve: Serve
) -> None:
    server = serve(refusal(protocol, error))
    found = await failure(model_at(server, max_retries=1))
    assert isinstance(found, ModelHTTPError)
    assert (found.status_code, found.retryable) == (protocol.status_of(error), True)
    message: str = json.loads(protocol.body_of(error))["error"]["message"]
    assert message in str(found)
    assert len(server.requests) == 2


async def test_a_conversation_that_is_too_long(
    protocol: ProviderProtocol, model_at: ModelAt, serve: Serve
) -> None:
    server = serve(refusal(protocol, "context_overflow"))
    assert isinstance(await failure(model_at(server)), ContextWindowExceeded)
    assert len(server.requests) == 1


async def test_an_error_inside_a_stream(protocol: ProviderProtocol, model_at: ModelAt, serve: Serve) -> None:
    reply = Recording(protocol.folder / "error_in_stream.sse").reply
    deltas: list[ModelDelta] = []
    server = serve(reply)
    found = await failure(model_at(server), deltas=deltas)
    assert isinstance(found, ModelHTTPError)
    assert (found.status_code, found.retryable) == (protocol.status_of("error_in_stream"), True)
    assert deltas and len(server.requests) == 1, "what was delivered must not be repeated"
    good = protocol.streamed_text
    response = await model_at(serve(reply, good.reply)).request(HELLO, NO_PARAMETERS)
    assert response.text == expected_text(good), "without a listener it is tried again"


def expected_text(recording: Recording) -> str:
    return "".join(part["content"] for part in recording.expected["parts"] if part["part_kind"] == "text")


async def test_a_stream_that_ends_early_is_never_taken_for_a_whole_one(
    protocol: ProviderProtocol, model_at: ModelAt, serve: Serve
) -> None:
    """Whatever number of events came, with an orderly end or without: all the text, or an error."""
    recording = protocol.streamed_text
    for then in ("end", "cut"):
        n_whole = 0
        for n_events in range(len(recording.events)):
            model = model_at(serve(stream(recording.events[:n_events], then=then)), max_retries=0)
            try:
                response = await model.request(HELLO, NO_PARAMETERS)
            except ModelConnectionError:
                assert n_whole == 0
                continue
            except UnexpectedModelBehavior:
                assert n_events == 0
                continue
            n_whole += 1
            assert response.text == expected_text(recording)
            assert response.finish_reason == "stop"
        assert n_whole < len(recording.events) - 1


async def test_a_stream_that_is_cut_in_a_character(
    protocol: ProviderProtocol, model_at: ModelAt, serve: Serve
) -> None:
    content = protocol.streamed_text.content
    cut_at = next(number for number, byte in enumerate(content) if byte >= 0x80) + 1
    for then in ("end", "cut"):
        deltas: list[ModelDelta] = []
        server = serve(stream([content[:cut_at]], then=then))
        found = await failure(model_at(server, max_retries=0), deltas=deltas)
        assert isinstance(found, ModelConnectionError), found
        assert "�" not in "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


@pytest.mark.parametrize("body", [b"{", b"not json", b"[1, 2]", b"null", b'"text"', b"{}", b"[" * 100_000])
async def test_garbage(body: bytes, model_at: ModelAt, serve: Serve) -> None:
    assert isinstance(await failure(model_at(serve(raw(body)), max_retries=0)), UnexpectedModelBehavior)
    in_stream = serve(stream([b"data: " + body + b"\n\n"]))
    found = await failure(model_at(in_stream, max_retries=0))
    assert isinstance(found, UnexpectedModelBehavior | ModelConnectionError), found


async def test_another_content_type(protocol: ProviderProtocol, model_at: ModelAt, serve: Serve) -> None:
    page = raw(b"<!doctype html><title>Sign in</title>", content_type="text/html")
    found = await failure(model_at(serve(page)))
    assert isinstance(found, UnexpectedModelBehavior)
    assert "text/html" in str(found) and "base_url" in str(found)


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
async def test_a_reply_of_a_hundred_megabytes_is_not_read_to_its_end(
    content_type: str, model_at: ModelAt, serve: Serve
) -> None:
    sent = 0

    async def flood(connection: Connection) -> None:
        nonlocal sent
        await connection.head(200, {"content-type": content_type, "content-length": str(100 * MEGABYTE)})
        for _ in range(100):
            await connection.write(b"a" * MEGABYTE)
            sent += 1

    found = await failure(model_at(serve(flood), max_retries=0))
    assert isinstance(found, UnexpectedModelBehavior)
    assert "bytes" in str(found)
    assert sent * MEGABYTE < MAX_BODY_BYTES + 32 * MEGABYTE, "the rest is at most in buffers"


async def test_a_server_that_is_silent(protocol: ProviderProtocol, model_at: ModelAt, serve: Serve) -> None:
    server = serve(protocol.streamed_text.reply, say_nothing)
    model = model_at(server, timeout_s=0.5)
    await model_at(server).request(HELLO, NO_PARAMETERS)  # what is imported at first use counts as well
    assert isinstance(await failure(model), ModelTimeout)
    assert server.client_left.wait(10)
    stalled = serve(stream(protocol.streamed_text.events[:2], then="stall"))
    assert isinstance(await failure(model_at(stalled, idle_timeout_s=0.2)), ModelTimeout)
    assert stalled.client_left.wait(10)


async def test_a_server_that_does_not_close_a_finished_stream(
    protocol: ProviderProtocol, model_at: ModelAt, serve: Serve
) -> None:
    server = serve(stream(protocol.streamed_text.events, then="stall"))
    model = model_at(server, idle_timeout_s=100 if protocol.has_end_event else 0.5)
    with anyio.fail_after(50):
        response = await model.request(HELLO, NO_PARAMETERS)
    assert response.text == expected_text(protocol.streamed_text)
    assert len(server.requests) == 1


async def test_signs_of_life_do_not_put_off_the_deadline(model_at: ModelAt, serve: Serve) -> None:
    n_pings = 0

    async def only_pings(connection: Connection) -> None:
        nonlocal n_pings
        await connection.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        for _ in range(500):
            await connection.chunk(b'event: ping\ndata: {"type": "ping"}\n\n')
            n_pings += 1
            await asyncio.sleep(0.02)

    server = serve(only_pings)
    found = await failure(model_at(server, timeout_s=0.3, idle_timeout_s=60))
    assert isinstance(found, ModelTimeout) and "timeout_s" in str(found)
    assert n_pings < 500 and len(server.requests) == 1


async def test_a_server_that_hangs_up(model_at: ModelAt, serve: Serve) -> None:
    assert isinstance(await failure(model_at(serve(hang_up), max_retries=0)), ModelConnectionError)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(status: int, model_at: ModelAt, serve: Serve) -> None:
    other = serve(say_nothing)
    server = serve(raw(b"", status=status, headers={"Location": f"{other.base_url}/messages"}))
    found = await failure(model_at(server))
    assert isinstance(found, ModelHTTPError) and found.status_code == status
    assert other.n_connections == 0


def test_the_key_is_taken_from_the_environment_and_shown_nowhere(
    protocol: ProviderProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(protocol.key_variable, "sk-of-the-environment")
    for origin, is_sent in (
        ("http://127.0.0.1:9", True),
        ("https://example.com", True),
        ("http://example.com", False),
    ):
        model = protocol.model(origin, api_key=None)
        headers: dict[str, Any] = model._headers  # pyright: ignore[reportPrivateUsage]
        assert (protocol.key_header in headers) is is_sent
        assert "sk-of-the-environment" not in repr(model) + repr(vars(model))
