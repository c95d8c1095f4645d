"""Gemini models over the `generateContent` and `streamGenerateContent` methods of Google's API.

Other modules hold the parts: `contents` (conversation), `generate_request` (body), `schema_subset` (schemas),
`generate_reply` (reply), `status_errors` (errors), `dialect` (generations). The rest is `agentkit.models.http`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentkit.errors import UserError
from agentkit.messages import ModelMessage
from agentkit.models.base import ModelProfile, ModelRequestParameters, ModelSettings
from agentkit.models.capabilities import capabilities_of
from agentkit.models.google.contents import function_name
from agentkit.models.google.dialect import PROVIDER, GeminiDialect, ThinkingLevel, dialect_of
from agentkit.models.google.generate_reply import GeminiReply
from agentkit.models.google.generate_request import generate_content_body
from agentkit.models.google.status_errors import STATUS_ERRORS
from agentkit.models.http.model import HTTPModel, used_call_ids
from agentkit.models.http.reply import ReplyBuilder
from agentkit.models.retries import Backoff

if TYPE_CHECKING:
    import httpx

GEMINI_BASE_URL = "https://generativelanguage.googleapis.com/v1beta"
API_KEY_VARIABLES = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
_MODEL_NAME = re.compile(r"(models/|tunedModels/)?[A-Za-z0-9][A-Za-z0-9._-]*")


class GeminiModel(HTTPModel):
    """A Gemini model; serves concurrent requests and several event loops.

    Thoughts and calls keep Google's signatures, which go back with the conversation. Inside `async with model:`
    connections are kept and shared; outside, each request opens its own.
    """

    key_variables = API_KEY_VARIABLES
    errors = STATUS_ERRORS

    def __init__(
        self,
        model_name: str,
        *,
        base_url: str = GEMINI_BASE_URL,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        settings: ModelSettings = ModelSettings(),
        profile: ModelProfile | None = None,
        dialect: GeminiDialect | None = None,
        thinking_level: ThinkingLevel | None = None,
        include_thoughts: bool | None = None,
        timeout_s: float = 120.0,
        idle_timeout_s: float = 60.0,
        connect_timeout_s: float = 10.0,
        max_retries: int = 3,
        backoff: Backoff | None = None,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        """Configure the model; nothing is opened or imported yet.

        Args:
            model_name: The name of the model, such as "gemini-3.8-flash".
            base_url: The address before `/models/`, with the version of the API.
            api_key: Sent as the header `x-goog-api-key`, "" for none. Default: GEMINI_API_KEY or GOOGLE_API_KEY,
                over https or to loopback only.
            headers: Further headers; see `HTTPModel`.
            settings: Defaults that a request's own settings override. `thinking_tokens` is the thinking budget of
                Gemini 2.5. From Gemini 3 on it chooses the level: the lowest one for 0, as thinking cannot be
                turned off, "low" up to 1,024, "medium" up to 8,192, "high" above.
            profile: Capabilities of the model; by default those of the capability table.
            dialect: What the model's generation accepts; by default read off the name.
            thinking_level: How much a model from Gemini 3 on thinks; None: as it decides.
            include_thoughts: Whether to ask for summaries of the thoughts; None: where thinking is set.
            timeout_s: See `HTTPModel`, as for the arguments that follow.
            idle_timeout_s: Longest silence within a reply that has begun.
            connect_timeout_s: Time to connect, for each attempt.
            max_retries: Further attempts after transient failures before anything was delivered.
            backoff: Waits between attempts.
            http_client: The application's own client.

        Raises:
            UserError: the name, the address, the key, a header or the thinking level cannot be used.
        """
        if not _MODEL_NAME.fullmatch(model_name):
            raise UserError(f"model name {model_name!r} is no name of a Gemini model, such as 'gemini-3.8-flash'.")
        known = capabilities_of(PROVIDER, model_name.removeprefix("models/"))
        super().__init__(
            model_name,
            base_url=base_url,
            api_key=api_key,
            headers=headers,
            settings=settings,
            profile=profile or (ModelProfile(native_output=True) if known is None else known.profile()),
            timeout_s=timeout_s,
            idle_timeout_s=idle_timeout_s,
            connect_timeout_s=connect_timeout_s,
            max_retries=max_retries,
            backoff=backoff,
            http_client=http_client,
        )
        self._dialect = dialect or dialect_of(model_name)
        if thinking_level is not None and self._dialect.thinking != "level":
            raise UserError(
                f"thinking_level={thinking_level!r} is for Gemini 3 and newer, not for {model_name!r}; Gemini 2.5 "
                f"takes a budget: settings=ModelSettings(thinking_tokens=1024)."
            )
        self._thinking_level: ThinkingLevel | None = thinking_level
        self._include_thoughts = include_thoughts

    @property
    def provider(self) -> str:
        """Google's Gemini API."""
        return PROVIDER

    def _key_headers(self, key: str) -> Mapping[str, str]:
        return {"x-goog-api-key": key}

    def _left_out(self, settings: ModelSettings) -> Collection[str]:
        return ("min_p",)

    def _path(self, *, stream: bool) -> str:
        name = self._model_name if "/" in self._model_name else f"models/{self._model_name}"
        return f"/{name}:streamGenerateContent?alt=sse" if stream else f"/{name}:generateContent"

    def _body(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        settings: ModelSettings,
        *,
        stream: bool,
    ) -> dict[str, Any]:
        return generate_content_body(
            messages,
            parameters,
            settings=settings,
            dialect=self._dialect,
            thinking_level=self._thinking_level,
            include_thoughts=self._include_thoughts,
            profile=self._profile,
        )

    def _new_reply(self, messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ReplyBuilder:
        names = {function_name(tool.name): tool.name for tool in parameters.tools}
        return GeminiReply(names, used_call_ids(messages))
