"""The written form of a tool's result, inside the texts of a chat template."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from modelstack.toolcalls.marks import Marks


@dataclass(frozen=True, slots=True)
class ResultForm:
    """The form of a result; by default the plain content."""

    opening: str = ""
    behind_name: str = ""
    """Text after the tool's name, which follows `opening`; empty: no name is written."""
    closing: str = ""
    is_json: bool = False
    """Whether the content is written as a JSON string."""

    def bound(self, marks: Marks) -> ResultForm:
        """Return this form with stand-ins for its special tokens."""
        opening, behind_name, closing = map(marks.bound, self.texts)
        return replace(self, opening=opening, behind_name=behind_name, closing=closing)

    @property
    def texts(self) -> tuple[str, str, str]:
        """The texts `opening`, `behind_name` and `closing`."""
        return self.opening, self.behind_name, self.closing

    def written(self, name: str, content: str) -> str:
        """Return a tool's result in this form."""
        lead = f"{self.opening}{name}{self.behind_name}" if self.behind_name else self.opening
        return lead + (json.dumps(content, ensure_ascii=False) if self.is_json else content) + self.closing
