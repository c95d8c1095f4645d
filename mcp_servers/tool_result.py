"""Result of a tool in two forms, apart from the MCP classes, which take a second to import.

A program that uses a server's functions without its protocol, such as an agent's workspace, needs only this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import mcp_types as types


class ToolResult(BaseModel, ABC):
    """Result of a tool: fields for programs, `as_text` for the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @abstractmethod
    def as_text(self) -> str:
        """Return the text that the model reads."""

    def as_content(self) -> list[types.ContentBlock]:
        """Return the content blocks for the model: the text, unless a subclass adds others (an image)."""
        import mcp_types as types

        return [types.TextContent(type="text", text=self.as_text())]
