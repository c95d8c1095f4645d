"""OpenAI's Responses API, as the suite uses it."""

from __future__ import annotations

import json
from typing import Any

from provider_protocol import CASES, KEY, WEATHER, Case, ProviderProtocol
from pydantic import TypeAdapter

from agentkit.models.base import ModelRequestParameters
from agentkit.models.openai.kept_items import MESSAGE, KeptFields, KeptReasoning, signature_of
from agentkit.models.openai.responses import OpenAIResponsesModel

_HOST = "127.0.0.1"
_CALLING = ModelRequestParameters(tools=(WEATHER,))


class ResponsesProtocol(ProviderProtocol):
    """OpenAI's Responses API."""

    name = "responses"
    provider = "openai"
    key_header = "authorization"
    key_variable = "OPENAI_API_KEY"
    paths = frozenset({"/v1/responses"})
    statuses = {"context_overflow": 400, "error_overloaded": 503, "error_in_stream": 500}
    extra = {
        "text_streamed": Case("What is the capital of France?", _CALLING),
        "final_answer": Case("What is the capital of PotatoLand?"),
        "one_call_streamed": Case("What is the capital of France?", _CALLING),
        "parallel_calls_streamed": CASES["parallel_calls"],
        "structured_output_streamed": CASES["structured_output"],
        "thinking_whole": Case("What is the capital of France?", _CALLING),
        "thinking_commentary": Case("What is the capital of PotatoLand?", _CALLING),
        "thinking_summaries": Case("What is the favorite country?", _CALLING),
        "thinking_summary": CASES["thinking"],
        "thinking_open": Case("What is the temperature in Tokyo?", _CALLING),
        "open_reasoning": Case("What is 2+2?"),
        "web_search": Case("What is the weather in San Francisco?"),
        "content_filter": CASES["refusal"],
    }

    def model(self, origin: str, **options: Any) -> OpenAIResponsesModel:
        """Return a model that sends encrypted reasoning back."""
        defaults: dict[str, Any] = {"base_url": f"{origin}/v1", "api_key": KEY, "encrypted_reasoning": True}
        return OpenAIResponsesModel("gpt-5", **{**defaults, **options})

    def check_body(self, body: Any) -> None:
        """Validate against `ResponseCreateParams`, which must not drop a field."""
        from openai.types.responses.response_create_params import (
            ResponseCreateParamsNonStreaming,
            ResponseCreateParamsStreaming,
        )

        kind = ResponseCreateParamsStreaming if body["stream"] else ResponseCreateParamsNonStreaming
        adapter = TypeAdapter[Any](kind)
        assert json.loads(adapter.dump_json(adapter.validate_python(body))) == body

    def signatures(self, body: Any) -> list[str]:
        """Return what the reasoning items, and the items after each, were made from."""
        items = body["input"]
        starts = [n for n, item in enumerate(items) if item["type"] == "reasoning"]
        return [self._signature(items[start:]) for start in starts]

    def _signature(self, items: list[Any]) -> str:
        reasoning, *later = items
        texts = [[part["text"] for part in reasoning.get(name, [])] for name in ("summary", "content")]
        following: list[tuple[str, str]] = []
        phase = None
        for item in later:
            if item["type"] not in ("message", "function_call") or item.get("role") == "user":
                break
            following.append((item.get("call_id", MESSAGE), item.get("id", "")))
            phase = phase or item.get("phase")
        encrypted = reasoning.get("encrypted_content")
        kept = KeptReasoning(reasoning["id"], tuple(texts[0]), tuple(texts[1]), encrypted, tuple(following))
        return signature_of(_HOST, KeptFields(kept, phase)) or ""

    def files(self, body: Any) -> list[str]:
        """Return the data of images in prompts and results."""
        found = [item.get("content", item.get("output")) for item in body["input"]]
        parts = [part for content in found if isinstance(content, list) for part in content]
        return [part["image_url"].partition(",")[2] for part in parts if part["type"] == "input_image"]

    def official_text(self, origin: str, *, streamed: bool) -> str:
        """Read with the package `openai`."""
        from openai import OpenAI

        with OpenAI(base_url=f"{origin}/v1", api_key=KEY, max_retries=0) as client:
            if not streamed:
                return client.responses.create(model="m", input="Hello").output_text
            with client.responses.create(model="m", input="Hello", stream=True) as events:
                return "".join(event.delta for event in events if event.type == "response.output_text.delta")
