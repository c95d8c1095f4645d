"""The tools and the requests of the measurement."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from agentkit.tools.function import FunctionToolset
from agentkit.tools.tool import Tool
from agentkit.tools.toolset import Toolset

FOLDER = Path(__file__).parent
REQUESTS, TUNING = "requests.tsv", "tuning_requests.tsv"


@dataclass(frozen=True, slots=True)
class Request:
    """A request and the tools that serve it, the expected one first."""

    text: str
    tools: tuple[str, ...]


def read_tools() -> list[dict[str, Any]]:
    """Return the rows of the 1,000 tools, those of a server beside each other."""
    with gzip.open(FOLDER / "tools.jsonl.gz", "rt", encoding="utf-8") as file:
        return sorted(map(json.loads, file), key=lambda row: (row["server"], row["name"]))


def read_requests(name: str = REQUESTS) -> list[Request]:
    """Return the requests of a file."""
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    return [Request(row[1], (row[0], *(name for name in "".join(row[2:]).split(",") if name))) for row in rows]


def as_toolsets(rows: Sequence[dict[str, Any]]) -> list[Toolset]:
    """Return one toolset for each server; the application would run the calls."""
    return [
        FunctionToolset(
            [Tool.external(row["name"], row["description"], row["parameters"]) for row in of_server], id=server
        )
        for server, of_server in groupby(rows, key=lambda row: row["server"])
    ]
