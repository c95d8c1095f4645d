"""Connections, event loops, cancellation, and where the key goes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import traceback
from collections.abc import Callable

import anyio
import anyio.to_thread
import httpx
import pytest
from chat_server import HELLO, ChatServer, answer, completion, delta, raw, say_nothing, stream

from agentkit.errors import ModelError, ModelHTTPError, UnexpectedModelBehavior, UserError
from agentkit.models.base import ModelRequestParameters
from agentkit.models.openai.model import OpenAICompatibleModel

Serve = Callable[..., ChatServer]
ModelOf = Callable[..., OpenAICompatibleModel]
NO_PARAMETERS = ModelRequestParameters()
GOOD = answer(completion({"content": "good"}))
DONE_STREAM = stream([delta("stop", content="good"), b"data: [DONE]\n\n"])
KEY = "sk-do-not-show-1234567890"


@pytest.mark.anyio
@pytest.mark.parametrize("reply", [GOOD, DONE_STREAM, answer({"error": "no"}, status=400)])
async def test_inside_the_context_a_connection_is_used_again(
    serve: Serve, model_of: ModelOf, reply: object
) -> None:
    server = serve(reply)
    async with model_of(server) as model:
        for _ in range(3):
            with contextlib.suppress(ModelHTTPError):
                await model.request(HELLO, NO_PARAMETERS, on_delta=print)
    assert [request.n_connection for request in server.requests] == [1, 1, 1]


@pytest.mark.anyio
async def test_outside_of_the_context_each_request_has_its_own_connection(serve: Serve, model_of: ModelOf) -> None:
    server = serve(GOOD)
    model = model_of(server)
    for _ in range(2):
        await model.request(HELLO, NO_PARAMETERS)
    assert [request.n_connection for request in server.requests] == [1, 2]


@pytest.mark.anyio
async def test_the_context_can_be_entered_again_and_ends_with_its_last_user(
    serve: Serve, model_of: ModelOf
) -> None:
    server = serve(GOOD)
    model = model_of(server)
    async with model:
        async with model:
            await model.request(HELLO, NO_PARAMETERS)
        await model.request(HELLO, NO_PARAMETERS)
    async with model:
        await model.request(HELLO, NO_PARAMETERS)
    assert [request.n_connection for request in server.requests] == [1, 1, 2]


@pytest.mark.anyio
async def test_concurrent_requests_share_one_client(serve: Serve, model_of: ModelOf) -> None:
    server = serve(GOOD)
    async with model_of(server) as model, anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(model.request, HELLO, NO_PARAMETERS)
    assert len(server.requests) == 20


@pytest.mark.anyio
async def test_leaving_without_entering_is_a_mistake(model_of: ModelOf, serve: Serve) -> None:
    with pytest.raises(UserError, match="in which it was entered"):
        await model_of(serve(GOOD)).__aexit__(None, None, None)


def test_one_model_serves_one_loop_after_another(serve: Serve, model_of: ModelOf) -> None:
    model = model_of(serve(GOOD))
    for _ in range(2):
        assert asyncio.run(model.request(HELLO, NO_PARAMETERS)).text == "good"


def test_one_model_serves_two_loops_at_once(serve: Serve, model_of: ModelOf) -> None:
    server = serve(GOOD)
    model = model_of(server)
    both_inside = threading.Barrier(2, timeout=10)
    texts: list[str] = []

    async def use() -> None:
        async with model:
            await anyio.to_thread.run_sync(both_inside.wait)
            replies = [await model.request(HELLO, NO_PARAMETERS) for _ in range(3)]
            texts.extend(reply.text for reply in replies)
            await anyio.to_thread.run_sync(both_inside.wait)

    threads = [threading.Thread(target=asyncio.run, args=(use(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert texts == ["good"] * 6
    assert server.n_connections == 2


@pytest.mark.anyio
@pytest.mark.parametrize("entered", [True, False])
@pytest.mark.parametrize("reply", [say_nothing, stream([delta(content="half")], then="stall")])
async def test_cancelling_a_request_closes_its_connection(
    serve: Serve, model_of: ModelOf, reply: object, entered: bool
) -> None:
    server = serve(reply)
    model = model_of(server)
    if entered:
        await model.__aenter__()
    async with anyio.create_task_group() as group:
        group.start_soon(model.request, HELLO, NO_PARAMETERS, name="request")
        assert await anyio.to_thread.run_sync(server.stalled.wait, 10)
        assert not server.client_left.is_set()
        group.cancel_scope.cancel()
    assert await anyio.to_thread.run_sync(server.client_left.wait, 10)
    if entered:
        await model.__aexit__(None, None, None)


@pytest.mark.anyio
async def test_a_reply_that_is_given_up_closes_its_connection_at_once(serve: Serve, model_of: ModelOf) -> None:
    server = serve(stream([b"data: garbage\n\n"], then="stall"))
    async with model_of(server) as model:
        with pytest.raises(UnexpectedModelBehavior):
            await model.request(HELLO, NO_PARAMETERS)
        assert await anyio.to_thread.run_sync(server.client_left.wait, 10)


@pytest.mark.anyio
async def test_after_a_cancelled_request_the_model_goes_on(serve: Serve, model_of: ModelOf) -> None:
    server = serve(say_nothing, GOOD)
    async with model_of(server) as model:
        with anyio.move_on_after(0.05):
            await model.request(HELLO, NO_PARAMETERS)
        assert (await model.request(HELLO, NO_PARAMETERS)).text == "good"


@pytest.mark.anyio
async def test_the_applications_own_client_is_used_and_left_open(serve: Serve, model_of: ModelOf) -> None:
    elsewhere = serve(GOOD)
    redirect = raw(b"", status=302, headers={"location": elsewhere.base_url})
    server = serve(GOOD, GOOD, redirect)
    async with httpx.AsyncClient(headers={"x-own": "yes"}, follow_redirects=True) as client:
        async with model_of(server, http_client=client) as model:
            await model.request(HELLO, NO_PARAMETERS)
        await model.request(HELLO, NO_PARAMETERS)
        assert not client.is_closed
        with pytest.raises(ModelHTTPError, match="redirects"):
            await model.request(HELLO, NO_PARAMETERS)
    assert [request.n_connection for request in server.requests] == [1, 1, 1]
    assert server.requests[0].headers["x-own"] == "yes"
    assert elsewhere.requests == []


@pytest.mark.anyio
async def test_the_environments_key_goes_to_loopback(
    serve: Serve, model_of: ModelOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    server = serve(GOOD)
    await model_of(server).request(HELLO, NO_PARAMETERS)
    await model_of(server, api_key="sk-given").request(HELLO, NO_PARAMETERS)
    await model_of(server, api_key="").request(HELLO, NO_PARAMETERS)
    await model_of(server, headers={"Authorization": "Basic own"}).request(HELLO, NO_PARAMETERS)
    sent = [request.headers.get("authorization") for request in server.requests]
    assert sent == [f"Bearer {KEY}", "Bearer sk-given", None, "Basic own"]


@pytest.mark.anyio
async def test_the_environments_key_is_not_sent_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    sent: list[str | None] = []

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers.get("authorization"))
        return httpx.Response(200, json=completion({"content": "x"}))

    async with httpx.AsyncClient(transport=httpx.MockTransport(handle)) as client:
        for base_url in (
            "http://gpu-box:8000/v1",
            "https://gpu-box/v1",
            "http://[::1]:1/v1",
            "http://localhost/v1",
        ):
            await OpenAICompatibleModel("m", base_url=base_url, http_client=client).request(HELLO, NO_PARAMETERS)
        model = OpenAICompatibleModel("m", base_url="http://gpu-box:8000/v1", api_key="own", http_client=client)
        await model.request(HELLO, NO_PARAMETERS)
    assert sent == [None, f"Bearer {KEY}", f"Bearer {KEY}", f"Bearer {KEY}", "Bearer own"]


@pytest.mark.anyio
async def test_no_proxy_sees_what_goes_to_loopback(
    serve: Serve, model_of: ModelOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve(GOOD)
    monkeypatch.setenv("HTTP_PROXY", proxy.base_url.removesuffix("/v1"))
    server = serve(GOOD)
    await model_of(server, api_key=KEY).request(HELLO, NO_PARAMETERS)
    assert len(server.requests) == 1
    assert proxy.requests == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    "reply",
    [
        answer({"error": {"message": f"Incorrect API key provided: {KEY}"}}, status=401),
        answer({"error": {"message": f"you sent Bearer {KEY} and t0ken-in-a-header"}}, status=500),
        answer({"error": {"message": f"bad key {KEY}"}}),
        raw(f"<html>{KEY}".encode(), content_type="text/html"),
        raw(KEY.encode()),
        raw(b"", status=302, headers={"location": f"http://other/?key={KEY}"}),
        stream([f"data: {KEY}\n\n".encode()]),
        stream([f"event: error\ndata: {KEY}\n\n".encode()]),
    ],
)
async def test_the_key_is_never_shown(
    serve: Serve, model_of: ModelOf, reply: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    model = model_of(serve(reply), api_key=KEY, headers={"x-team-token": "t0ken-in-a-header"}, max_retries=1)
    with pytest.raises(ModelError) as caught:
        await model.request(HELLO, NO_PARAMETERS)
    error = caught.value
    shown = [
        "".join(traceback.format_exception(error)),
        repr(error),
        str(vars(error)),
        repr(model),
        str({name: repr(value) for name, value in vars(model).items()}),
    ]
    for text in shown:
        assert KEY not in text
        assert "t0ken-in-a-header" not in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"api_key": f"{KEY} and more"}, "API key has characters"),
        ({"api_key": f"{KEY}\r\nX-Evil: 1"}, "API key has characters"),
        ({"api_key": f"{KEY}é"}, "API key has characters"),
        ({"headers": {"x-a": f"{KEY}\r\nx-b: c"}}, "header 'x-a'"),
        ({"headers": {"x a": KEY}}, "header 'x a'"),
        ({"headers": {"x-a": ""}}, "header 'x-a'"),
    ],
)
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(
    options: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        OpenAICompatibleModel("m", **options)  # type: ignore[arg-type]
    assert KEY not in str(caught.value)
