"""The model of the Responses API against a scripted server: requests, replies, failures, and runs."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import anyio.lowlevel
import pytest
from chat_server import HELLO, NOW, ChatServer, answer, event, stream
from responses_events import call, lines, message, reasoning, streamed, whole

from agentkit import Agent, FallbackModel, ModelHTTPError, ModelSettings, tool
from agentkit.errors import ContextWindowExceeded, ModelConnectionError, UnexpectedModelBehavior, UserError
from agentkit.messages import BinaryContent, ModelRequest, TextPart, ThinkingPart, UserPromptPart
from agentkit.models.base import ModelDelta, ModelRequestParameters, TextDelta
from agentkit.models.openai.model import OpenAICompatibleModel
from agentkit.models.openai.responses import OPENAI_URL, OpenAIResponsesModel
from agentkit.models.resolve import OPENAI_BASE_URL, resolve_model
from agentkit.models.retries import Backoff

pytestmark = pytest.mark.anyio
Serve = Callable[..., ChatServer]
NO_PARAMETERS = ModelRequestParameters()


@pytest.fixture
def responses_of(waits: list[float]) -> Callable[..., OpenAIResponsesModel]:
    """Make a model of a server, with a backoff that records instead of waiting."""

    async def sleep(delay_s: float) -> None:
        waits.append(delay_s)
        await anyio.lowlevel.checkpoint()

    def make(server: ChatServer, **options: Any) -> OpenAIResponsesModel:
        backoff = Backoff(rng=random.Random(7), now=lambda: NOW, sleep=sleep)
        defaults: dict[str, Any] = {"base_url": server.base_url, "backoff": backoff}
        return OpenAIResponsesModel("gpt-5", **{**defaults, **options})

    return make


ResponsesOf = Callable[..., OpenAIResponsesModel]


async def test_a_whole_reply(serve: Serve, responses_of: ResponsesOf) -> None:
    server = serve(answer(whole(message("Hello there"))))
    model = responses_of(server, api_key="sk-1", settings=ModelSettings(max_tokens=7))

    response = await model.request(HELLO, NO_PARAMETERS)

    assert response.parts == (TextPart("Hello there"),) and response.model_name == "gpt-5-2025-08-07"
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/v1/responses")
    assert request.headers["authorization"] == "Bearer sk-1"
    assert request.body == {
        "model": "gpt-5",
        "input": [{"type": "message", "role": "user", "content": "Hello"}],
        "store": False,
        "max_output_tokens": 7,
        "stream": False,
    }
    assert "sk-1" not in repr(model)


async def test_a_stream_ends_with_its_last_event(serve: Serve, responses_of: ResponsesOf) -> None:
    server = serve(stream([lines(streamed(message("Hello 🦉 there")))], then="stall"))
    deltas: list[ModelDelta] = []

    response = await responses_of(server).request(HELLO, NO_PARAMETERS, on_delta=deltas.append)

    assert response.text == "Hello 🦉 there"
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == response.text
    assert server.requests[0].body["stream"] is True


async def test_a_stream_may_be_cut_anywhere(serve: Serve, responses_of: ResponsesOf) -> None:
    data = lines(streamed(message("Hello 🦉 there"), piece_chars=1))
    server = serve(stream([data[start : start + 7] for start in range(0, len(data), 7)]))
    response = await responses_of(server).request(HELLO, NO_PARAMETERS, on_delta=lambda delta: None)
    assert response.text == "Hello 🦉 there"


async def test_reasoning_returns_in_the_next_step_of_a_run(serve: Serve, responses_of: ResponsesOf) -> None:
    thought = reasoning("Look first.", encrypted_content="gAAA-complete")
    first = (thought, message("Looking.", phase="commentary"), call("look", '{"place":"port"}'))
    server = serve(
        stream([lines(streamed(*first))]),
        stream([lines(streamed(reasoning(n=2, encrypted_content="gAAA-2"), message("Two ships.")))]),
        answer(whole(message("Blue."))),
    )

    @tool
    def look(place: str) -> str:
        """Look at a place."""
        return f"two ships in the {place}"

    agent = Agent(responses_of(server, encrypted_reasoning=True), tools=[look], instructions="Be brief.")
    async with agent.run_stream("What is there?") as streamed_run:
        result = await streamed_run.finish()
    assert result.output == "Two ships."
    followed = await agent.run("Which colour?", message_history=result.messages)
    assert followed.output == "Blue."

    assert [body["include"] for body in server.bodies] == [["reasoning.encrypted_content"]] * 3
    assert {body["instructions"] for body in server.bodies} == {"Be brief."}
    second, third = server.bodies[1]["input"], server.bodies[2]["input"]
    assert second[1:] == [
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "Look first."}],
            "encrypted_content": "gAAA-complete",
        },
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Looking.", "annotations": []}],
            "phase": "commentary",
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "call_1",
            "name": "look",
            "arguments": '{"place":"port"}',
        },
        {"type": "function_call_output", "call_id": "call_1", "output": "two ships in the port"},
    ]
    assert third[: len(second)] == second
    assert [item.get("encrypted_content") for item in third[len(second) :]] == ["gAAA-2", None, None]


async def test_reasoning_of_one_server_is_not_sent_to_another(serve: Serve, responses_of: ResponsesOf) -> None:
    first = serve(
        answer(whole(reasoning("Hm.", encrypted_content="gAAA"), message("Hello."))),
        answer({"error": {"message": "down", "type": "server_error"}}, status=503),
    )
    second = serve(answer(whole(message("Hello again."))))
    other_host = second.base_url.replace("127.0.0.1", "localhost")
    model = FallbackModel(responses_of(first, max_retries=0), responses_of(second, base_url=other_host))
    agent = Agent(model)
    result = await agent.run("Hello")
    assert isinstance(result.messages[-1].parts[0], ThinkingPart)
    again = await agent.run("Again", message_history=result.messages)
    assert again.output == "Hello again."
    assert first.bodies[1]["input"][1]["type"] == "reasoning"
    assert [item["type"] for item in second.bodies[0]["input"]] == ["message"] * 3


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (400, "The encrypted content gAAA...DQ== could not be verified."),
        (400, "Item 'rs_1' of type 'reasoning' was provided without its required following item."),
        (404, "Item with id 'rs_1' not found."),
    ],
)
async def test_reasoning_that_the_server_cannot_read_again_is_left_out(
    serve: Serve, responses_of: ResponsesOf, status: int, text: str
) -> None:
    refused = answer({"error": {"message": text, "type": "invalid_request_error"}}, status=status)
    first = whole(reasoning("Hm.", encrypted_content="gAAA"), message("Hello."))
    server = serve(answer(first), refused, answer(whole(message("Hello again."))), refused)
    agent = Agent(responses_of(server))
    begun = await agent.run("Hello")
    again = await agent.run("Again", message_history=begun.messages)
    assert again.output == "Hello again." and again.usage.requests == 1
    kinds = [[item["type"] for item in body["input"]] for body in server.bodies]
    assert kinds[1:] == [["message", "reasoning", "message", "message"], ["message"] * 3]
    with pytest.raises(ModelHTTPError, match=text):  # not a third time
        await agent.run("Again", message_history=begun.messages)
    assert len(server.bodies) == 5


async def test_reasoning_refused_within_a_stream_is_left_out_unless_a_part_was_delivered(
    serve: Serve, responses_of: ResponsesOf
) -> None:
    text = "The encrypted content for item rs_1 could not be verified."
    refusal = {"type": "error", "code": "invalid_encrypted_content", "message": text, "sequence_number": 9}
    events = streamed(message("Hello"))
    hello = answer(whole(message("Hello")))
    early, late = (stream([lines(events[:n]), lines([refusal])]) for n in (2, 6))
    server = serve(early, hello, late, hello)
    model = responses_of(server)
    response = await model.request(HELLO, NO_PARAMETERS, on_delta=lambda delta: None)
    assert response.text == "Hello" and len(server.requests) == 2
    with pytest.raises(ModelHTTPError, match="could not be verified"):
        await model.request(HELLO, NO_PARAMETERS, on_delta=lambda delta: None)
    assert len(server.requests) == 3


async def test_an_image_in_a_prompt_reaches_the_server(serve: Serve, responses_of: ResponsesOf) -> None:
    server = serve(answer(whole(message("A chart."))))
    prompt = ModelRequest((UserPromptPart(("What is this?", BinaryContent(b"\x89PNG", "image/png"))),))
    await responses_of(server).request((prompt,), NO_PARAMETERS)
    (item,) = server.bodies[0]["input"]
    assert item["content"][1] == {
        "type": "input_image",
        "image_url": "data:image/png;base64,iVBORw==",
        "detail": "auto",
    }


# -- failures ---------------------------------------------------------------------------------------------------


def failed(code: str, text: str) -> dict[str, Any]:
    return {**whole(status="failed"), "error": {"code": code, "message": text}}


def failures(code: str, text: str) -> list[Any]:
    """A failure in each form in which servers tell it with status 200."""
    started = lines(streamed(message("Hello"))[:2])
    flat = {"type": "error", "code": code, "message": text, "param": None, "sequence_number": 2}
    nested = {"type": "error", "error": {"type": code, "code": code, "message": text}}
    response = {"type": "response.failed", "response": failed(code, text), "sequence_number": 2}
    return [
        answer(failed(code, text)),
        *(stream([started, lines([each])]) for each in (flat, nested, response)),
        *(stream([started, event(each)]) for each in (flat, nested, response)),  # without the event's name
    ]


@pytest.mark.parametrize(
    ("code", "text", "error", "status_code", "retryable"),
    [
        ("context_length_exceeded", "Too long.", ContextWindowExceeded, None, None),
        ("x", "Your input exceeds the context window of this model.", ContextWindowExceeded, None, None),
        ("server_error", "An error occurred.", ModelHTTPError, 500, True),
        ("rate_limit_exceeded", "Slow down.", ModelHTTPError, 429, True),
        ("invalid_prompt", "Flagged.", ModelHTTPError, 400, False),
        ("invalid_base64_image", "No image.", ModelHTTPError, 400, False),
    ],
)
@pytest.mark.parametrize("form", range(7))
async def test_a_failure_inside_a_reply(
    serve: Serve,
    responses_of: ResponsesOf,
    form: int,
    code: str,
    text: str,
    error: type[Exception],
    status_code: int | None,
    retryable: bool | None,
) -> None:
    server = serve(failures(code, text)[form])
    with pytest.raises(error, match=text) as found:
        await responses_of(server, max_retries=0).request(HELLO, NO_PARAMETERS, on_delta=lambda delta: None)
    if isinstance(found.value, ModelHTTPError):
        assert (found.value.status_code, found.value.retryable) == (status_code, retryable)


async def test_a_failure_without_a_reason(serve: Serve, responses_of: ResponsesOf) -> None:
    silent = {"type": "response.failed", "response": whole(status="failed")}
    for reply in (
        answer(whole(status="failed")),
        stream([event(silent)]),
        stream([event({"type": silent["type"]})]),
    ):
        with pytest.raises(ModelHTTPError, match="the server gives no reason") as found:
            await responses_of(serve(reply), max_retries=0).request(HELLO, NO_PARAMETERS)
        assert found.value.status_code == 500


async def test_a_failure_before_the_first_delta_is_tried_again(
    serve: Serve, responses_of: ResponsesOf, waits: list[float]
) -> None:
    server = serve(failures("server_error", "Broken.")[3], answer(whole(message("Hello"))))
    response = await responses_of(server).request(HELLO, NO_PARAMETERS, on_delta=lambda delta: None)
    assert response.text == "Hello" and len(waits) == 1


async def test_a_stream_that_ends_early_is_a_broken_connection(serve: Serve, responses_of: ResponsesOf) -> None:
    server = serve(stream([lines(streamed(message("Hello there"))[:6])]))
    with pytest.raises(ModelConnectionError, match="too early, after 8 characters of text had arrived"):
        await responses_of(server).request(HELLO, NO_PARAMETERS, on_delta=lambda delta: None)
    assert len(server.requests) == 1, "a part was delivered"


async def test_a_chat_completion_is_no_response(serve: Serve, responses_of: ResponsesOf) -> None:
    server = serve(answer({"id": "c", "object": "chat.completion", "choices": []}))
    with pytest.raises(UnexpectedModelBehavior, match="where a completed response of /v1/responses belongs"):
        await responses_of(server).request(HELLO, NO_PARAMETERS)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("Encrypted content is not supported with this model.", "encrypted_reasoning=False"),
        ("The encrypted content for item rs_1 could not be verified. invalid_encrypted_content", "neither asks"),
        ("Unsupported parameter: 'temperature' is not supported with this model.", "models that reason take none"),
        ("The requested model 'gpt-5.2-proo' does not exist. model_not_found", "check the model's name"),
        ("Invalid value: 'allowed_tools'.", "narrow_by_choice=False"),
        ("Unsupported value: 'reasoning.effort' does not support 'minimal'", "see `reasoning_effort`"),
    ],
)
async def test_a_refused_field_names_the_option(
    serve: Serve, responses_of: ResponsesOf, text: str, hint: str
) -> None:
    server = serve(answer({"error": {"message": text, "type": "invalid_request_error"}}, status=400))
    with pytest.raises(ModelHTTPError, match=hint):
        await responses_of(server).request(HELLO, NO_PARAMETERS)


# -- options of models and servers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "base_url", "options", "asks", "narrows"),
    [
        ("gpt-5", OPENAI_URL, {}, True, True),
        ("gpt-4.1", OPENAI_URL, {}, False, True),
        ("a-model-of-tomorrow", OPENAI_URL, {}, False, True),
        ("gpt-5", "https://eu.api.openai.com/v1", {}, True, True),
        ("gpt-5", "https://r.openai.azure.com/openai/v1", {}, True, True),
        ("gpt-5", "http://127.0.0.1:8000/v1", {}, False, False),
        ("qwen3", "http://127.0.0.1:8000/v1", {"encrypted_reasoning": True}, True, False),
        ("gpt-5", OPENAI_URL, {"encrypted_reasoning": False, "narrow_by_choice": False}, False, False),
    ],
)
def test_options_follow_from_the_model_and_its_server(
    name: str, base_url: str, options: dict[str, Any], asks: bool, narrows: bool
) -> None:
    model = OpenAIResponsesModel(name, base_url=base_url, api_key="sk-1", **options)
    chosen = model._options  # pyright: ignore[reportPrivateUsage]
    assert (chosen.includes_encrypted, chosen.narrows_by_choice) == (asks, narrows)
    assert model.profile.native_output


async def test_a_model_that_reasons_is_sent_no_sampling_settings(
    serve: Serve, responses_of: ResponsesOf, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(answer(whole(message("Hello"))))
    model = responses_of(server)
    cold = ModelSettings(temperature=0.0, top_p=0.5)
    efforts = [{}, {}, {"reasoning": {"effort": "none"}}]
    for extra_body in efforts:
        parameters = ModelRequestParameters(settings=cold.merged(ModelSettings(extra_body=extra_body)))
        await model.request(HELLO, parameters)
    other = OpenAIResponsesModel("gpt-4.1", base_url=server.base_url)
    await other.request(HELLO, ModelRequestParameters(settings=cold))
    assert [body.get("temperature") for body in server.bodies] == [None, None, 0.0, 0.0]
    assert [body.get("top_p") for body in server.bodies] == [None, None, 0.5, 0.5]
    assert caplog.messages == ["gpt-5 does not take temperature, top_p; not sent"]


def test_a_models_name_with_the_prefix_is_a_responses_model(monkeypatch: pytest.MonkeyPatch) -> None:
    assert OPENAI_URL == OPENAI_BASE_URL
    with pytest.raises(UserError, match="needs OPENAI_API_KEY"):
        resolve_model("openai-responses:gpt-5")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    model = resolve_model("openai-responses:gpt-5")
    assert isinstance(model, OpenAIResponsesModel)
    assert (model.name, model.base_url, model.provider) == ("gpt-5", OPENAI_URL, "openai")
    assert isinstance(resolve_model("openai:gpt-5"), OpenAICompatibleModel)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    own = resolve_model("openai-responses:m")
    assert isinstance(own, OpenAIResponsesModel) and own.base_url == "http://127.0.0.1:9/v1"
    with pytest.raises(UserError, match="lacks the model's name: openai-responses:NAME"):
        resolve_model("openai-responses:")
    with pytest.raises(UserError, match="did you mean 'openai-responses:gpt-5'"):
        resolve_model("openai-response:gpt-5")
