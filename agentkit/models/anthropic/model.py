"""Claude models over Anthropic's Messages API, and servers that imitate it.

Other modules hold the parts: `conversation` (messages), `messages_body` (body), `cache_points` (prompt cache),
`closed_schema` (schemas), `messages_reply` (reply), `errors`. The rest is `agentkit.models.http`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Unpack

from agentkit.errors import ModelHTTPError
from agentkit.messages import ModelMessage, ModelResponse
from agentkit.models.anthropic.cache_points import PromptCacheTTL
from agentkit.models.anthropic.conversation import FILE_KINDS, PROVIDER, claude_tool_name
from agentkit.models.anthropic.errors import API_KEY_VARIABLE, MESSAGES_ERRORS
from agentkit.models.anthropic.messages_body import (
    UNKNOWN_MODEL,
    ClaudeOptions,
    Effort,
    left_out_settings,
    messages_body,
    output_tool_name,
)
from agentkit.models.anthropic.messages_reply import MessagesReplyBuilder
from agentkit.models.base import ModelProfile, ModelRequestParameters, ModelSettings, OnDelta
from agentkit.models.capabilities import ModelCapabilities, capabilities_of
from agentkit.models.http.model import HTTPModel, HTTPOptions, used_call_ids
from agentkit.models.http.refused_thoughts import RefusedThoughts

ANTHROPIC_BASE_URL = "https://api.anthropic.com"
API_VERSION = "2023-06-01"
"""Version of the API. The next one, 2026-10-21, changes nothing that is sent here, except that it takes the
sampling settings away from the models that still have them."""
TIMEOUT_S = 600.0
"""Seconds until a reply begins and between its pieces: a thought that is not shown sends nothing but pings."""
_BOUND_THOUGHT = "The block is bound to a different conversation"
"""Sentence of the error 400 for a thought whose prompt has changed, by a summary of the history or other tools."""


class AnthropicModel(HTTPModel):
    """A Claude model; serves concurrent requests and several event loops.

    Every reply is streamed, as the API advises for long ones. Thoughts keep Anthropic's signatures and go back
    with the conversation. Inside `async with model:` connections are kept and shared; outside, each request opens
    its own.
    """

    key_variables = (API_KEY_VARIABLE,)
    errors = MESSAGES_ERRORS

    def __init__(
        self,
        model_name: str,
        *,
        base_url: str = ANTHROPIC_BASE_URL,
        settings: ModelSettings = ModelSettings(),
        profile: ModelProfile | None = None,
        capabilities: ModelCapabilities | None = None,
        prompt_cache: PromptCacheTTL | None = "5m",
        effort: Effort | None = None,
        strict_tools: bool = False,
        **options: Unpack[HTTPOptions],
    ) -> None:
        """Configure the model; nothing is opened or imported yet.

        Args:
            model_name: The name of the model, such as "claude-opus-5".
            base_url: The address before `/v1/messages`, without credentials or a query.
            settings: Defaults that a request's own settings override. `thinking_tokens` is the thinking budget;
                models that take none think as much as they decide. Settings that a model no longer takes
                (`temperature`, `top_p`, `top_k`) or never took (`seed`, `min_p`) are left out, and logged once.
            profile: Capabilities that a run reads; by default those of the capability table.
            capabilities: What the model accepts; by default looked up by its name in the capability table.
            prompt_cache: Time to live of the prompt cache; a write costs more than plain input, a read a tenth of
                it. None: no cache.
            effort: How much work the model does, thinking included; None: its default.
            strict_tools: Constrain calls to the tools' schemas, where the schemas and the API's limits allow it.
                The first request with new schemas waits until they are compiled.
            options: Key, headers, timeouts, retries and the HTTP client; see `HTTPOptions`. The key is sent as
                `x-api-key`. Default: ANTHROPIC_API_KEY.

        Raises:
            UserError: the address, the key or a header cannot be used.
        """
        self._capabilities = capabilities or capabilities_of(PROVIDER, model_name) or UNKNOWN_MODEL
        options.setdefault("timeout_s", TIMEOUT_S)
        profile = profile or self._capabilities.profile(inputs=FILE_KINDS)
        super().__init__(model_name, base_url=base_url, settings=settings, profile=profile, **options)
        self._options = ClaudeOptions(prompt_cache, effort, strict_tools)
        self._refused = RefusedThoughts()

    @property
    def provider(self) -> str:
        """Always "anthropic", also for other servers of this protocol: signatures are kept under this name."""
        return PROVIDER

    async def request(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        *,
        on_delta: OnDelta | None = None,
    ) -> ModelResponse:
        """Continue `messages`; raises like `HTTPModel.request`.

        If the API refuses earlier thoughts because the prompt before them has changed, the request is sent once
        more without them, and so are later ones.
        """
        messages = self._refused.removed_from(messages)
        try:
            return await super().request(messages, parameters, on_delta=on_delta)
        except ModelHTTPError as error:
            if error.status_code != 400 or _BOUND_THOUGHT not in error.body:
                raise
        self._refused.add_all_of(messages)
        return await super().request(self._refused.removed_from(messages), parameters, on_delta=on_delta)

    def _key_headers(self, key: str) -> Mapping[str, str]:
        return {"x-api-key": key}

    def _fixed_headers(self) -> Mapping[str, str]:
        return {"anthropic-version": API_VERSION}

    def _streams(self, *, has_listener: bool) -> bool:
        return True

    def _left_out(self, settings: ModelSettings) -> Collection[str]:
        return left_out_settings(settings, self._capabilities)

    def _path(self, *, stream: bool) -> str:
        return "/v1/messages"

    def _body(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        settings: ModelSettings,
        *,
        stream: bool,
    ) -> dict[str, Any]:
        return messages_body(
            self._model_name,
            messages,
            parameters,
            settings=settings,
            profile=self._profile,
            capabilities=self._capabilities,
            options=self._options,
            stream=stream,
        )

    def _new_reply(
        self, messages: Sequence[ModelMessage], parameters: ModelRequestParameters
    ) -> MessagesReplyBuilder:
        names = {claude_tool_name(tool.name): tool.name for tool in parameters.tools}
        return MessagesReplyBuilder(names, used_call_ids(messages), output_tool_name(parameters, self._profile))
