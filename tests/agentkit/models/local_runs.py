"""What the tests of the in-process model share: two tools, and the responses of a conversation."""

from __future__ import annotations

from typing import Any

from agentkit.messages import ModelResponse


def get_weather(city: str, days: int = 1) -> str:
    """Say what the weather is."""
    return f"rain in {city}"


def add(a: int, b: int) -> int:
    """Add two integers."""
    return a + b


def responses(messages: Any) -> list[ModelResponse]:
    return [message for message in messages if isinstance(message, ModelResponse)]
