"""Errors that clients see, in the form of OpenAI's API and of Anthropic's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelstack.errors import UserError
from modelstack.inference.embedding import NoEmbeddingsError
from modelstack.inference.engine import ContextWindowError, EngineError

_ANTHROPIC_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


@dataclass(eq=False)
class ApiError(Exception):
    """A request that is not answered; `message` names the value, the rule and the fix."""

    status: int
    message: str
    param: str | None = None
    """Field of the request."""
    code: str | None = None

    def as_openai(self) -> dict[str, Any]:
        """Return the body of OpenAI's API."""
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        return {
            "error": {
                "message": self.message,
                "type": "rate_limit_error" if self.status == 429 else kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def as_anthropic(self) -> dict[str, Any]:
        """Return the body of Anthropic's API."""
        where = "" if self.param is None else f"{self.param}: "
        kind = _ANTHROPIC_KINDS.get(self.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": where + self.message}}

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the response."""
        if self.status in (429, 503):
            return {"Retry-After": "1"}
        return {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}


def api_error(error: BaseException) -> ApiError:
    """Return the error that a client sees for one of the model's; others show no detail."""
    match error:
        case ApiError():
            return error
        case ContextWindowError():
            return ApiError(400, str(error), "messages", "context_length_exceeded")
        case NoEmbeddingsError():
            return ApiError(400, str(error), "model", "embeddings_not_supported")
        case UserError():
            return ApiError(400, str(error))
        case EngineError():
            return ApiError(503, f"the model could not answer: {error}")
        case TimeoutError():
            return ApiError(
                504, "the reply took longer than this server allows; ask for fewer tokens", None, "timeout"
            )
        case _:
            return ApiError(500, "the server failed; its log has the reason")
