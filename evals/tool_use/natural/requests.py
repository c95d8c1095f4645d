"""The requests and their tools, read from requests.jsonl and tools.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, Literal

Half = Literal["validation", "report"]
"""What is chosen or fitted sees the validation half alone; the other half says what the choice is worth."""


@dataclass(frozen=True, slots=True)
class NaturalRequest:
    """A request with the calls that are right."""

    id: str
    kit: str
    """The field that its tools are from."""
    tools: tuple[Mapping[str, Any], ...]
    """Those shown: name, description, parameters."""
    request: str
    system: str
    """Which day it is, where that matters; else empty."""
    calls: tuple[Mapping[str, Any], ...]
    """Name and arguments; none: no tool fits."""
    allow: Mapping[str, Sequence[Any]] = field(default_factory=dict[str, Any])
    """Further values of a parameter that are as right."""


@cache
def natural_requests() -> tuple[NaturalRequest, ...]:
    """Return all requests, in the order of the file."""
    folder = files("evals.tool_use.natural")
    kits = json.loads(folder.joinpath("tools.json").read_text(encoding="utf-8"))
    lines = folder.joinpath("requests.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(_request(json.loads(line), kits) for line in lines)


def half_of(request: NaturalRequest) -> Half:
    """Return the half that a request belongs to, which follows from its id."""
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
