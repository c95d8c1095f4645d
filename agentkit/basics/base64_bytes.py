"""Bytes in JSON as base64, declared without importing pydantic."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema


@dataclass(frozen=True, slots=True)
class Base64:
    """Marker in `Annotated[bytes, Base64()]`; becomes a schema of pydantic when one is built.

    The alphabet is the URL-safe one (RFC 4648, section 5), as `pydantic_core.to_json(bytes_mode="base64")` writes.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Build the schema of both directions."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            _parsed,
            serialization=core_schema.plain_serializer_function_ser_schema(
                _written, return_schema=core_schema.str_schema(), when_used="json"
            ),
        )


def size_text(n_bytes: int) -> str:
    """Return a size in words, without floats: a server may state a number too large for one."""
    return f"{n_bytes:,} bytes" if n_bytes < 10_000 else f"{n_bytes // 1000:,} kB"


def _written(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def _parsed(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("expected base64")
    try:
        return base64.b64decode(value, altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None
