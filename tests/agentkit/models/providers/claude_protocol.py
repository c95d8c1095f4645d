"""Anthropic's Messages API, as the suite uses it."""

from __future__ import annotations

from typing import Any

from provider_protocol import KEY, WEATHER, Case, ProviderProtocol
from pydantic import TypeAdapter

from agentkit.models.anthropic.conversation import REDACTED
from agentkit.models.anthropic.model import AnthropicModel
from agentkit.models.base import ModelRequestParameters

_ASK = ModelRequestParameters(tools=(WEATHER,))


class ClaudeProtocol(ProviderProtocol):
    """Anthropic's Messages API."""

    name = "anthropic"
    provider = "anthropic"
    key_header = "x-api-key"
    key_variable = "ANTHROPIC_API_KEY"
    paths = frozenset({"/v1/messages"})
    statuses = {"context_overflow": 400, "error_overloaded": 529, "error_in_stream": 529}
    extra = {
        "redacted_thinking": Case("Weather?", _ASK),
        "server_tool": Case("Search for it."),
        "pause_turn": Case("Search for much."),
        "context_full": Case("Write on."),
        "recorded_redacted": Case(),
        "recorded_server_tool": Case(),
        "recorded_tool_search": Case(parameters=_ASK),
        "recorded_thinking": Case(parameters=_ASK),
        "recorded_parallel": Case(parameters=_ASK),
        "recorded_cache": Case(),
    }

    def model(self, origin: str, **options: Any) -> AnthropicModel:
        """Return a model that is in the table of capabilities, with all that can be asked of it."""
        arguments: dict[str, Any] = {"base_url": origin, "api_key": KEY, **options}
        return AnthropicModel("claude-opus-4-5", **arguments)

    def check_body(self, body: Any) -> None:
        """Validate against `MessageCreateParams`."""
        from anthropic.types.message_create_params import MessageCreateParamsStreaming

        TypeAdapter(MessageCreateParamsStreaming).validate_python(body, strict=False)

    def signatures(self, body: Any) -> list[str]:
        """Return signatures of `thinking`, and data of `redacted_thinking`."""
        blocks = [block for message in body["messages"] for block in message["content"]]
        return [
            REDACTED + block["data"] if block["type"] == "redacted_thinking" else block["signature"]
            for block in blocks
            if block["type"] in ("thinking", "redacted_thinking")
        ]

    def files(self, body: Any) -> list[str]:
        """Return the data of `image` and `document` blocks, those in results too."""
        found: list[str] = []
        blocks = [block for message in body["messages"] for block in message["content"]]
        while blocks:
            block = blocks.pop(0)
            if block["type"] in ("image", "document"):
                found.append(block["source"]["data"])
            blocks[:0] = block.get("content", []) if block["type"] == "tool_result" else []
        return found

    def official_text(self, origin: str, *, streamed: bool) -> str:
        """Read with the package `anthropic`."""
        from anthropic import Anthropic

        request: Any = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}
        with Anthropic(base_url=origin, api_key=KEY, max_retries=0) as client:
            if not streamed:
                return "".join(getattr(block, "text", "") for block in client.messages.create(**request).content)
            with client.messages.stream(**request) as events:
                return events.get_final_text()
