"""The written form of a tool's result, inside the texts that a template puts around it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from modelstack.toolcalls.marks import Marks


@dataclass(frozen=True, slots=True)
class ResultForm:
    """How a result is written; by default as its content alone."""

    opening: str = ""
    behind_name: str = ""
    """Not empty: the tool's name stands behind `opening`, and this text behind the name."""
    closing: str = ""
    is_json: bool = False
    """Whether the content is written as a JSON string."""

    def bound(self, marks: Marks) -> ResultForm:
        """Return this form with stand-ins for its special tokens."""
        opening, behind_name, closing = map(marks.bound, self.texts)
        return replace(self, opening=opening, behind_name=behind_name, closing=closing)

    @property
    def texts(self) -> tuple[str, str, str]:
        """Texts of its own: `opening`, `behind_name` and `closing`."""
        return self.opening, self.behind_name, self.closing

    def written(self, name: str, content: str) -> str:
        """Return a tool's result."""
        lead = f"{self.opening}{name}{self.behind_name}" if self.behind_name else self.opening
        return lead + (json.dumps(content, ensure_ascii=False) if self.is_json else content) + self.closing
