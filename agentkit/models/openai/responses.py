"""OpenAI's Responses API, over which OpenAI's models keep their reasoning between the steps of a run.

Nothing is stored at the server: each request holds the whole conversation, and reasoning returns encrypted. So
`previous_response_id` is not used. It names a conversation that only the server has: a run could not be resumed
after its deletion, forked, compacted, guarded or handed over to another model, and the journal would not hold what
the model saw. The prompt cache holds either way, because earlier items are rendered the same.

`responses_body` and `responses_input` make the request, `responses_reply` reads the answer, `kept_items` holds the
fields that must return; `agentkit.models.http` holds what all providers share.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack, cast
from urllib.parse import urlsplit

from agentkit.errors import ModelHTTPError
from agentkit.files import FileKind
from agentkit.messages import ModelMessage, ModelResponse
from agentkit.models.base import ModelProfile, ModelRequestParameters, ModelSettings, OnDelta
from agentkit.models.capabilities import ModelCapabilities, capabilities_of
from agentkit.models.held_deltas import HeldDeltas
from agentkit.models.http.errors import ErrorDetails, ErrorFormat, read_details, reported_error
from agentkit.models.http.model import HTTPModel, HTTPOptions, used_call_ids
from agentkit.models.http.refused_thoughts import RefusedThoughts
from agentkit.models.openai.errors import API_KEY_VARIABLE
from agentkit.models.openai.model import OPENAI_HOST
from agentkit.models.openai.responses_body import ReasoningSummary, ResponsesOptions, responses_body
from agentkit.models.openai.responses_input import SENDABLE_KINDS, Reader
from agentkit.models.openai.responses_reply import ResponsesReplyBuilder
from agentkit.models.providers import provider_of

_UNKNOWN_SETTINGS = ("top_k", "min_p", "seed")
"""Settings for sampling that the Responses API does not have."""

OPENAI_URL = f"https://{OPENAI_HOST}/v1"
THINKING_TIMEOUT_S = 600.0
"""Allowed seconds of silence: reasoning without a summary is silent. OpenAI's own client waits as long."""
_UNREADABLE_REASONING = re.compile(
    r"invalid_encrypted_content|encrypted content .{0,200}could not be verified"
    r"|of type 'reasoning' was provided without its required following item|Item with id 'rs_\w+' not found",
    re.DOTALL,
)
"""Errors about reasoning in the input (openai/codex#8145, vercel/ai#7099)."""
_REFUSED_CODES = frozenset(
    {
        "invalid_prompt", "bio_policy", "misalignment_policy_violation", "data_residency_mismatch",
        "invalid_image", "invalid_image_format", "invalid_base64_image", "invalid_image_url", "image_too_large",
        "image_too_small", "image_parse_error", "image_content_policy_violation", "invalid_image_mode",
        "image_file_too_large", "unsupported_image_media_type", "empty_image_file", "failed_to_download_image",
        "image_file_not_found", "invalid_encrypted_content",
    }
)  # fmt: skip
"""Codes of a failed response whose request would fail again."""


def responses_error_details(body: Any) -> ErrorDetails:
    """Read an error of the Responses API, also that of a response that failed after a status of 200."""
    details = read_details(body)
    if details.status_code is None and details.codes & _REFUSED_CODES:
        return replace(details, status_code=400)
    return details


def failed_response(reply: Any) -> Any | None:
    """Return the error of an `error` event, of `response.failed`, or of a whole response that failed."""
    if not isinstance(reply, dict):
        return None
    fields = cast("dict[str, Any]", reply)
    inner: Any = fields.get("response") if fields.get("type") == "response.failed" else fields
    response = cast("dict[str, Any]", inner) if isinstance(inner, dict) else {}
    if error := reported_error(response):
        return error
    if fields.get("type") != "response.failed" and response.get("status") != "failed":
        return None
    return {"error": {"code": "server_error", "message": "the response failed, and the server gives no reason"}}


RESPONSES_ERRORS = ErrorFormat(
    key_variable=API_KEY_VARIABLE,
    not_found_hint="check the model's name and base_url, and whether the server has /responses.",
    field_hints={
        "Encrypted content is not supported": "`OpenAIResponsesModel(encrypted_reasoning=False)` does without it",
        "encrypted_content": "`OpenAIResponsesModel(encrypted_reasoning=False)` neither asks for it nor sends it",
        "model_not_found": "check the model's name and base_url",
        "allowed_tools": "`OpenAIResponsesModel(narrow_by_choice=False)` does without it",
        "reasoning.": "see `reasoning_effort` and `reasoning_summary` of `OpenAIResponsesModel`",
        "json_schema": "`profile=ModelProfile(native_output=False)` puts the schema into the prompt",
        "parallel_tool_calls": "`profile=ModelProfile(parallel_tool_calls=False)` does without it",
        "temperature": "models that reason take none; leave it out of the settings",
        "top_p": "models that reason take none; leave it out of the settings",
    },
    read_details=responses_error_details,
    reported_error=failed_response,
)


class OpenAIResponsesModel(HTTPModel):
    """A model behind OpenAI's Responses API, or a server that imitates it; serves concurrent requests.

    Thinking is set by `reasoning_effort`, or for one agent or run by the field `reasoning` of
    `ModelSettings.extra_body`. Its summary, if requested, is the content of `ThinkingPart`s; the reasoning itself
    comes and returns encrypted.
    """

    key_variables = (API_KEY_VARIABLE,)
    errors = RESPONSES_ERRORS

    def __init__(
        self,
        model_name: str,
        *,
        base_url: str = OPENAI_URL,
        settings: ModelSettings = ModelSettings(),
        profile: ModelProfile | None = None,
        reasoning_effort: str | None = None,
        reasoning_summary: ReasoningSummary | None = None,
        encrypted_reasoning: bool | None = None,
        narrow_by_choice: bool | None = None,
        **options: Unpack[HTTPOptions],
    ) -> None:
        """Configure the model; nothing is opened or imported yet.

        Args:
            model_name: The name of the model, or of an Azure deployment.
            base_url: The address before `/responses`, without credentials or a query.
            settings: Defaults that a request's own settings override. The API takes no `top_k`, `min_p` and
                `seed`, and models that reason no `temperature` and `top_p` unless the effort is "none": these are
                left out, and that is logged once.
            profile: Capabilities of the model; by default those of the table of known models.
            reasoning_effort: "none", "minimal", "low", "medium", "high", "xhigh" or "max", as the model takes it.
            reasoning_summary: Ask for a readable summary of the reasoning.
            encrypted_reasoning: Ask for encrypted reasoning and send it back. Default: ask if the model is known
                to reason and the server is OpenAI's, because others refuse that; send back what was received.
            narrow_by_choice: Send all tools, and in `tool_choice` those that may be called now, so that the
                prompt cache holds. Default: at OpenAI; elsewhere only the tools that may be called are sent.
            options: Key, headers, timeouts (ten minutes by default), retries and the HTTP client; see
                `HTTPOptions`. The key is sent as a bearer token. Default: OPENAI_API_KEY.

        Raises:
            UserError: the address, the key or a header cannot be used.
        """
        known = capabilities_of("openai", model_name)
        options.setdefault("timeout_s", THINKING_TIMEOUT_S)
        options.setdefault("idle_timeout_s", THINKING_TIMEOUT_S)
        profile = profile or _profile_of(known)
        super().__init__(model_name, base_url=base_url, settings=settings, profile=profile, **options)
        is_openai = _is_openai(self._base_url)
        reasons = _reasons(known) if is_openai else None
        encrypted = reasons if encrypted_reasoning is None else encrypted_reasoning
        self._options = ResponsesOptions(
            reasoning_effort=reasoning_effort,
            reasoning_summary=reasoning_summary,
            includes_encrypted=encrypted is True,
            narrows_by_choice=is_openai if narrow_by_choice is None else narrow_by_choice,
        )
        self._refused = RefusedThoughts()
        self._accepts_sampling = known is None or known.sampling
        inputs = self._profile.inputs
        self._reader = Reader(
            self.provider,
            urlsplit(self._base_url).hostname or "",
            reads_encrypted=encrypted is not False,
            kinds=SENDABLE_KINDS if inputs is None else SENDABLE_KINDS & inputs,
        )

    @property
    def provider(self) -> str:
        """The provider that the address belongs to; "openai" if it is not known."""
        return provider_of(self._base_url)

    async def request(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        *,
        on_delta: OnDelta | None = None,
    ) -> ModelResponse:
        """Continue `messages`; raises like `HTTPModel.request`.

        If the server cannot read its earlier reasoning again, for example because the key belongs to another
        organisation now, the request is sent once more without it, and so are later ones.
        """
        messages = self._refused.removed_from(messages)
        heard = HeldDeltas(on_delta, hold=False)
        listener = None if on_delta is None else heard.push
        try:
            return await super().request(messages, parameters, on_delta=listener)
        except ModelHTTPError as error:
            if (
                heard.delivered
                or error.status_code not in (400, 404)
                or not _UNREADABLE_REASONING.search(error.body)
            ):
                raise
        self._refused.add_all_of(messages)
        return await super().request(self._refused.removed_from(messages), parameters, on_delta=listener)

    def _path(self, *, stream: bool) -> str:
        return "/responses"

    def _body(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        settings: ModelSettings,
        *,
        stream: bool,
    ) -> dict[str, Any]:
        return responses_body(
            self._model_name,
            messages,
            parameters,
            settings=settings,
            profile=self._profile,
            options=self._options,
            reader=self._reader,
            stream=stream,
        )

    def _left_out(self, settings: ModelSettings) -> Collection[str]:
        given: Any = settings.extra_body.get("reasoning")
        effort = cast("Mapping[str, Any]", given).get("effort") if isinstance(given, Mapping) else None
        if self._accepts_sampling or (effort or self._options.reasoning_effort) == "none":
            return _UNKNOWN_SETTINGS
        return (*_UNKNOWN_SETTINGS, "temperature", "top_p")

    def _new_reply(
        self, messages: Sequence[ModelMessage], parameters: ModelRequestParameters
    ) -> ResponsesReplyBuilder:
        return ResponsesReplyBuilder(self._reader.provider, self._reader.server, used_call_ids(messages))


def _profile_of(known: ModelCapabilities | None) -> ModelProfile:
    if known is None:
        return ModelProfile(native_output=True, inputs=SENDABLE_KINDS)
    reads: dict[FileKind, bool] = {"image": known.image_input, "document": known.document_input}
    return known.profile(inputs=frozenset(kind for kind in SENDABLE_KINDS if reads.get(kind)))


def _reasons(known: ModelCapabilities | None) -> bool | None:
    """Return whether a model reasons; None if it is not known."""
    return None if known is None else known.thinking != "none"


def _is_openai(base_url: str) -> bool:
    """Return whether the server is OpenAI's own, or Azure's of the same models."""
    host = urlsplit(base_url).hostname or ""
    return host == OPENAI_HOST or host.endswith(f".{OPENAI_HOST}") or provider_of(base_url) == "azure.ai.openai"
