"""Reads Google's errors: a `google.rpc.Status` whose details may name a reason and the seconds to wait.

https://google.aip.dev/193 and `google/rpc/error_details.proto`. The API sends no `Retry-After` header; a rate
limit carries a `RetryInfo` instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

from agentkit.models.http.errors import ErrorDetails, ErrorFormat, read_details

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")
"""A `google.protobuf.Duration` in JSON."""
_STATUS_OF_CODE = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""HTTP status of each `google.rpc.Code`, for errors without a number."""


def read_status(body: Any) -> ErrorDetails:
    """Return the details of a `google.rpc.Status`; the parsed body may be of any type."""
    details = read_details(body)
    error = _status_object(body)
    name = error.get("status")
    code = name if isinstance(name, str) else ""
    reasons = {str(detail.get("reason", "")).lower() for detail in _error_details(error)}
    return replace(
        details,
        codes=details.codes | reasons | {code.lower()},
        status_code=details.status_code or _STATUS_OF_CODE.get(code),
        retry_after_s=_retry_delay_s(error),
    )


def _status_object(body: Any) -> dict[str, Any]:
    """Return the object below `error`; a streaming method wraps it into a list."""
    if isinstance(body, list) and body:
        body = cast("list[Any]", body)[0]
    error: Any = cast("dict[str, Any]", body).get("error") if isinstance(body, dict) else None
    return cast("dict[str, Any]", error) if isinstance(error, dict) else {}


def _error_details(error: dict[str, Any]) -> Iterator[dict[str, Any]]:
    details: Any = error.get("details")
    for detail in cast("list[Any]", details) if isinstance(details, list) else []:
        if isinstance(detail, dict):
            yield cast("dict[str, Any]", detail)


def _retry_delay_s(error: dict[str, Any]) -> float | None:
    for detail in _error_details(error):
        delay = detail.get("retryDelay")
        if isinstance(delay, str) and (found := _DURATION.fullmatch(delay)):
            return float(found.group(1))
    return None


STATUS_ERRORS = ErrorFormat(
    key_variable="GEMINI_API_KEY",
    not_found_hint="check the model's name, and base_url, which mostly ends in /v1beta.",
    field_hints={
        "API_KEY_INVALID": "give the right `api_key=`, or set GEMINI_API_KEY",
        "response mime type": "`dialect=GEMINI_2` puts the schema into the prompt while there are tools",
        "thought_signature": "`dialect=GEMINI_3` signs the calls of other models",
        "thinking_budget": "models before Gemini 3 take `thinking_tokens`, later ones `thinking_level`",
        "hinking level": "models before Gemini 3 take `thinking_tokens`, later ones `thinking_level`",
        "ultimodal function response": "`dialect=GEMINI_2` sends files after the results",
    },
    read_details=read_status,
)
"""Errors of the Gemini API, with the fixes that a caller has."""
