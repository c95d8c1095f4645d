"""Unions told apart by one field, declared without importing pydantic.

Messages and events are plain dataclasses; pydantic reads them only where a conversation comes from JSON. So the
discriminator names itself here and becomes pydantic's own when a schema is built: `import agentkit` stays light.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema


@dataclass(frozen=True, slots=True)
class TaggedBy:
    """In `Annotated[A | B, TaggedBy("kind")]`: the literal field that tells which member a value is."""

    field: str

    def __get_pydantic_core_schema__(self, union: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Give pydantic its `Discriminator`."""
        from pydantic import Discriminator

        return handler.generate_schema(Annotated[union, Discriminator(self.field)])
