"""What happened to the page besides what was asked for, collected until the next result tells it.

Texts come from the page: they are shortened, on one line, without hidden characters.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mcp_servers.hidden import visible

MAX_QUOTED_CHARS = 300
# A page can open dialogs in a loop; what a result tells is cut to this, the rest is counted.
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
    """Events in the order in which they happened."""

    events: list[str] = field(default_factory=list)
    more_events: int = 0
    console_errors: int = 0
    refused_documents: list[str] = field(default_factory=list)
    """URLs of other origins that a frame or window was sent to."""

    def tell(self, event: str) -> None:
        """Add an event."""
        if len(self.events) < MAX_EVENTS:
            self.events.append(event)
        else:
            self.more_events += 1

    def told(self) -> list[str]:
        """Return the events, and how many more there were."""
        return [*self.events, *([f"and {self.more_events} more like these"] if self.more_events else [])]

    def refuse_document(self, url: str) -> None:
        """Add an address that was not gone to."""
        if len(self.refused_documents) < MAX_EVENTS:
            self.refused_documents.append(url)
        self.tell(f"not gone to, because it is not an allowed origin: {quoted(url)}")
