"""Discriminated unions, declared without importing pydantic.

Messages and events are plain dataclasses; pydantic is needed only to parse a conversation from JSON. So the marker
here becomes pydantic's `Discriminator` only when a schema is built, and `import agentkit` stays light.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema


@dataclass(frozen=True, slots=True)
class TaggedBy:
    """Marker in `Annotated[A | B, TaggedBy("kind")]`: names the literal field that distinguishes the members."""

    field: str

    def __get_pydantic_core_schema__(self, union: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Build the schema with pydantic's `Discriminator`."""
        from pydantic import Discriminator

        return handler.generate_schema(Annotated[union, Discriminator(self.field)])
