"""A document on its way from a raw file to a training shard.

Steps modify a document in place and return the reason for dropping it. Their findings go into its metadata, which
later rules and the report read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from modelstack.data.text_view import TextView


@dataclass(slots=True)
class Document:
    """A text with its origin."""

    id: str
    """Identifier of the record; unique, and the same on every reading of the file."""
    text: str = ""
    content: bytes = b""
    """Raw bytes as fetched; `extract` replaces them by `text`."""
    source: str = ""
    license: str = ""
    url: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Values that can be written as JSON."""
    _view: TextView | None = field(default=None, repr=False, compare=False)

    @property
    def view(self) -> TextView:
        """Words, lines and sentences of the text, computed once and shared by all rules."""
        if self._view is None or self._view.text is not self.text:
            self._view = TextView(self.text)
        return self._view


@dataclass(frozen=True, slots=True)
class Broken:
    """A record that could not be read; reading continues with the next record."""

    id: str
    reason: str
    """Short reason, identical for all records with the same defect, because reasons are counted."""
    detail: str = ""


Step = Callable[[Document], str | None]
"""Function that modifies a document in place and returns the reason to drop it, or None to keep it."""
