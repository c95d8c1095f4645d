"""Hints for the errors of chat completions."""

from __future__ import annotations

from agentkit.models.http.errors import ErrorFormat

API_KEY_VARIABLE = "OPENAI_API_KEY"

CHAT_ERRORS = ErrorFormat(
    key_variable=API_KEY_VARIABLE,
    not_found_hint="check the model's name and base_url, which mostly ends in /v1.",
    field_hints={
        "response_format": "`dialect=Dialect(output='json_object')` or `Dialect(output='prompt')` does without it",
        "json_schema": "`dialect=Dialect(output='json_object')` or `Dialect(output='prompt')` does without it",
        "max_tokens": "see `Dialect(max_tokens_field=...)`",
        "max_completion_tokens": "see `Dialect(max_tokens_field=...)`",
        "stream_options": "`dialect=Dialect(include_usage=False)` does without it",
        "parallel_tool_calls": "`profile=ModelProfile(parallel_tool_calls=False)` does without it",
        "logprobs": "`profile=ModelProfile(logprobs=False)` does without it",
    },
)
