"""Any server that speaks OpenAI's chat completions: vLLM, llama.cpp, Ollama, SGLang, LM Studio, gateways, OpenAI.

Chat completions are the one interface that all of them have. `messages` makes the request's body, `reply` reads
the answer; `agentkit.models.http` holds what all providers share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Unpack
from urllib.parse import urlsplit

from agentkit.messages import ModelMessage
from agentkit.models.base import ModelProfile, ModelRequestParameters, ModelSettings
from agentkit.models.http.model import HTTPModel, HTTPOptions, used_call_ids
from agentkit.models.openai.errors import API_KEY_VARIABLE as API_KEY_VARIABLE
from agentkit.models.openai.errors import CHAT_ERRORS
from agentkit.models.openai.messages import OPENAI, Dialect, chat_body
from agentkit.models.openai.reply import ChatReplyBuilder
from agentkit.models.providers import provider_of

OPENAI_HOST = "api.openai.com"
"""Host of OpenAI's API; regional hosts are its subdomains, such as `eu.api.openai.com`."""


class OpenAICompatibleModel(HTTPModel):
    """A model behind an HTTP server with OpenAI's chat completions; serves concurrent requests and several loops.

    Inside `async with model:` connections are kept and shared; outside, each request opens its own.
    """

    key_variables = (API_KEY_VARIABLE,)
    errors = CHAT_ERRORS

    def __init__(
        self,
        model_name: str,
        *,
        base_url: str = "http://127.0.0.1:8080/v1",
        settings: ModelSettings = ModelSettings(),
        profile: ModelProfile | None = None,
        dialect: Dialect = OPENAI,
        **options: Unpack[HTTPOptions],
    ) -> None:
        """Configure the model; nothing is opened or imported yet.

        Args:
            model_name: The name of the model on the server.
            base_url: The address before `/chat/completions`, without credentials or a query.
            settings: Defaults that a request's own settings override.
            profile: Capabilities of the model; by default parallel calls, and native output if the dialect has it.
            dialect: How the server differs from OpenAI's.
            options: Key, headers, timeouts, retries and the HTTP client; see `HTTPOptions`. The key is sent as a
                bearer token. Default: OPENAI_API_KEY.

        Raises:
            UserError: the address, the key or a header cannot be used.
        """
        profile = profile or ModelProfile(native_output=dialect.output == "json_schema")
        super().__init__(model_name, base_url=base_url, settings=settings, profile=profile, **options)
        self._dialect = _with_token_limit(dialect, self._base_url)

    @property
    def provider(self) -> str:
        """The provider that the address belongs to; "openai" if it is not known."""
        return provider_of(self._base_url)

    def _streams(self, *, has_listener: bool) -> bool:
        return has_listener or self._dialect.always_stream

    def _path(self, *, stream: bool) -> str:
        return "/chat/completions"

    def _body(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        settings: ModelSettings,
        *,
        stream: bool,
    ) -> dict[str, Any]:
        return chat_body(
            self._model_name,
            messages,
            parameters,
            settings=settings,
            profile=self._profile,
            dialect=self._dialect,
            stream=stream,
        )

    def _new_reply(self, messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ChatReplyBuilder:
        return ChatReplyBuilder(frozenset(tool.name for tool in parameters.tools), used_call_ids(messages))


def _with_token_limit(dialect: Dialect, base_url: str) -> Dialect:
    if dialect.max_tokens_field is not None:
        return dialect
    host = urlsplit(base_url).hostname or ""
    is_openai = host == OPENAI_HOST or host.endswith(f".{OPENAI_HOST}")
    return replace(dialect, max_tokens_field="max_completion_tokens" if is_openai else "max_tokens")
