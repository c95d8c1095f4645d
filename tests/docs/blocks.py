"""Code blocks of the documentation: where they are, and what the comment above one says of it.

A comment directly above a block changes how the block is tested:

- `<!-- not run: REASON -->`: needs a network, a GPU or hours; the names of commands in it are checked;
- `<!-- output varies: REASON -->`: run, and its output is not compared: a model writes it, or a clock;
- `<!-- exits N -->`: the last command ends with this status.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(
    r"(?:^ *<!-- (?P<mark>[^\n]*?) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>[\w+-]*)[^\n]*\n(?P<code>.*?)^(?P=indent)```",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced code block of a page."""

    page: Path
    line: int
    """Number of the line of the opening fence."""
    language: str
    code: str
    mark: str
    """Text of the comment directly above the block, or ""."""

    @property
    def is_run(self) -> bool:
        """Whether the block is run in a test."""
        return not self.mark.startswith("not run: ")

    @property
    def output_varies(self) -> bool:
        """Whether the block's output is not compared."""
        return self.mark.startswith("output varies: ")

    @property
    def exit_status(self) -> int:
        """Status with which the block's last command ends."""
        return int(self.mark.removeprefix("exits ")) if self.mark.startswith("exits ") else 0

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Return the code blocks of a page from top to bottom."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("indent")) + 1,
            found["language"],
            _unindented(found["code"], len(found["indent"])),
            found["mark"] or "",
        )
        for found in _FENCE.finditer(text)
    ]


def _unindented(code: str, by: int) -> str:
    return "".join(line[by:] if line[:by].isspace() else line for line in code.splitlines(keepends=True))
