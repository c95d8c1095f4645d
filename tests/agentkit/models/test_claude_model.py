"""The model of Anthropic's API: what an agent gets over several steps, and what is special to this provider."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from chat_server import HELLO, ChatServer, Reply, answer

from agentkit import Agent, AnthropicModel
from agentkit.errors import ModelHTTPError, UserError
from agentkit.messages import ModelRequest, ModelResponse, TextPart, ThinkingPart, UserPromptPart
from agentkit.models.base import ModelRequestParameters, ModelSettings
from agentkit.models.resolve import resolve_model

pytestmark = pytest.mark.anyio

Serve = Callable[..., ChatServer]
NO_PARAMETERS = ModelRequestParameters()
STALE = {
    "type": "error",
    "error": {
        "type": "invalid_request_error",
        "message": "messages.1.content.0: The block is bound to a different conversation.",
    },
}


def said(*content: dict[str, Any], stop_reason: str = "end_turn") -> Reply:
    usage = {"input_tokens": 10, "output_tokens": 5}
    return answer(
        {"type": "message", "model": "m", "content": content, "stop_reason": stop_reason, "usage": usage}
    )


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def model_of(server: ChatServer, name: str = "claude-opus-4-5", **options: Any) -> AnthropicModel:
    return AnthropicModel(name, base_url=server.base_url.removesuffix("/v1"), api_key="sk-test", **options)


async def test_an_agent_thinks_calls_tools_at_once_and_answers(serve: Serve) -> None:
    thought = {"type": "thinking", "thinking": "Two places.", "signature": "c2ln"}
    calls = [
        {"type": "tool_use", "id": f"toolu_{place}", "name": "look", "input": {"place": place}}
        for place in ("harbour", "tower")
    ]
    server = serve(said(thought, *calls, stop_reason="tool_use"), said(text("All is quiet.")))

    def look(place: str) -> str:
        """Look at a place."""
        if place == "tower":
            raise ValueError("it is dark")
        return "Quiet."

    agent = Agent(model_of(server), tools=[look], instructions="Be brief.")
    result = await agent.run("Look around.")
    assert result.output == "All is quiet."
    first, second = server.bodies
    assert first["system"][0]["text"] == "Be brief."
    assert [tool["name"] for tool in first["tools"]] == ["look"]
    assert second["messages"][1]["content"] == [thought, *calls]
    results = second["messages"][2]["content"]
    assert [(each["tool_use_id"], each.get("is_error", False)) for each in results] == [
        ("toolu_harbour", False),
        ("toolu_tower", True),
    ]


async def test_a_thought_whose_prompt_has_changed_is_left_out_once_the_api_refuses_it(serve: Serve) -> None:
    server = serve(answer(STALE, status=400), said(text("Yes.")))
    response = ModelResponse((ThinkingPart("Hm", "c2ln", "anthropic"), TextPart("So.")))
    messages = (*HELLO, response, ModelRequest((UserPromptPart("And?"),)))
    model = model_of(server)
    assert (await model.request(messages, NO_PARAMETERS)).text == "Yes."
    kinds = [[block["type"] for block in body["messages"][1]["content"]] for body in server.bodies]
    assert kinds == [["thinking", "text"], ["text"]]
    newer = ModelResponse((ThinkingPart("Aha", "bmV3", "anthropic"), TextPart("Yes.")))
    await model.request((*messages, newer, *HELLO), NO_PARAMETERS)
    old, new = (body["content"] for body in server.bodies[2]["messages"] if body["role"] == "assistant")
    assert [block["type"] for block in old] == ["text"], "a refused thought is not sent again"
    assert [block["type"] for block in new] == ["thinking", "text"]
    always = serve(answer(STALE, status=400))
    with pytest.raises(ModelHTTPError, match="bound to a different conversation"):
        await model_of(always).request(messages, NO_PARAMETERS)
    assert len(always.requests) == 2


async def test_settings_that_are_left_out_are_logged_once(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    model = model_of(serve(said(text("Hi"))), "claude-opus-5", settings=ModelSettings(temperature=0.2))
    with caplog.at_level(logging.WARNING, "agentkit.models.http.model"):
        for seed in (None, None, 7):
            settings = ModelSettings(seed=seed)
            await model.request(HELLO, ModelRequestParameters(settings=settings))
    assert [record.getMessage() for record in caplog.records] == [
        "claude-opus-5 does not take temperature; not sent",
        "claude-opus-5 does not take seed; not sent",
    ]


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("The compiled grammar is too large, which would cause performance issues.", "strict_tools=False"),
        ("cache_control: unknown field", "prompt_cache=None"),
        ("thinking.type.enabled is not supported for this model", "leave `thinking_tokens` out"),
    ],
)
async def test_a_refused_field_names_the_option_that_does_without_it(
    message: str, hint: str, serve: Serve
) -> None:
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
    with pytest.raises(ModelHTTPError, match=hint):
        await model_of(serve(answer(error, status=400))).request(HELLO, NO_PARAMETERS)


async def test_headers_and_what_the_user_sets_instead(serve: Serve) -> None:
    server = serve(said(text("Hi")))
    await model_of(server).request(HELLO, NO_PARAMETERS)
    await model_of(server, headers={"anthropic-version": "2026-10-21", "anthropic-beta": "some-beta"}).request(
        HELLO, NO_PARAMETERS
    )
    first, second = (request.headers for request in server.requests)
    assert (first["anthropic-version"], first["x-api-key"]) == ("2023-06-01", "sk-test")
    assert (second["anthropic-version"], second["anthropic-beta"]) == ("2026-10-21", "some-beta")
    assert all(request.body["stream"] is True for request in server.requests)


def test_a_model_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match="needs ANTHROPIC_API_KEY, or ANTHROPIC_BASE_URL"):
        resolve_model("anthropic:claude-opus-5")
    with pytest.raises(UserError, match="lacks the model's name: anthropic:NAME"):
        resolve_model("anthropic:")
    with pytest.raises(UserError, match="did you mean 'anthropic:claude-opus-5'"):
        resolve_model("claude-opus-5")
    with pytest.raises(UserError, match="did you mean 'anthropic:claude-opus-5'"):
        resolve_model("anthropic/claude-opus-5")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    model = resolve_model("anthropic:claude-opus-5")
    assert isinstance(model, AnthropicModel)
    assert (model.name, model.provider, model.base_url) == ("claude-opus-5", "anthropic", "http://127.0.0.1:9")


def test_capabilities_come_from_the_table() -> None:
    known = AnthropicModel("claude-opus-4-8-20260101", api_key="").profile
    assert (known.native_output, known.context_window, known.prefix_cache) == (True, 1_000_000, True)
    assert known.inputs == {"image", "document"}
    unknown = AnthropicModel("some-model", base_url="http://127.0.0.1:9").profile
    assert (unknown.native_output, unknown.context_window) == (False, None)


def test_the_key_is_not_shown() -> None:
    model = AnthropicModel("claude-opus-5", api_key="sk-secret-1")
    assert repr(model) == "AnthropicModel('claude-opus-5', base_url='https://api.anthropic.com')"
    assert "sk-secret-1" not in json.dumps(str(vars(model)))
