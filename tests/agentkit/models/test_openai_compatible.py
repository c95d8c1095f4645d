"""The model against a real server: what is sent, what comes back, and how."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from chat_server import (
    DONE,
    HELLO,
    ChatServer,
    Connection,
    answer,
    completion,
    delta,
    event,
    raw,
    stream,
)

from agentkit.errors import UserError
from agentkit.messages import (
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    UserPromptPart,
)
from agentkit.models.base import (
    ModelDelta,
    ModelProfile,
    ModelRequestParameters,
    ModelSettings,
    TextDelta,
    ToolCallDelta,
    block_model_requests,
)
from agentkit.models.openai.messages import Dialect
from agentkit.models.openai.model import OpenAICompatibleModel
from agentkit.tools.definition import ToolDefinition
from agentkit.usage import RequestUsage

pytestmark = pytest.mark.anyio

Serve = Callable[..., ChatServer]
ModelOf = Callable[..., OpenAICompatibleModel]
NO_PARAMETERS = ModelRequestParameters()
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
HELLO_STREAM = [
    delta(role="assistant", content=""),
    delta(content="Hello "),
    delta(content="🦉 there"),
    delta("stop"),
    event({"choices": [], "usage": USAGE}),
    DONE,
]
HELLO_RESPONSE = ModelResponse(
    (TextPart("Hello 🦉 there"),),
    usage=RequestUsage(input_tokens=9, cache_read_tokens=4, output_tokens=3),
    model_name="served",
    finish_reason="stop",
)


async def test_a_whole_reply(serve: Serve, model_of: ModelOf) -> None:
    server = serve(answer(completion({"role": "assistant", "content": "Hello 🦉 there"}, usage=USAGE)))
    model = model_of(server, api_key="sk-1", headers={"X-Team": "blue"}, settings=ModelSettings(temperature=0.5))
    messages = (ModelRequest((SystemPromptPart("Be brief."), UserPromptPart("Hello"))),)
    parameters = ModelRequestParameters(settings=ModelSettings(max_tokens=7))

    assert await model.request(messages, parameters) == HELLO_RESPONSE

    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
        "temperature": 0.5,
        "max_tokens": 7,
        "stream": False,
    }
    headers = {
        name: request.headers[name] for name in ("authorization", "x-team", "content-type", "accept-encoding")
    }
    assert headers == {
        "authorization": "Bearer sk-1",
        "x-team": "blue",
        "content-type": "application/json",
        "accept-encoding": "identity",
    }


async def test_a_stream_is_told_as_it_comes(serve: Serve, model_of: ModelOf) -> None:
    server = serve(stream(HELLO_STREAM))
    deltas: list[ModelDelta] = []
    response = await model_of(server).request(HELLO, NO_PARAMETERS, on_delta=deltas.append)
    assert response == HELLO_RESPONSE
    assert deltas == [TextDelta("Hello "), TextDelta("🦉 there")]
    assert server.bodies[0]["stream"] is True
    assert server.bodies[0]["stream_options"] == {"include_usage": True}


async def test_a_delta_is_delivered_before_the_stream_goes_on(serve: Serve, model_of: ModelOf) -> None:
    import threading

    heard = threading.Event()

    async def reply(connection: Connection) -> None:
        import anyio.to_thread

        await connection.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        await connection.chunk(delta(content="first"))
        assert await anyio.to_thread.run_sync(heard.wait, 10)
        await connection.chunk(delta("stop", content=" second") + DONE)
        await connection.end_chunks()

    response = await model_of(serve(reply)).request(HELLO, NO_PARAMETERS, on_delta=lambda _: heard.set())
    assert response.text == "first second"


async def test_a_stream_may_be_cut_at_every_byte(serve: Serve, model_of: ModelOf) -> None:
    data = b": keep-alive\r\n\r\n" + b"".join(HELLO_STREAM).replace(b"\n", b"\r\n")
    server = serve(stream([data[i : i + 1] for i in range(len(data))]))
    assert await model_of(server).request(HELLO, NO_PARAMETERS, on_delta=print) == HELLO_RESPONSE


@pytest.mark.parametrize(
    ("pieces", "then"),
    [
        ([*HELLO_STREAM[:-1]], "end"),
        ([*HELLO_STREAM[:-1], b"data: [DONE]"], "end"),
        ([*HELLO_STREAM[:-1], b"data: {\"cho"], "end"),
        ([*HELLO_STREAM[:-1]], "cut"),
        ([*HELLO_STREAM[:-1]], "stall"),
        ([*HELLO_STREAM], "stall"),
        ([*HELLO_STREAM], "cut"),
        ([*HELLO_STREAM, b"data: garbage\n\n"], "end"),
        ([*HELLO_STREAM[:-2], HELLO_STREAM[-2].rstrip(b"\n")], "end"),
    ],
    ids=[
        "no DONE",
        "DONE without a blank line",
        "half an event after the finish reason",
        "cut after the finish reason",
        "silent after the finish reason",
        "open after DONE",
        "cut after DONE",
        "garbage after DONE",
        "usage without a blank line",
    ],
)  # fmt: skip
async def test_a_finish_reason_or_done_makes_a_stream_complete(
    serve: Serve, model_of: ModelOf, pieces: list[bytes], then: str
) -> None:
    model = model_of(serve(stream(pieces, then=then)), idle_timeout_s=0.2)
    assert await model.request(HELLO, NO_PARAMETERS, on_delta=print) == HELLO_RESPONSE


async def test_parallel_calls_with_reasoning(serve: Serve, model_of: ModelOf) -> None:
    def entry(index: int, arguments: str, **more: Any) -> dict[str, Any]:
        name = {"name": more.pop("name")} if "name" in more else {}
        return {"index": index, **more, "function": {**name, "arguments": arguments}}

    server = serve(
        stream(
            [
                delta(reasoning_content="Two sums."),
                delta(tool_calls=[entry(0, "", id="a", name="add")]),
                delta(tool_calls=[entry(1, '{"x"', id="b", name="nonsense")]),
                delta(tool_calls=[entry(0, '{"y": oops'), entry(1, ": 2}")]),
                delta("tool_calls"),
                DONE,
            ]
        )
    )
    deltas: list[ModelDelta] = []
    parameters = ModelRequestParameters(tools=(ToolDefinition("add", "Add."),))
    response = await model_of(server).request(HELLO, parameters, on_delta=deltas.append)
    assert response == ModelResponse(
        (
            ThinkingPart("Two sums."),
            ToolCallPart("add", '{"y": oops', "a"),
            ToolCallPart("nonsense", '{"x": 2}', "b"),
        ),
        model_name="served",
        finish_reason="tool_calls",
    )
    assert deltas[1:] == [
        ToolCallDelta(1, "nonsense", '{"x"'),
        ToolCallDelta(0, "add", '{"y": oops'),
        ToolCallDelta(1, None, ": 2}"),
    ]


async def test_the_servers_kind_of_reply_decides_not_the_one_asked_for(serve: Serve, model_of: ModelOf) -> None:
    whole = answer(completion({"content": "Hello 🦉 there"}, usage=USAGE))
    deltas: list[ModelDelta] = []
    assert await model_of(serve(whole)).request(HELLO, NO_PARAMETERS, on_delta=deltas.append) == HELLO_RESPONSE
    assert deltas == [TextDelta("Hello 🦉 there")]
    assert await model_of(serve(stream(HELLO_STREAM))).request(HELLO, NO_PARAMETERS) == HELLO_RESPONSE


async def test_streaming_can_be_the_default(serve: Serve, model_of: ModelOf) -> None:
    server = serve(stream(HELLO_STREAM))
    model = model_of(server, dialect=Dialect(always_stream=True))
    assert await model.request(HELLO, NO_PARAMETERS) == HELLO_RESPONSE
    assert server.bodies[0]["stream"] is True


async def test_a_structured_answer_stays_json_text(serve: Serve, model_of: ModelOf) -> None:
    server = serve(answer(completion({"content": '{"a": 1}'})))
    assert (await model_of(server).request(HELLO, NO_PARAMETERS)).parts == (TextPart('{"a": 1}'),)


async def test_a_body_without_a_length_ends_with_the_connection(serve: Serve, model_of: ModelOf) -> None:
    async def reply(connection: Connection) -> None:
        await connection.head(200, {"content-type": "text/event-stream", "connection": "close"})
        await connection.write(b"".join(HELLO_STREAM))
        connection.closed = True

    assert await model_of(serve(reply)).request(HELLO, NO_PARAMETERS) == HELLO_RESPONSE


async def test_a_conversation_with_lone_surrogates_can_be_sent(serve: Serve, model_of: ModelOf) -> None:
    server = serve(answer(completion({"content": "ok"})))
    await model_of(server).request([ModelRequest((UserPromptPart("half \ud83e owl"),))], NO_PARAMETERS)
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "half ? owl"}]


async def test_what_json_cannot_hold_is_the_callers_mistake(model_of: ModelOf, serve: Serve) -> None:
    model = model_of(serve(raw(b"")))
    for value in (float("nan"), object(), {1, 2}):
        with pytest.raises(UserError, match="what JSON cannot"):
            await model.request(HELLO, ModelRequestParameters(settings=ModelSettings(extra_body={"x": value})))


async def test_requests_can_be_blocked(model_of: ModelOf, serve: Serve) -> None:
    server = serve(answer(completion({"content": "x"})))
    with block_model_requests(), pytest.raises(UserError, match="block_model_requests"):
        await model_of(server).request(HELLO, NO_PARAMETERS)
    assert server.requests == []


def test_the_profile_follows_the_dialect_unless_it_is_given() -> None:
    assert OpenAICompatibleModel("m").profile == ModelProfile(native_output=True)
    assert OpenAICompatibleModel("m", dialect=Dialect(output="prompt")).profile == ModelProfile()
    assert OpenAICompatibleModel("m", profile=ModelProfile(logprobs=True)).profile == ModelProfile(logprobs=True)


@pytest.mark.parametrize(
    "base_url",
    ["", "localhost:8080", "ftp://host/v1", "http://", "http://host:99999/v1", "http://host:port/v1", "http://[::1/v1",
     "http://ho st/v1", "http://host/v1\r\nX: y", "http://user:pass@host/v1", "http://host/v1?key=1", "http://host/#v1"],
)  # fmt: skip
def test_an_unusable_address_is_refused(base_url: str) -> None:
    with pytest.raises(UserError, match="base_url") as caught:
        OpenAICompatibleModel("m", base_url=base_url)
    assert "pass" not in str(caught.value)


def test_importing_and_configuring_a_model_does_not_import_httpx() -> None:
    code = (
        "import sys; from agentkit.models.openai.model import OpenAICompatibleModel as M;"
        "M('m', api_key='k'); import agentkit.models.fallback;"
        "print([n for n in ('httpx', 'httpcore', 'httpx2', 'h11') if n in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
