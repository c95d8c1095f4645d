"""Hints for the errors of the Messages API."""

from __future__ import annotations

from agentkit.models.http.errors import ErrorFormat

API_KEY_VARIABLE = "ANTHROPIC_API_KEY"
_SIMPLER = "use fewer or simpler schemas, `strict_tools=False`, or `profile=ModelProfile(native_output=False)`"

MESSAGES_ERRORS = ErrorFormat(
    key_variable=API_KEY_VARIABLE,
    not_found_hint="check the model's name, and that base_url goes without /v1.",
    field_hints={
        "compiled grammar": _SIMPLER,
        "too complex for compilation": _SIMPLER,
        "output_config.format": "`profile=ModelProfile(native_output=False)` does without it",
        "tools.": _SIMPLER,
        "cache_control": "`prompt_cache=None` does without it",
        "effort": "`effort=None` does without it",
        "thinking": "leave `thinking_tokens` out, or give the model's own form as extra_body={'thinking': {...}}",
    },
)
