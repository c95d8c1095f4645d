"""Turns the status and body of a server's error into a typed error that names the fix.

Context overflow is recognised by the codes and sentences of OpenAI (`context_length_exceeded`), llama.cpp
(`exceed_context_size_error`, llama.cpp#15780), vLLM, SGLang, TGI, LM Studio and Anthropic's endpoint, since
few agree on a code. Everything shown of a body is cut and cleared of the secrets that the request carried.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from agentkit.basics.well_formed import well_formed
from agentkit.errors import ContextWindowExceeded, ModelError, ModelHTTPError
from agentkit.models.retries import is_transient

MAX_SHOWN_CHARS = 2048
"""Characters of an error body that are shown; enough for any server's JSON, and for the head of an HTML page."""
MAX_LOCATION_CHARS = 200
MIN_SECRET_CHARS = 4
"""Characters of a secret. Shorter header values (a version, "1") are not secret and occur in ordinary text."""

_CONTEXT_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error", "context_window_exceeded"})
_CONTEXT_STATUSES = frozenset({400, 413, 422, 500})
"""Statuses of context overflow. TGI sends 422; llama.cpp sent 500 before it sent 400."""
_CONTEXT_MESSAGES = re.compile(
    r"maximum context length"
    r"|exceeds? (the )?(available |model'?s )*(context|maximum context)"
    r"|exceeds? the context"
    r"|exceed(s|ed)? context window"
    r"|longer than the (maximum model length|model's context length)"
    r"|too (long|large) (to fit into|for) (the )?model"
    r"|prompt is too long"
    r"|loaded with (a )?context length of only"
    r"|`inputs` tokens \+ `max_new_tokens` must be"
    r"|input length and `max_tokens` exceed context limit"
    r"|context size (has been )?exceeded",
    re.IGNORECASE,
)
_FIELD_HINTS = {
    "response_format": "`dialect=Dialect(output='json_object')` or `Dialect(output='prompt')` does without it",
    "json_schema": "`dialect=Dialect(output='json_object')` or `Dialect(output='prompt')` does without it",
    "max_tokens": "see `Dialect(max_tokens_field=...)`",
    "max_completion_tokens": "see `Dialect(max_tokens_field=...)`",
    "stream_options": "`dialect=Dialect(include_usage=False)` does without it",
    "parallel_tool_calls": "`profile=ModelProfile(parallel_tool_calls=False)` does without it",
    "logprobs": "`profile=ModelProfile(logprobs=False)` does without it",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Facts about a server that an error may show."""

    model_name: str
    base_url: str
    has_key: bool = False
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def clean(self, text: str, max_chars: int = MAX_SHOWN_CHARS) -> str:
        """Return `text` without the request's secrets, cut to `max_chars`."""
        for secret in sorted(self.secrets, key=len, reverse=True):
            if len(secret) >= MIN_SECRET_CHARS:
                text = text.replace(secret, "[secret]")
        return well_formed(text if len(text) <= max_chars else text[:max_chars] + " [cut]")


def status_error(
    endpoint: Endpoint, status_code: int, body: str, headers: Mapping[str, str] | None = None
) -> ModelError:
    """Return the error for a response with `status_code` outside 200 to 299; `headers` in lower case."""
    if 300 <= status_code < 400:
        return _redirect_error(endpoint, status_code, body, (headers or {}).get("location", ""))
    details = _error_details(body)
    said = endpoint.clean(details.message or _page_title(body) or body.strip())
    if _is_context_overflow(status_code, details.codes, details.message or body):
        return ContextWindowExceeded(f"{endpoint.model_name!r}: the conversation is too long: {said}")
    message = f"{endpoint.model_name!r} at {endpoint.base_url} answered {status_code}: {said or '(no text)'}"
    return ModelHTTPError(
        _with_hint(message, _hint(endpoint, status_code, body)),
        status_code=status_code,
        body=endpoint.clean(body),
        retryable=is_transient(status_code),
    )


def error_in_reply(endpoint: Endpoint, reply: Any) -> ModelError | None:
    """Return the error that a body or stream event with status 200 reports; None if it reports none."""
    if not isinstance(reply, dict):
        return None
    fields = cast("dict[str, Any]", reply)
    if not fields.get("error") and fields.get("object") != "error":
        return None
    return error_event(endpoint, json.dumps(fields, ensure_ascii=False))


def error_event(endpoint: Endpoint, text: str) -> ModelError:
    """Return the error that `text`, JSON or not, reports after a status of 200."""
    details = _error_details(text)
    said = endpoint.clean(details.message or text)
    if _is_context_overflow(400, details.codes, details.message or text):
        return ContextWindowExceeded(f"{endpoint.model_name!r}: the conversation is too long: {said}")
    status_code = details.status_code or 200
    return ModelHTTPError(
        f"{endpoint.model_name!r} at {endpoint.base_url} reported an error inside its reply: {said}",
        status_code=status_code,
        body=endpoint.clean(text),
        retryable=is_transient(status_code) or status_code == 200,
    )


@dataclass(frozen=True, slots=True)
class _Details:
    message: str = ""
    codes: frozenset[str] = frozenset()
    status_code: int | None = None


_STATUS_OF_TYPE = {
    "server_error": 500,
    "internal_server_error": 500,
    "internalservererror": 500,
    "api_error": 500,
    "overloaded_error": 529,
    "service_unavailable": 503,
    "unavailable_error": 503,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "timeout": 408,
}
"""Status of each error type, for streams that began with 200 and cannot send another status."""


def _error_details(body: str) -> _Details:
    """Read an `error` object (OpenAI) or string (Ollama, TGI), a flat object (vLLM), or a `detail` (FastAPI)."""
    try:
        parsed: Any = json.loads(body)
    except (ValueError, RecursionError):
        return _Details()
    if isinstance(parsed, list) and parsed:
        parsed = cast("list[Any]", parsed)[0]
    if not isinstance(parsed, dict):
        return _Details()
    fields = cast("dict[str, Any]", parsed)
    error: Any = fields.get("error", fields)
    if isinstance(error, str):
        return _Details(error, frozenset({str(fields.get("error_type", ""))}))
    if not isinstance(error, dict):
        return _Details()
    error = cast("dict[str, Any]", error)
    message: Any = error.get("message") or error.get("detail") or ""
    codes = frozenset(str(error.get(name, "")).lower() for name in ("code", "type"))
    numbers = [int(code) for code in codes if code.isascii() and code.isdigit() and len(code) == 3]
    known = [_STATUS_OF_TYPE[code] for code in sorted(codes) if code in _STATUS_OF_TYPE]
    status_code = next((number for number in [*numbers, *known] if 400 <= number < 600), None)
    return _Details(message if isinstance(message, str) else json.dumps(message), codes, status_code)


def _is_context_overflow(status_code: int, codes: frozenset[str], message: str) -> bool:
    if codes & _CONTEXT_CODES:
        return True
    return status_code in _CONTEXT_STATUSES and _CONTEXT_MESSAGES.search(message[:MAX_SHOWN_CHARS]) is not None


def _redirect_error(endpoint: Endpoint, status_code: int, body: str, location: str) -> ModelHTTPError:
    target = endpoint.clean(location, MAX_LOCATION_CHARS) or "nowhere"
    return ModelHTTPError(
        f"{endpoint.model_name!r} at {endpoint.base_url} redirects ({status_code}) to {target!r}. Redirects are "
        f"not followed, so that the key stays with its server: set base_url to the address that is meant.",
        status_code=status_code,
        body=endpoint.clean(body),
    )


def _hint(endpoint: Endpoint, status_code: int, body: str) -> str:
    if status_code in (401, 403):
        sent = "a key was sent" if endpoint.has_key else "no key was sent"
        return f"{sent}; give `api_key=` or set OPENAI_API_KEY (which is sent over https and to loopback only)."
    if status_code == 404:
        return "check the model's name and base_url, which mostly ends in /v1."
    if status_code == 413:
        return "the request's body is too large for the server or a proxy before it."
    if status_code in (400, 422):
        named = (f"the server names {name!r}: {hint}." for name, hint in _FIELD_HINTS.items() if name in body)
        return next(named, "")
    return ""


def _with_hint(message: str, hint: str) -> str:
    return f"{message.rstrip('.')}. Hint: {hint}" if hint else message


def _page_title(body: str) -> str:
    if not re.match(r"\s*(<!doctype html|<html)", body, re.IGNORECASE):
        return ""
    title = re.search(r"<title[^>]*>([^<]{1,200})", body, re.IGNORECASE)
    return f"an HTML page, {title.group(1).strip()!r}" if title else "an HTML page"
