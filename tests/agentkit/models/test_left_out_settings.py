"""Settings for sampling that a provider does not take: not sent, and logged once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from agentkit import AnthropicModel, GeminiModel, ModelRequest, ModelSettings, OpenAIResponsesModel, UserPromptPart
from agentkit.models.base import ModelRequestParameters
from agentkit.models.http.model import HTTPModel
from tests.agentkit.models.chat_server import ChatServer, answer

pytestmark = pytest.mark.anyio
ALL = ModelSettings(temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, seed=3)
HELLO = (ModelRequest((UserPromptPart("Hello"),)),)


@pytest.mark.parametrize(
    ("make", "sent", "left_out"),
    [
        (AnthropicModel, {"temperature", "top_p", "top_k"}, "min_p, seed"),
        (OpenAIResponsesModel, {"temperature", "top_p"}, "min_p, seed, top_k"),
        (GeminiModel, {"temperature", "topP", "topK", "seed"}, "min_p"),
    ],
)
async def test_a_setting_of_another_provider_is_left_out_and_logged_once(
    make: Callable[..., HTTPModel], sent: set[str], left_out: str, caplog: pytest.LogCaptureFixture
) -> None:
    with ChatServer(answer({"error": {"message": "no"}}, status=400)) as server:
        model = make("some-model", base_url=server.base_url, api_key="k" * 20, settings=ALL, max_retries=0)
        with caplog.at_level(logging.WARNING, "agentkit.models.http.model"):
            for _ in range(2):
                with pytest.raises(Exception, match="400"):
                    await model.request(HELLO, ModelRequestParameters())
    body: dict[str, Any] = server.bodies[0]
    fields = {**body, **body.get("generationConfig", {})}
    assert sent <= fields.keys() and not {"min_p", "minP"} & fields.keys()
    assert [record.message for record in caplog.records] == [f"some-model does not take {left_out}; not sent"]
