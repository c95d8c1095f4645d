"""Step `repair_text`: repairs text decoded in the wrong charset with ftfy.

Speer, ftfy (doi 10.5281/zenodo.2591652). As in datatrove's FTFYFormatter, repairs that change style are disabled:
quotes, ligatures and character widths stay. Entities stay too, because a page about HTML contains them on purpose.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from mcp_servers.distribution import install_command
from modelstack.data.documents import Document, Step
from modelstack.errors import UserError


class RepairText(BaseModel, frozen=True, extra="forbid"):
    """Repairs the encoding of a text; drops nothing. `metadata["repaired_lines"]` counts changed lines."""

    kind: Literal["repair_text"] = "repair_text"
    max_line_characters: int = Field(default=20_000, ge=1)
    """Maximum characters of a repaired line.

    Prose has no longer lines, and ftfy tries several decodings of each.
    """

    def build(self) -> Step:
        """Return the step.

        Raises:
            UserError: ftfy is not installed.
        """
        try:
            from ftfy import TextFixerConfig, fix_text_segment
        except ImportError as error:
            raise UserError(f"step 'repair_text' needs ftfy: {install_command('data')}") from error
        config = TextFixerConfig(
            unescape_html=False,
            fix_latin_ligatures=False,
            fix_character_width=False,
            uncurl_quotes=False,
            fix_line_breaks=False,
            normalization=None,
            explain=False,
        )

        def step(document: Document) -> str | None:
            if document.text.isascii():
                return None  # ASCII text contains no mojibake.
            lines = document.text.split("\n")
            n_changed = 0
            for i, line in enumerate(lines):
                if line.isascii() or len(line) > self.max_line_characters:
                    continue
                repaired = fix_text_segment(line, config)
                if repaired != line:
                    lines[i] = repaired
                    n_changed += 1
            if n_changed:
                document.text = "\n".join(lines)
                document.metadata["repaired_lines"] = n_changed
            return None

        return step
