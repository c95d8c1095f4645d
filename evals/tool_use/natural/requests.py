"""Loads the natural requests and their tools from requests.jsonl and tools.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, Literal

from modelstack.files import json_lines

Half = Literal["validation", "report"]
"""Half of the requests. Choices and fits use only the validation half; the report half measures their quality."""


@dataclass(frozen=True, slots=True)
class NaturalRequest:
    """A request with its correct calls."""

    id: str
    kit: str
    """The topic whose tools are offered."""
    tools: tuple[Mapping[str, Any], ...]
    """Offered tools: name, description, parameters."""
    request: str
    system: str
    """System prompt with the current date if the request depends on it, else empty."""
    calls: tuple[Mapping[str, Any], ...]
    """Correct calls (name and arguments); empty if no tool fits."""
    allow: Mapping[str, Sequence[Any]] = field(default_factory=dict[str, Any])
    """Additional correct values by parameter."""


@cache
def natural_requests() -> tuple[NaturalRequest, ...]:
    """Return all requests, in the order of the file."""
    folder = files("evals.tool_use.natural")
    kits = json.loads(folder.joinpath("tools.json").read_text(encoding="utf-8"))
    lines = json_lines(folder.joinpath("requests.jsonl"))
    return tuple(_request(json.loads(line), kits) for line in lines)


def half_of(request: NaturalRequest) -> Half:
    """Return the half of a request, determined by its id."""
    return "validation" if sha256(request.id.encode()).digest()[0] % 2 else "report"


def _request(row: Mapping[str, Any], kits: Mapping[str, Sequence[Mapping[str, Any]]]) -> NaturalRequest:
    by_name = {tool["name"]: tool for tool in kits[row["kit"]]}
    return NaturalRequest(
        id=row["id"],
        kit=row["kit"],
        tools=tuple(by_name[name] for name in row["tools"]),
        request=row["request"],
        system=row.get("system", ""),
        calls=tuple(row["calls"]),
        allow=row.get("allow", {}),
    )
