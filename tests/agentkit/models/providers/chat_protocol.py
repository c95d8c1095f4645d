"""OpenAI's chat completions, as the suite uses them."""

from __future__ import annotations

from typing import Any

from provider_protocol import KEY, ProviderProtocol
from pydantic import TypeAdapter

from agentkit.models.openai.model import OpenAICompatibleModel


class ChatProtocol(ProviderProtocol):
    """OpenAI's chat completions."""

    name = "chat"
    provider = "openai"
    key_header = "authorization"
    key_variable = "OPENAI_API_KEY"
    paths = frozenset({"/v1/chat/completions"})
    statuses = {"context_overflow": 400, "error_overloaded": 503, "error_in_stream": 500}

    def model(self, origin: str, **options: Any) -> OpenAICompatibleModel:
        """Return a model of the server."""
        arguments: dict[str, Any] = {"base_url": f"{origin}/v1", "api_key": KEY, **options}
        return OpenAICompatibleModel("gpt-4.1", **arguments)

    def check_body(self, body: Any) -> None:
        """Validate against `CompletionCreateParams`."""
        from openai.types.chat.completion_create_params import (
            CompletionCreateParamsNonStreaming,
            CompletionCreateParamsStreaming,
        )

        kind = CompletionCreateParamsStreaming if body["stream"] else CompletionCreateParamsNonStreaming
        TypeAdapter(kind).validate_python(body)

    def signatures(self, body: Any) -> list[str]:
        """Return nothing: chat completions sign no thoughts."""
        return []

    def files(self, body: Any) -> list[str]:
        """Return the data of `image_url` parts with data URLs."""
        contents = [message["content"] for message in body["messages"] if isinstance(message["content"], list)]
        parts = [part for content in contents for part in content]
        return [part["image_url"]["url"].partition(",")[2] for part in parts if part["type"] == "image_url"]

    def official_text(self, origin: str, *, streamed: bool) -> str:
        """Read with the package `openai`."""
        from openai import OpenAI

        request: Any = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
        with OpenAI(base_url=f"{origin}/v1", api_key=KEY, max_retries=0) as client:
            if not streamed:
                return client.chat.completions.create(**request).choices[0].message.content or ""
            with client.chat.completions.create(**request, stream=True) as chunks:
                return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
