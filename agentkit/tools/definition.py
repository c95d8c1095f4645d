"""Definition of a tool, as a model is told it. Annotations are the MCP hints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ToolAnnotations:
    """MCP's hints about a tool's effects; None if unspecified."""

    title: str | None = None
    read_only: bool | None = None
    destructive: bool | None = None
    idempotent: bool | None = None
    open_world: bool | None = None


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """Part of a tool that is sent to a model."""

    name: str
    description: str
    parameters_json_schema: Mapping[str, Any] = field(
        default_factory=lambda: {"type": "object", "properties": {}, "additionalProperties": False}
    )
    output_json_schema: Mapping[str, Any] | None = None
    annotations: ToolAnnotations = ToolAnnotations()
    warnings: tuple[str, ...] = ()
    """Removed or unenforced parts of this definition, described for people; never sent to a model."""
