"""Individually written requests with their correct calls, in wording that no template produces.

A file in `written/` is a kit: some tools of one field, with requests. Values are implied by the wording, one
message may contain several wishes, and some wishes are fulfilled by no tool of the kit. A large language model
wrote them. Scripts checked every call against its schema and every date against the calendar, and samples were
read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any

from modelstack.data.examples import Call, Tool


@dataclass(frozen=True, slots=True)
class WrittenRequest:
    """A request with its correct calls, or the clarifying question that must answer it."""

    kit: str
    ask: str
    tools: tuple[Tool, ...]
    """Tools of the kit that may be shown with the request."""
    calls: tuple[Call, ...] = ()
    """Correct calls; empty without a `reply`: no tool of `tools` fits."""
    reply: str | None = None
    """Clarifying question if a required value is missing."""
    today: date | None = None
    """Date of the request, if its wording depends on one."""

    @property
    def called(self) -> frozenset[str]:
        """Names of the called tools."""
        return frozenset(call.name for call in self.calls)


@cache
def written_requests() -> tuple[WrittenRequest, ...]:
    """Return the requests of all kits, in the order of their file names."""
    folder = files("modelstack.data.tools").joinpath("written")
    kits = sorted((file for file in folder.iterdir() if file.name.endswith(".json")), key=lambda file: file.name)
    return tuple(request for kit in kits for request in _requests(json.loads(kit.read_text(encoding="utf-8"))))


def _requests(kit: dict[str, Any]) -> Iterator[WrittenRequest]:
    tools = [Tool(**tool) for tool in kit["tools"]]
    for row in kit["requests"]:
        hidden = row.get("without", ())
        yield WrittenRequest(
            kit=kit["kit"],
            ask=row["ask"],
            tools=tuple(tool for tool in tools if tool.name not in hidden),
            calls=tuple(Call(name=name, arguments=arguments) for name, arguments in row.get("calls", ())),
            reply=row.get("reply"),
            today=date.fromisoformat(row["today"].split(", ")[-1]) if "today" in row else None,
        )
