"""`GeminiModel` over real HTTP on loopback, with recorded replies of Google's API."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from chat_server import HELLO, NOW, ChatServer, Connection, Reply
from pydantic import BaseModel

from agentkit import Agent
from agentkit.errors import ContextWindowExceeded, ModelConnectionError, ModelError, ModelHTTPError, UserError
from agentkit.messages import ModelRequest, ModelResponse, TextPart, ToolCallPart, ToolReturnPart, UserPromptPart
from agentkit.models.base import ModelDelta, ModelRequestParameters, ModelSettings, TextDelta
from agentkit.models.google.contents import UNSIGNED_CALL
from agentkit.models.google.model import GEMINI_BASE_URL, GeminiModel
from agentkit.models.google.status_errors import read_status
from agentkit.models.resolve import resolve_model
from agentkit.models.retries import Backoff
from agentkit.testing import check_model

RECORDINGS = Path(__file__).parent / "providers" / "gemini"
KEY = "AIza-secret-key"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GEMINI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def gemini(waits: list[float]) -> Callable[..., GeminiModel]:
    """Make a model of a server, with a backoff that records instead of waiting."""

    async def sleep(delay_s: float) -> None:
        waits.append(delay_s)
        await anyio.lowlevel.checkpoint()

    def make(server: ChatServer, name: str = "gemini-3.8-flash", **options: Any) -> GeminiModel:
        backoff = Backoff(rng=random.Random(7), now=lambda: NOW, sleep=sleep)
        return GeminiModel(name, **{"base_url": server.base_url, "api_key": KEY, "backoff": backoff, **options})

    return make


def recorded(name: str, status: int = 200) -> Reply:
    """Return a reply with a recording."""

    async def reply(connection: Connection) -> None:
        content = (RECORDINGS / name).read_bytes()
        kind = "text/event-stream" if name.endswith(".sse") else "application/json; charset=UTF-8"
        await connection.head(status, {"Content-Type": kind, "Content-Length": str(len(content))})
        await connection.write(content)

    return reply


def answering(value: Any, status: int = 200) -> Reply:
    async def reply(connection: Connection) -> None:
        content = json.dumps(value).encode()
        await connection.head(status, {"Content-Type": "application/json", "Content-Length": str(len(content))})
        await connection.write(content)

    return reply


def ask(model: GeminiModel, *, stream: bool = False, **parameters: Any) -> tuple[ModelResponse, list[ModelDelta]]:
    deltas: list[ModelDelta] = []

    async def request() -> ModelResponse:
        on_delta = deltas.append if stream else None
        return await model.request(HELLO, ModelRequestParameters(**parameters), on_delta=on_delta)

    return anyio.run(request), deltas


def test_a_request_names_the_model_in_its_path_and_the_key_in_a_header(serve: Any, gemini: Any) -> None:
    server = serve(recorded("signed_text.json"))
    response, _ = ask(gemini(server))
    assert response.text == "4" and response.model_name == "gemini-3.5-flash"
    (received,) = server.requests
    assert received.path == "/v1/models/gemini-3.8-flash:generateContent"
    assert received.headers["x-goog-api-key"] == KEY and "authorization" not in received.headers
    assert received.body == {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}


def test_a_listener_makes_it_stream(serve: Any, gemini: Any) -> None:
    server = serve(recorded("two_pieces.sse"))
    response, deltas = ask(gemini(server, "models/gemini-2.0-flash"), stream=True)
    assert deltas == [TextDelta("The temperature in Paris"), TextDelta(" is 30°C.\n")]
    assert response.text == "The temperature in Paris is 30°C.\n"
    assert server.requests[0].path == "/v1/models/gemini-2.0-flash:streamGenerateContent?alt=sse"
    assert KEY not in server.requests[0].path


def test_a_tuned_model_has_a_path_of_its_own(serve: Any, gemini: Any) -> None:
    server = serve(recorded("signed_text.json"))
    ask(gemini(server, "tunedModels/mine-1"))
    assert server.requests[0].path == "/v1/tunedModels/mine-1:generateContent"


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a?b", "a b", "models/", "gemini:generateContent"])
def test_a_name_that_would_change_the_path_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="is no name of a Gemini model"):
        GeminiModel(name, api_key=KEY)


class City(BaseModel):
    city: str
    country: str


@pytest.mark.parametrize(
    ("called_in", "answered_in"),
    [("empty_arguments.json", "structured_output_whole.json"), ("one_call.sse", "structured_output.sse")],
)
def test_an_agent_sends_the_signature_of_a_call_back_with_its_result(
    serve: Any, gemini: Any, called_in: str, answered_in: str
) -> None:
    server = serve(recorded(called_in), recorded(answered_in))

    def get_user_country() -> str:
        """The country of the user."""
        return "Mexico"

    agent = Agent(gemini(server), tools=[get_user_country], output_type=City)

    async def run() -> Any:
        if called_in.endswith(".json"):
            return await agent.run("What is the largest city in the user country?")
        async with agent.run_stream("What is the largest city in the user country?") as stream:
            async for _ in stream:
                pass
        return stream.result

    result = anyio.run(run)
    assert result.output == City(city="Mexico City", country="Mexico")
    first, second = server.bodies
    assert first["generationConfig"]["responseMimeType"] == "application/json"
    assert first["tools"][0]["functionDeclarations"][0]["name"] == "get_user_country"
    _, called, answered = second["contents"]
    signature = (RECORDINGS / called_in).read_text().split('"thoughtSignature": "')[1].split('"')[0]
    (call,) = called["parts"]
    assert call["thoughtSignature"] == signature and call["functionCall"]["name"] == "get_user_country"
    assert answered["parts"] == [
        {
            "functionResponse": {
                "id": call["functionCall"]["id"],
                "name": "get_user_country",
                "response": {"output": "Mexico"},
            }
        }
    ]


def test_a_history_of_another_model_is_sent_with_the_value_that_skips_the_check(serve: Any, gemini: Any) -> None:
    server = serve(recorded("signed_text.json"))
    history = (
        *HELLO,
        ModelResponse(
            (TextPart("Looking."), ToolCallPart("look", "{}", "call_1", signature="s", provider="openai"))
        ),
        ModelRequest((ToolReturnPart("look", "call_1", "sea"), UserPromptPart("And?"))),
    )

    async def request() -> None:
        await gemini(server).request(history, ModelRequestParameters())

    anyio.run(request)
    assert server.bodies[0]["contents"][1]["parts"][1]["thoughtSignature"] == UNSIGNED_CALL


def test_a_rate_limit_is_waited_for_as_its_retry_info_says(serve: Any, gemini: Any, waits: list[float]) -> None:
    server = serve(recorded("error_429.json", 429), recorded("signed_text.json"))
    assert ask(gemini(server))[0].text == "4"
    assert waits == [36.0]


@pytest.mark.parametrize(
    ("name", "status", "kind", "hint"),
    [
        (
            "context_overflow.json",
            400,
            ContextWindowExceeded,
            "the conversation is too long: The input token count",
        ),
        ("error_404.json", 404, ModelHTTPError, "Hint: check the model's name"),
        ("error_401.json", 400, ModelHTTPError, "Hint: .*API_KEY_INVALID.*set GEMINI_API_KEY"),
        ("error_tools_with_json.json", 400, ModelHTTPError, "Hint: .*dialect=GEMINI_2"),
    ],
)
def test_an_error_names_its_cause_and_its_fix(
    serve: Any, gemini: Any, name: str, status: int, kind: type[ModelError], hint: str
) -> None:
    server = serve(recorded(name, status))
    with pytest.raises(kind, match=hint) as raised:
        ask(gemini(server))
    assert not raised.value.retryable and len(server.requests) == 1
    assert KEY not in str(raised.value)


def test_an_error_inside_a_stream_is_raised(serve: Any, gemini: Any) -> None:
    async def reply(connection: Connection) -> None:
        await connection.head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        part = {"candidates": [{"content": {"parts": [{"text": "Hel"}]}}]}
        error = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}
        for event in (part, error):
            await connection.chunk(f"data: {json.dumps(event)}\r\n\r\n".encode())
        await connection.end_chunks()

    server = serve(reply)
    with pytest.raises(ModelHTTPError, match="The model is overloaded") as raised:
        ask(gemini(server), stream=True)
    assert raised.value.status_code == 503 and raised.value.retryable


def test_a_stream_without_a_finish_reason_is_cut_off(serve: Any, gemini: Any) -> None:
    async def reply(connection: Connection) -> None:
        event = b'data: {"candidates": [{"content": {"parts": [{"text": "Hel"}]}}]}\r\n\r\n'
        await connection.head(200, {"Content-Type": "text/event-stream", "Content-Length": str(len(event))})
        await connection.write(event)

    with pytest.raises(ModelConnectionError, match="too early, after 3 characters of text"):
        ask(gemini(serve(reply)), stream=True)


def test_settings_of_model_and_request_are_merged(serve: Any, gemini: Any) -> None:
    server = serve(recorded("signed_text.json"))
    model = gemini(server, settings=ModelSettings(temperature=0.1, top_k=5), thinking_level="low")
    ask(model, settings=ModelSettings(temperature=0.2, extra_body={"cachedContent": "cachedContents/x"}))
    assert server.bodies[0]["generationConfig"] == {
        "temperature": 0.2,
        "topK": 5,
        "thinkingConfig": {"thinkingLevel": "low", "includeThoughts": True},
    }
    assert server.bodies[0]["cachedContent"] == "cachedContents/x"


def test_a_level_for_a_model_with_a_budget_is_refused() -> None:
    with pytest.raises(UserError, match=r"thinking_level='low'.*not for 'gemini-2\.5-pro'"):
        GeminiModel("gemini-2.5-pro", api_key=KEY, thinking_level="low")


def test_the_environment_gives_key_and_address(monkeypatch: pytest.MonkeyPatch, serve: Any) -> None:
    server = serve(recorded("signed_text.json"))
    monkeypatch.setenv("GEMINI_BASE_URL", server.base_url)
    monkeypatch.setenv("GOOGLE_API_KEY", "other")
    model = resolve_model("google:gemini-3.8-flash")
    assert isinstance(model, GeminiModel) and model.name == "gemini-3.8-flash" and model.provider == "gcp.gemini"
    ask(model)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    preferred = resolve_model("google:gemini-3.8-flash")
    assert isinstance(preferred, GeminiModel)
    ask(preferred)
    assert [request.headers["x-goog-api-key"] for request in server.requests] == ["other", KEY]
    assert KEY not in repr(preferred)


def test_a_name_without_a_key_or_a_model_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="needs GEMINI_API_KEY"):
        resolve_model("google:gemini-3.8-flash")
    with pytest.raises(UserError, match="lacks the model's name: google:NAME"):
        resolve_model("google:")
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)
    model = resolve_model("google:gemini-3.8-flash")
    assert isinstance(model, GeminiModel) and model.base_url == GEMINI_BASE_URL


@pytest.mark.parametrize("spec", ["gemini-3.8-flash", "google/gemini-3.8-flash", "gogle:gemini-3.8-flash"])
def test_a_name_that_is_nearly_one_is_corrected(spec: str) -> None:
    with pytest.raises(UserError, match="did you mean 'google:gemini-3.8-flash'"):
        resolve_model(spec)


def test_capabilities_are_those_of_the_table() -> None:
    profile = GeminiModel("gemini-3.8-flash", api_key=KEY).profile
    assert profile.native_output and profile.prefix_cache and (profile.context_window or 0) > 1_000_000
    assert GeminiModel("tunedModels/mine", api_key=KEY).profile.native_output


def test_it_keeps_what_a_model_promises(serve: Any, gemini: Any) -> None:
    server: ChatServer

    async def reply(connection: Connection) -> None:
        request = server.requests[-1]
        calling = request.body.get("toolConfig", {}).get("functionCallingConfig", {})
        named = calling.get("allowedFunctionNames", [])
        part = {"functionCall": {"name": named[0], "args": {"place": "harbour"}}} if named else {"text": "Hello."}
        chunk = {
            "candidates": [{"content": {"role": "model", "parts": [part]}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2},
            "modelVersion": "gemini-3.8-flash",
        }
        text = json.dumps(chunk)
        streams = "alt=sse" in request.path
        content = (f"data: {text}\r\n\r\n" if streams else text).encode()
        kind = "text/event-stream" if streams else "application/json"
        await connection.head(200, {"Content-Type": kind, "Content-Length": str(len(content))})
        await connection.write(content)

    server = serve(reply)
    anyio.run(check_model, lambda: gemini(server))
    assert len(server.requests) >= 6


@pytest.mark.parametrize(
    ("body", "status_code", "retry_after_s"),
    [
        ({"error": {"status": "UNAVAILABLE", "message": "x"}}, 503, None),
        ([{"error": {"code": 429, "details": [{"retryDelay": "1.5s"}]}}], 429, 1.5),
        ({"error": {"code": 429, "details": [{"retryDelay": 3}, "x", {"retryDelay": "soon"}]}}, 429, None),
        ({"error": {"code": 429, "details": {"retryDelay": "3s"}}}, 429, None),
        ({"error": "text"}, None, None),
        ({"error": {"status": ["x"]}}, None, None),
        ([], None, None),
        ("text", None, None),
        (None, None, None),
    ],
)
def test_any_error_body_is_read(body: Any, status_code: int | None, retry_after_s: float | None) -> None:
    details = read_status(body)
    assert (details.status_code, details.retry_after_s) == (status_code, retry_after_s)
