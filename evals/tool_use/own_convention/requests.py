"""Twenty requests that each need one call of one of four tools, with the correct call.

They are easy on purpose: they show whether a model calls at all in a convention, not how well it chooses. Written
for this suite; not used for training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentkit.tools.definition import ToolDefinition


@dataclass(frozen=True, slots=True)
class Request:
    """A request and its correct call."""

    text: str
    tool: str
    arguments: Mapping[str, Any]
    """Each entry is the correct value, compared without case if it is text."""


def _tool(name: str, description: str, **properties: dict[str, Any]) -> ToolDefinition:
    required = [key for key, schema in properties.items() if not schema.pop("optional", False)]
    return ToolDefinition(name, description, {"type": "object", "properties": properties, "required": required})


_TEXT, _NUMBER = {"type": "string"}, {"type": "number"}
TOOLS = (
    _tool(
        "get_weather",
        "Get the current weather of a city.",
        city={**_TEXT, "description": "Name of the city"},
        unit={"type": "string", "enum": ["celsius", "fahrenheit"], "optional": True},
    ),
    _tool(
        "add_event",
        "Add an event to the calendar.",
        title={**_TEXT, "description": "What the event is called"},
        date={**_TEXT, "description": "Date as YYYY-MM-DD"},
    ),
    _tool(
        "convert_currency",
        "Convert an amount of money from one currency to another.",
        amount=_NUMBER | {"description": "Amount of money"},
        source={**_TEXT, "description": "Three-letter code of the currency that is given"},
        target={**_TEXT, "description": "Three-letter code of the currency that is wanted"},
    ),
    _tool("read_file", "Read a text file.", path={**_TEXT, "description": "Path of the file"}),
)
REQUESTS = (
    Request("What is the weather in Paris?", "get_weather", {"city": "Paris"}),
    Request("How warm is it in Oslo right now?", "get_weather", {"city": "Oslo"}),
    Request("Tell me the weather of Lima in fahrenheit.", "get_weather", {"city": "Lima", "unit": "fahrenheit"}),
    Request("Is it raining in Dublin?", "get_weather", {"city": "Dublin"}),
    Request("Check the current weather for Nairobi, please.", "get_weather", {"city": "Nairobi"}),
    Request("Add an event called Lunch on 2025-03-04.", "add_event", {"title": "Lunch", "date": "2025-03-04"}),
    Request(
        'Put "Dentist" into my calendar for 2025-11-20.', "add_event", {"title": "Dentist", "date": "2025-11-20"}
    ),
    Request(
        "Create a calendar event: Team meeting, 2026-01-15.",
        "add_event",
        {"title": "Team meeting", "date": "2026-01-15"},
    ),
    Request("Schedule Yoga for 2025-06-01.", "add_event", {"title": "Yoga", "date": "2025-06-01"}),
    Request(
        "My calendar needs an event named Birthday on 2025-09-30.",
        "add_event",
        {"title": "Birthday", "date": "2025-09-30"},
    ),
    Request("Convert 100 USD to EUR.", "convert_currency", {"amount": 100, "source": "USD", "target": "EUR"}),
    Request("How much is 250 GBP in JPY?", "convert_currency", {"amount": 250, "source": "GBP", "target": "JPY"}),
    Request(
        "I have 42.5 CHF. What is that in USD?",
        "convert_currency",
        {"amount": 42.5, "source": "CHF", "target": "USD"},
    ),
    Request(
        "Please exchange 75 EUR into SEK.", "convert_currency", {"amount": 75, "source": "EUR", "target": "SEK"}
    ),
    Request("9 INR in CAD, please.", "convert_currency", {"amount": 9, "source": "INR", "target": "CAD"}),
    Request("Read the file notes.txt.", "read_file", {"path": "notes.txt"}),
    Request("Show me what is in /etc/hosts.", "read_file", {"path": "/etc/hosts"}),
    Request("Open docs/readme.md and tell me what it says.", "read_file", {"path": "docs/readme.md"}),
    Request("What does config.yaml contain?", "read_file", {"path": "config.yaml"}),
    Request("Print the contents of src/main.py.", "read_file", {"path": "src/main.py"}),
)


def is_right(request: Request, tool: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether a call is correct; an additional optional parameter is accepted."""
    return tool == request.tool and all(
        _folded(arguments.get(key)) == _folded(value) for key, value in request.arguments.items()
    )


def _folded(value: Any) -> Any:
    return value.strip().casefold() if isinstance(value, str) else value
