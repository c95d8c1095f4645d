"""Bodies of requests: read within a limit, parsed, and checked against a protocol's model.

Every field that a protocol has is either used, or refused by name: a field without effect would be a promise.
"""

from __future__ import annotations

import json
from typing import Any, Literal, TypeVar

import anyio
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect, Request

from modelstack.errors import reason_of
from modelstack.inference.engine import SamplingParams
from modelstack.inference.server.errors import ApiError
from modelstack.nesting import is_nested_deeper

DEEPEST = 200
"""Most nested brackets of a body; deeper ones are an attack on parsers of schemas."""
MOST_TOP_LOGPROBS = 20
"""OpenAI's limit of alternatives of a token."""


class Body(BaseModel):
    """Base of all parts of requests."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SampledBody(Body):
    """Fields of all requests for replies."""

    model: str
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    min_p: float = Field(default=0.0, ge=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stream: bool = False

    def sampling(self, temperature: float) -> SamplingParams:
        """Return the parameters of the request; `temperature` is that of requests that name none."""
        return SamplingParams(
            temperature=temperature if self.temperature is None else self.temperature,
            top_k=self.top_k,
            top_p=1.0 if self.top_p is None else self.top_p,
            min_p=self.min_p,
            seed=self.seed,
        )


class OpenAIBody(SampledBody):
    """Fields of both of OpenAI's requests for replies in conversations."""

    parallel_tool_calls: bool = True
    thinking_tokens: int | None = Field(default=None, ge=0)
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_TOP_LOGPROBS)
    store: Literal[False] | None = None
    # What describes the request to OpenAI's own service changes no reply.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    metadata: dict[str, str] | None = None
    service_tier: Literal["auto", "default"] | None = None

    def n_top_logprobs(self, asks: bool, asked_by: str) -> int | None:
        """Return the number of most probable tokens beside each token's log-probability; None: neither.

        Args:
            asks: Whether the request asks for log-probabilities.
            asked_by: Field and value that ask for them.

        Raises:
            ApiError: Alternatives are asked for without log-probabilities.
        """
        if self.top_logprobs and not asks:
            raise ApiError(
                400,
                f"top_logprobs={self.top_logprobs} belongs to log-probabilities, which this request does not ask "
                f"for: add {asked_by}, or leave top_logprobs out",
                "top_logprobs",
            )
        return (self.top_logprobs or 0) if asks else None


BodyT = TypeVar("BodyT", bound=BaseModel)


async def read_body(request: Request, model: type[BodyT], *, max_bytes: int, timeout_s: float) -> BodyT:
    """Return a request's JSON as `model`.

    Raises:
        ApiError: It is too large, too slow, not JSON in UTF-8, nested too deeply, or against the protocol.
    """
    content = await read_content(request, max_bytes=max_bytes, timeout_s=timeout_s)
    try:
        text = content.decode("utf-8")
        value: Any = json.loads(text, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8: byte {error.start} is {content[error.start]:#04x}") from error
    except RecursionError as error:
        raise ApiError(400, "the body is nested too deeply") from error
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from error
    if is_nested_deeper(value, DEEPEST):
        raise ApiError(400, f"the body is nested more than {DEEPEST} levels deep")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _explained(error) from error


async def read_content(request: Request, *, max_bytes: int, timeout_s: float) -> bytes:
    """Return the bytes of a request's body.

    Raises:
        ApiError: They are too many or too slow.
    """
    try:
        with anyio.fail_after(timeout_s):
            return await _bytes_of(request, max_bytes)
    except TimeoutError as error:
        raise ApiError(408, f"the body did not arrive within {timeout_s:g} s; send it at once") from error
    except ClientDisconnect as error:
        raise ApiError(400, "the client closed the connection before the body was complete") from error


async def _bytes_of(request: Request, max_bytes: int) -> bytes:
    length = request.headers.get("content-length", "")
    too_large = ApiError(413, f"the body is larger than the {max_bytes:,} bytes that this server reads")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > max_bytes:
            raise too_large
    return bytes(content)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _explained(error: ValidationError) -> ApiError:
    """Return the first fault with its field; of a union's faults the one of the most specific field."""
    fault = max(error.errors(include_url=False), key=lambda each: len(each["loc"]))
    path = ".".join(str(part) for part in fault["loc"] if not _is_type_name(part))
    if fault["type"] == "extra_forbidden":
        name = str(fault["loc"][-1])
        return ApiError(
            400, f"the field {name!r} is not known to this server; leave it out", path, "unknown_parameter"
        )
    given = repr(fault["input"])[:80]
    return ApiError(400, f"{reason_of(fault)} (given: {given})", path or None)


def _is_type_name(part: int | str) -> bool:
    """Whether a part of a fault's location is pydantic's name of a member of a union."""
    return isinstance(part, str) and (part[:1].isupper() or "[" in part or part in ("str", "int", "float", "bool"))
