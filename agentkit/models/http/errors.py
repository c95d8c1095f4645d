"""Turns the status and body of a server's error into a typed error that names the fix.

Context overflow is recognised by the codes and sentences of OpenAI (`context_length_exceeded`), llama.cpp
(`exceed_context_size_error`, llama.cpp#15780), vLLM, SGLang, TGI, LM Studio, Anthropic and Gemini,
since few agree on a code. Everything shown of a body is cut and cleared of the secrets that the request carried.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
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
    r"|context size (has been )?exceeded"
    r"|input token count .{0,40}exceeds the maximum",
    re.IGNORECASE,
)
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
    "timeout_error": 504,
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
}
"""Status of each error type, for streams that began with 200 and cannot send another status."""


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """An error in a server's own terms."""

    message: str = ""
    codes: frozenset[str] = frozenset()
    """Codes and types that the server gives the error, in lower case."""
    status_code: int | None = None
    """HTTP status that the codes stand for, for errors inside a reply with status 200."""
    retry_after_s: float | None = None
    """Seconds that the body asks to wait; the header `Retry-After` takes precedence."""


def read_details(body: Any) -> ErrorDetails:
    """Read an `error` object (OpenAI, Anthropic) or string (Ollama, TGI), a flat object (vLLM), or a `detail`.

    `body` is parsed JSON of any type; `detail` is FastAPI's.
    """
    if isinstance(body, list) and body:
        body = cast("list[Any]", body)[0]
    if not isinstance(body, dict):
        return ErrorDetails()
    fields = cast("dict[str, Any]", body)
    error: Any = fields.get("error", fields)
    if isinstance(error, str):
        return ErrorDetails(error, frozenset({str(fields.get("error_type", "")).lower()}))
    if not isinstance(error, dict):
        return ErrorDetails()
    error = cast("dict[str, Any]", error)
    message: Any = error.get("message") or error.get("detail") or ""
    codes = frozenset(str(error.get(name, "")).lower() for name in ("code", "type"))
    numbers = [int(code) for code in codes if code.isascii() and code.isdigit() and len(code) == 3]
    known = [_STATUS_OF_TYPE[code] for code in sorted(codes) if code in _STATUS_OF_TYPE]
    status_code = next((number for number in [*numbers, *known] if 400 <= number < 600), None)
    return ErrorDetails(message if isinstance(message, str) else json.dumps(message), codes, status_code)


def reported_error(reply: Any) -> Any | None:
    """Return the error that a body or an event with status 200 reports, for `read_details`; None without one."""
    if not isinstance(reply, dict):
        return None
    fields = cast("dict[str, Any]", reply)
    is_error = bool(fields.get("error")) or "error" in (fields.get("object"), fields.get("type"))
    return fields if is_error else None


@dataclass(frozen=True, slots=True)
class ErrorFormat:
    """How a provider reports errors, and how to fix them."""

    key_variable: str
    """Environment variable of the key, for hints."""
    not_found_hint: str = "check the model's name and base_url."
    """Hint for status 404."""
    field_hints: Mapping[str, str] = field(default_factory=dict[str, str])
    """Hint for each field of the request that an error of status 400 or 422 may name."""
    read_details: Callable[[Any], ErrorDetails] = read_details
    """Reads the parsed JSON of an error body, or what `reported_error` returned."""
    reported_error: Callable[[Any], Any | None] = reported_error
    """Finds an error in the parsed JSON of a reply or an event with status 200."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Facts about a server that an error may show."""

    model_name: str
    base_url: str
    errors: ErrorFormat
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
    details = details_of(endpoint, body)
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
    """Return the error that the parsed body or stream event with status 200 reports; None if it reports none."""
    found = endpoint.errors.reported_error(reply)
    return None if found is None else error_event(endpoint, json.dumps(found, ensure_ascii=False))


def error_event(endpoint: Endpoint, text: str) -> ModelError:
    """Return the error that `text`, JSON or not, reports after a status of 200."""
    details = details_of(endpoint, text)
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


def details_of(endpoint: Endpoint, body: str) -> ErrorDetails:
    """Return the details of an error body; empty if it is not JSON."""
    try:
        parsed: Any = json.loads(body)
    except (ValueError, RecursionError):
        return ErrorDetails()
    return endpoint.errors.read_details(parsed)


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
        variable = endpoint.errors.key_variable
        return f"{sent}; give `api_key=` or set {variable} (which is sent over https and to loopback only)."
    if status_code == 404:
        return endpoint.errors.not_found_hint
    if status_code == 413:
        return "the request's body is too large for the server or a proxy before it."
    if status_code in (400, 422):
        hints = endpoint.errors.field_hints.items()
        named = (f"the server names {name!r}: {hint}." for name, hint in hints if name in body)
        return next(named, "")
    return ""


def _with_hint(message: str, hint: str) -> str:
    return f"{message.rstrip('.')}. Hint: {hint}" if hint else message


def _page_title(body: str) -> str:
    if not re.match(r"\s*(<!doctype html|<html)", body, re.IGNORECASE):
        return ""
    title = re.search(r"<title[^>]*>([^<]{1,200})", body, re.IGNORECASE)
    return f"an HTML page, {title.group(1).strip()!r}" if title else "an HTML page"
