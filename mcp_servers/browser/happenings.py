"""Events of the page that the model did not request, collected until the next result reports them.

Texts come from the page: they are shortened, on one line, without hidden characters.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mcp_servers.hidden import visible

MAX_QUOTED_CHARS = 300
# A page can open dialogs in a loop; a result reports this many events and counts the rest.
MAX_EVENTS = 10


def plain(text: str, max_chars: int = MAX_QUOTED_CHARS) -> str:
    """Return a page's text on one line."""
    flat = " ".join(visible(text[: 4 * max_chars]).split())
    return flat if len(flat) <= max_chars else f"{flat[:max_chars]}..."


def quoted(text: str) -> str:
    """Return a page's text in quotes, on one line."""
    return '"' + plain(text).replace('"', "'") + '"'


@dataclass
class Happenings:
    """Events in their order of occurrence."""

    events: list[str] = field(default_factory=list)
    more_events: int = 0
    console_errors: int = 0
    refused_documents: list[str] = field(default_factory=list)
    """URLs of other origins to which a frame or window was sent."""

    def tell(self, event: str) -> None:
        """Add an event."""
        if len(self.events) < MAX_EVENTS:
            self.events.append(event)
        else:
            self.more_events += 1

    def told(self) -> list[str]:
        """Return the events, and the number of further ones."""
        return [*self.events, *([f"and {self.more_events} more like these"] if self.more_events else [])]

    def refuse_document(self, url: str) -> None:
        """Add an address that was not loaded."""
        if len(self.refused_documents) < MAX_EVENTS:
            self.refused_documents.append(url)
        self.tell(f"not gone to, because it is not an allowed origin: {quoted(url)}")
