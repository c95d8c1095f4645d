"""Requests written one by one, each with the calls that are right: the words that no template has.

A file in `written/` is a kit: some tools of one field, and requests of them. Values are implied by words, several
wishes stand in one message, and some wishes no tool of the kit fulfils. A large language model wrote them; scripts
checked every call against its schema and every date against the calendar, and samples were read.
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
    """A request with its right calls, or the question that it must be answered with."""

    kit: str
    ask: str
    tools: tuple[Tool, ...]
    """Tools of the kit that may be shown beside the request."""
    calls: tuple[Call, ...] = ()
    """Empty: no tool of `tools` fits, unless there is a `reply`."""
    reply: str | None = None
    """A question back, since a required value is missing."""
    today: date | None = None
    """The day of the request, where its words depend on one."""

    @property
    def called(self) -> frozenset[str]:
        """Names of the called tools."""
        return frozenset(call.name for call in self.calls)


@cache
def written_requests() -> tuple[WrittenRequest, ...]:
    """Return the requests of all kits, in the order of their files' names."""
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
