"""The text of a tool that a search reads: its source, the words of its name, its description and its parameters.

Whoever writes a definition can try to push it up. Each field is read as a set of words and up to a length, so
repeated words and long descriptions gain nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from agentkit.tools.definition import ToolDefinition

MAX_DESCRIPTION_CHARS = 400
"""Characters of a description that are read."""
MAX_PARAMETERS = 40
"""Parameters of a tool that are read."""
_MAX_SENTENCE_CHARS = 200
_MAX_PARAMETER_CHARS = 120
_BORDER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[\W_]+")
_SENTENCE_END = re.compile(r"(?<=[\w)\]])[.!?](?:\s|$)|\n")


@dataclass(frozen=True, slots=True)
class SearchedText:
    """Text of a tool, by field."""

    source: str
    """Words of the name of its toolset; empty if that says nothing."""
    name: str
    """Words of its name."""
    description: str
    parameters: str
    """Words of the names of its parameters."""
    parameter_descriptions: str

    @property
    def views(self) -> tuple[str, str, str]:
        """Texts for an embedding model: all of it, the first sentence of the description, the name."""
        label = f"{self.source}: {self.name}" if self.source else self.name
        sentence = _SENTENCE_END.split(self.description, maxsplit=1)[0][:_MAX_SENTENCE_CHARS]
        return f"{label}. {self.description}", sentence or self.name, f"{self.source} {self.name}".strip()


N_VIEWS = 3
"""Number of texts in `SearchedText.views`."""


def searched_text(definition: ToolDefinition, source: str) -> SearchedText:
    """Return the text of a tool from the toolset `source`."""
    parameters = dict(list(_properties(definition).items())[:MAX_PARAMETERS])
    described = (_description(value) for value in parameters.values())
    return SearchedText(
        source=separated(source),
        name=separated(definition.name),
        description=" ".join(definition.description[: 4 * MAX_DESCRIPTION_CHARS].split())[:MAX_DESCRIPTION_CHARS],
        parameters=" ".join(separated(name) for name in parameters),
        parameter_descriptions=" ".join(text[:_MAX_PARAMETER_CHARS] for text in described if text),
    )


def separated(name: str) -> str:
    """Return the words of an identifier, separated by spaces: `getHTTPPage_2` is "get HTTP Page 2"."""
    return " ".join(word for word in _BORDER.split(name) if word)


def _description(schema: Any) -> str:
    text = cast("Mapping[str, Any]", schema).get("description") if isinstance(schema, Mapping) else None
    return text if isinstance(text, str) else ""


def _properties(definition: ToolDefinition) -> Mapping[str, Any]:
    properties = definition.parameters_json_schema.get("properties")
    return cast("Mapping[str, Any]", properties) if isinstance(properties, Mapping) else {}
