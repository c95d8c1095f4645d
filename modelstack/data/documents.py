"""A document on its way from a raw file to a training shard.

Steps change a document where it stands and say why it is to be dropped; what they found out of it goes into its
metadata, from where rules that come later, and the report, read it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from modelstack.data.text_view import TextView


@dataclass(slots=True)
class Document:
    """A text, and where it is from."""

    id: str
    """Of the record in its file; the same whenever that is read, and no other document's."""
    text: str = ""
    content: bytes = b""
    """What was fetched, until `extract` has made a text of it."""
    source: str = ""
    license: str = ""
    url: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    """JSON."""
    _view: TextView | None = field(default=None, repr=False, compare=False)

    @property
    def view(self) -> TextView:
        """The text's words, lines and sentences, found once for all rules that read the same text."""
        if self._view is None or self._view.text is not self.text:
            self._view = TextView(self.text)
        return self._view


@dataclass(frozen=True, slots=True)
class Broken:
    """A record that could not be read; the ones after it are read all the same."""

    id: str
    reason: str
    """A few words that are the same for all records of the kind: they are counted."""
    detail: str = ""


Step = Callable[[Document], str | None]
"""Changes a document where it stands; returns the reason to drop it, None to keep it."""
