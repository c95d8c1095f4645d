"""Models that answer from a script and are priced like those of a provider; no server is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentkit.messages import ModelResponse, TextPart, ToolCallPart
from agentkit.testing import ScriptedModel
from agentkit.usage import RequestUsage

OPENAI = "https://api.openai.com/v1"
OWN_SERVER = "http://127.0.0.1:8000/v1"


class HostedModel(ScriptedModel):
    """Replies of a script from the model `name` at an address."""

    def __init__(self, script: Sequence[Any], name: str = "gpt-4o", base_url: str | None = OPENAI) -> None:
        super().__init__(script, name=name)
        self._base_url = base_url

    @property
    def base_url(self) -> str | None:
        return self._base_url

    @property
    def is_free(self) -> bool:
        return False


def said(text: str, usage: RequestUsage, model_name: str = "") -> ModelResponse:
    return ModelResponse((TextPart(text),), usage, model_name)


def asked(call: ToolCallPart, usage: RequestUsage, model_name: str = "") -> ModelResponse:
    return ModelResponse((call,), usage, model_name)
