"""How requests fail: typed, bounded, in time, and tried again only where that is safe."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from chat_server import (
    DONE,
    HELLO,
    NOW,
    ChatServer,
    Connection,
    Reply,
    answer,
    completion,
    delta,
    event,
    hang_up,
    raw,
    say_nothing,
    stream,
)

from agentkit.errors import (
    ContextWindowExceeded,
    ModelConnectionError,
    ModelError,
    ModelHTTPError,
    ModelTimeout,
    UnexpectedModelBehavior,
)
from agentkit.models.base import ModelDelta, ModelRequestParameters, ModelSettings
from agentkit.models.openai.model import OpenAICompatibleModel

pytestmark = pytest.mark.anyio

Serve = Callable[..., ChatServer]
ModelOf = Callable[..., OpenAICompatibleModel]
NO_PARAMETERS = ModelRequestParameters()
GOOD = answer(completion({"content": "good"}))


def refuse(status: int, headers: dict[str, str] | None = None, body: Any = None) -> Reply:
    return answer(body or {"error": {"message": "not now"}}, status=status, headers=headers)


async def failure(model: OpenAICompatibleModel, *, deltas: list[ModelDelta] | None = None) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await model.request(HELLO, NO_PARAMETERS, on_delta=None if deltas is None else deltas.append)
    return caught.value


async def test_a_rate_limit_is_waited_for(serve: Serve, model_of: ModelOf, waits: list[float]) -> None:
    date = format_datetime(NOW + timedelta(seconds=20), usegmt=True)
    server = serve(
        refuse(429, {"Retry-After": "12"}),
        refuse(429, {"Retry-After": date}),
        refuse(503, {"Retry-After": "900"}),
        GOOD,
    )
    response = await model_of(server, timeout_s=1000).request(HELLO, NO_PARAMETERS)
    assert response.text == "good"
    assert waits == [12.0, 20.0, 60.0]
    assert server.bodies == [server.bodies[0]] * 4


async def test_milliseconds_take_precedence(serve: Serve, model_of: ModelOf, waits: list[float]) -> None:
    server = serve(refuse(429, {"Retry-After": "50", "Retry-After-Ms": "9500"}), GOOD)
    assert (await model_of(server).request(HELLO, NO_PARAMETERS)).text == "good"
    assert waits == [9.5]


@pytest.mark.parametrize("first", [refuse(500), refuse(408), refuse(425), hang_up, raw(b"oops", status=502)])
async def test_a_transient_failure_is_tried_again(
    serve: Serve, model_of: ModelOf, waits: list[float], first: Reply
) -> None:
    deltas: list[ModelDelta] = []
    response = await model_of(serve(first, GOOD)).request(HELLO, NO_PARAMETERS, on_delta=deltas.append)
    assert response.text == "good"
    assert len(waits) == 1
    assert 0 <= waits[0] <= 0.5


async def test_a_server_that_fails_for_ever_is_given_up(
    serve: Serve, model_of: ModelOf, waits: list[float]
) -> None:
    server = serve(refuse(500))
    error = await failure(model_of(server, max_retries=2))
    assert isinstance(error, ModelHTTPError)
    assert (error.status_code, error.retryable, error.body) == (500, True, '{"error": {"message": "not now"}}')
    assert str(error) == f"'m' at {server.base_url} answered 500: not now"
    assert error.__notes__ == ["This was attempt 3."]
    assert len(server.requests) == 3
    assert len(waits) == 2


async def test_retries_can_be_off(serve: Serve, model_of: ModelOf) -> None:
    server = serve(refuse(500), GOOD)
    assert isinstance(await failure(model_of(server, max_retries=0)), ModelHTTPError)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 405, 422])
async def test_other_statuses_are_final(serve: Serve, model_of: ModelOf, status: int) -> None:
    server = serve(refuse(status), GOOD)
    error = await failure(model_of(server))
    assert isinstance(error, ModelHTTPError)
    assert (error.status_code, error.retryable) == (status, False)
    assert len(server.requests) == 1


async def test_an_exhausted_quota_is_final_here_but_not_for_other_models(serve: Serve, model_of: ModelOf) -> None:
    server = serve(refuse(429, body={"error": {"code": "insufficient_quota", "message": "no money"}}), GOOD)
    error = await failure(model_of(server))
    assert error.retryable
    assert len(server.requests) == 1


async def test_a_conversation_that_is_too_long(serve: Serve, model_of: ModelOf) -> None:
    server = serve(
        refuse(400, body={"error": {"code": "context_length_exceeded", "message": "9001 > 8192"}}), GOOD
    )
    error = await failure(model_of(server))
    assert isinstance(error, ContextWindowExceeded)
    assert "9001 > 8192" in str(error)
    in_stream = stream([event({"error": {"code": 400, "type": "exceed_context_size_error", "message": "big"}})])
    assert isinstance(await failure(model_of(serve(in_stream))), ContextWindowExceeded)


async def test_a_wait_beyond_the_deadline_is_not_begun(
    serve: Serve, model_of: ModelOf, waits: list[float]
) -> None:
    server = serve(refuse(429, {"Retry-After": "30"}), GOOD)
    error = await failure(model_of(server, timeout_s=20))
    assert isinstance(error, ModelHTTPError)
    assert error.status_code == 429
    assert waits == []


async def test_a_server_that_is_not_there(model_of: ModelOf, waits: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    model = OpenAICompatibleModel("m", base_url=f"http://127.0.0.1:{port}/v1", max_retries=0)
    error = await failure(model)
    assert isinstance(error, ModelConnectionError)
    assert "could not be reached" in str(error)
    assert "is the server running?" in str(error)


async def test_a_stream_that_is_cut_before_anything_was_delivered_is_tried_again(
    serve: Serve, model_of: ModelOf
) -> None:
    cut = stream([delta(role="assistant", content="")], then="cut")
    early_end = stream([delta(role="assistant", content="")])
    server = serve(cut, early_end, GOOD)
    deltas: list[ModelDelta] = []
    assert (await model_of(server).request(HELLO, NO_PARAMETERS, on_delta=deltas.append)).text == "good"
    assert len(deltas) == 1


async def test_a_stream_that_nobody_hears_may_be_tried_again(serve: Serve, model_of: ModelOf) -> None:
    server = serve(stream([delta(content="half")], then="cut"), GOOD)
    assert (await model_of(server).request(HELLO, NO_PARAMETERS)).text == "good"


@pytest.mark.parametrize("then", ["cut", "end"])
async def test_a_stream_that_is_cut_after_delivery_is_not_tried_again(
    serve: Serve, model_of: ModelOf, then: str
) -> None:
    call = {"index": 0, "id": "c", "function": {"name": "add", "arguments": '{"a": 1'}}
    server = serve(stream([delta(content="half"), delta(tool_calls=[call])], then=then), GOOD)
    deltas: list[ModelDelta] = []
    error = await failure(model_of(server), deltas=deltas)
    assert isinstance(error, ModelConnectionError)
    assert "after 4 characters of text and a call of 'add' with 7 characters of arguments had arrived" in str(
        error
    )
    assert len(server.requests) == 1
    assert len(deltas) == 2


async def test_a_silent_stream_passes_the_idle_deadline(serve: Serve, model_of: ModelOf) -> None:
    server = serve(stream([delta(content="half")], then="stall"), GOOD)
    error = await failure(model_of(server, idle_timeout_s=0.1))
    assert isinstance(error, ModelTimeout)
    assert "was silent for 0.1 s (idle_timeout_s), after 4 characters of text had arrived" in str(error)
    assert server.client_left.wait(10)
    assert len(server.requests) == 1


async def test_a_server_that_never_answers_passes_the_total_deadline(serve: Serve, model_of: ModelOf) -> None:
    server = serve(say_nothing)
    error = await failure(model_of(server, timeout_s=0.1))
    assert isinstance(error, ModelTimeout)
    assert "within 0.1 s (timeout_s), before anything had arrived (attempt 1)" in str(error)
    assert server.client_left.wait(10)


async def test_the_total_deadline_covers_retries_and_names_what_went_before(
    serve: Serve, model_of: ModelOf
) -> None:
    server = serve(refuse(500), say_nothing)
    error = await failure(model_of(server, timeout_s=0.5))
    assert isinstance(error, ModelTimeout)
    assert "(attempt 2)" in str(error)
    assert isinstance(error.__cause__, ModelHTTPError)


async def test_a_request_may_set_its_own_deadline(serve: Serve, model_of: ModelOf) -> None:
    model = model_of(serve(say_nothing))
    with pytest.raises(ModelTimeout, match=r"0\.05 s"):
        await model.request(HELLO, ModelRequestParameters(settings=ModelSettings(timeout_s=0.05)))


async def test_a_stream_that_trickles_for_ever_passes_the_total_deadline(serve: Serve, model_of: ModelOf) -> None:
    async def trickle(connection: Connection) -> None:
        import asyncio

        await connection.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        while True:
            await connection.chunk(b": alive\n\n")
            await asyncio.sleep(0.01)

    error = await failure(model_of(serve(trickle), timeout_s=0.3, idle_timeout_s=0.2))
    assert isinstance(error, ModelTimeout)
    assert "timeout_s" in str(error)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (stream([b"data: {not json}\n\n"]), "sent what is not JSON: '{not json}'"),
        (stream([delta(content="x"), b"data: \xff\xfe\n\n"]), "is not UTF-8"),
        (stream([event([1, 2])]), "list where an object"),
        (stream([event({"choices": []}), DONE]), "no `choices`"),
        (stream([b"\n\n: nothing\n\n", DONE]), "no `choices`"),
        (stream([b"data: " + b"[" * 100_000 + b"\n\n"]), "sent what is not JSON"),
        (raw(b"{"), "sent what is not JSON: '{'"),
        (raw(b""), "sent what is not JSON: ''"),
        (raw(b"\xff\xfe"), "sent what is not JSON"),
        (raw(b"<!doctype html><title>Hi</title>", content_type="text/html"), "answered text/html where JSON"),
        (raw(b"Hello", content_type=None), "answered no content type where JSON"),
        (raw(b"\x1f\x8b\x08", headers={"content-encoding": "gzip"}), "'gzip'-encoded"),
        (answer({"object": "list", "data": []}), "no `choices`"),
    ],
)
async def test_a_reply_that_is_no_chat_completion(
    serve: Serve, model_of: ModelOf, reply: Reply, said: str
) -> None:
    server = serve(reply, GOOD)
    error = await failure(model_of(server), deltas=[])
    assert isinstance(error, UnexpectedModelBehavior)
    assert said in str(error)
    assert len(str(error)) < 600
    assert len(server.requests) == 1


async def test_an_html_error_page(serve: Serve, model_of: ModelOf) -> None:
    page = b"<html><head><title>504 Gateway Time-out</title></head><body>" + b"nginx " * 50_000
    error = await failure(model_of(serve(raw(page, status=504, content_type="text/html")), max_retries=0))
    assert isinstance(error, ModelHTTPError)
    assert str(error).endswith("answered 504: an HTML page, '504 Gateway Time-out'")
    assert len(error.body) < 2100


async def test_an_error_body_that_never_ends_is_left(serve: Serve, model_of: ModelOf) -> None:
    async def reply(connection: Connection) -> None:
        await connection.head(418, {"content-type": "text/plain", "transfer-encoding": "chunked"})
        await connection.chunk(b"I am a teapot")
        await connection.wait_for_client_to_leave()

    error = await failure(model_of(serve(reply), idle_timeout_s=0.1))
    assert isinstance(error, ModelHTTPError)
    assert "answered 418: I am a teapot" in str(error)


async def test_of_a_huge_error_body_only_the_beginning_is_read(serve: Serve, model_of: ModelOf) -> None:
    async def reply(connection: Connection) -> None:
        await connection.head(418, {"content-type": "text/plain", "transfer-encoding": "chunked"})
        while True:
            await connection.chunk(b"teapot " * 10_000)

    error = await failure(model_of(serve(reply)))
    assert isinstance(error, ModelHTTPError)
    assert len(error.body) < 2100


@pytest.mark.parametrize(
    "pieces",
    [
        [event({"error": {"message": "boom", "code": 400}})],
        [b'event: error\ndata: {"message": "boom", "code": 400}\n\n'],
        [b'error: {"code": 400, "message": "boom"}\n\n'],
        [b"event: error\ndata: boom\n\n"],
        [event({"error": "boom"})],
        [event({"error": {"message": "boom"}, "choices": [{"delta": {}, "finish_reason": "error"}]})],
    ],
)
async def test_an_error_within_a_stream(serve: Serve, model_of: ModelOf, pieces: list[bytes]) -> None:
    server = serve(stream([delta(content="so far"), *pieces, DONE]))
    error = await failure(model_of(server), deltas=[])
    assert isinstance(error, ModelHTTPError)
    assert "reported an error inside its reply: boom" in str(error)
    assert len(server.requests) == 1


async def test_a_transient_error_within_a_stream_is_tried_again_before_delivery(
    serve: Serve, model_of: ModelOf
) -> None:
    overloaded = stream([event({"error": {"type": "overloaded_error", "message": "busy"}})])
    assert (await model_of(serve(overloaded, GOOD)).request(HELLO, NO_PARAMETERS)).text == "good"
    server = serve(stream([delta(content="x"), event({"error": {"code": 503, "message": "busy"}})]), GOOD)
    assert isinstance(await failure(model_of(server), deltas=[]), ModelHTTPError)
    assert len(server.requests) == 1


async def test_a_line_of_ten_megabytes_is_a_clear_error(serve: Serve, model_of: ModelOf) -> None:
    server = serve(stream([b"data: " + b"x" * 2**20, *[b"x" * 2**20] * 9, b"\n\n"]))
    error = await failure(model_of(server))
    assert isinstance(error, UnexpectedModelBehavior)
    assert "a line of the server's event stream is over 8,388,608 bytes" in str(error)


async def test_a_line_of_seven_megabytes_is_read(serve: Serve, model_of: ModelOf) -> None:
    server = serve(stream([delta("stop", content="x" * 7 * 10**6), DONE]))
    assert len((await model_of(server).request(HELLO, NO_PARAMETERS)).text) == 7 * 10**6


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
async def test_an_endless_body_is_a_clear_error(serve: Serve, model_of: ModelOf, kind: str) -> None:
    async def reply(connection: Connection) -> None:
        await connection.head(200, {"content-type": kind, "transfer-encoding": "chunked"})
        while True:
            await connection.chunk(b": " + b"x" * (2**20 - 4) + b"\n\n")

    error = await failure(model_of(serve(reply)))
    assert isinstance(error, UnexpectedModelBehavior)
    assert "the server's reply is over 67,108,864 bytes" in str(error)


async def test_a_redirect_is_not_followed(serve: Serve, model_of: ModelOf) -> None:
    elsewhere = serve(GOOD)
    server = serve(raw(b"", status=307, headers={"location": f"{elsewhere.base_url}/chat/completions"}))
    error = await failure(model_of(server, api_key="sk-secret"))
    assert isinstance(error, ModelHTTPError)
    assert f"redirects (307) to '{elsewhere.base_url}/chat/completions'" in str(error)
    assert elsewhere.requests == []
    assert len(server.requests) == 1


async def test_an_error_of_the_listener_is_its_own(serve: Serve, model_of: ModelOf) -> None:
    def listener(_: ModelDelta) -> None:
        raise ZeroDivisionError

    server = serve(stream([delta(content="x")], then="stall"))
    with pytest.raises(ZeroDivisionError):
        await model_of(server).request(HELLO, NO_PARAMETERS, on_delta=listener)
    assert server.client_left.wait(10)


async def test_a_long_stream_that_goes_on_is_not_cut_off(serve: Serve, model_of: ModelOf) -> None:
    async def talk(connection: Connection) -> None:
        import asyncio

        await connection.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        for number in range(8):
            await asyncio.sleep(0.15)
            await connection.chunk(delta(content=f"{number} "))
        await connection.chunk(delta("stop"))
        await connection.chunk(b"data: [DONE]\n\n")
        await connection.chunk(b"")

    told: list[ModelDelta] = []
    model = model_of(serve(talk), timeout_s=0.6)
    response = await model.request(HELLO, NO_PARAMETERS, on_delta=told.append)
    assert response.text == "0 1 2 3 4 5 6 7 "
