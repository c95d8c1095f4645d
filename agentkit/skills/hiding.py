"""Text of a skill that a model reads and a person does not see: removed where nothing needs it, else named.

Hidden characters (zero width, direction, Unicode tags) are removed, and marks of chat templates are broken up.
HTML comments, invisible styles and text behind long runs of blanks can be legitimate in Markdown, so they stay.
`agentkit skills check` and `pin` name their lines: whoever accepts a skill has been told of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from agentkit.basics.hidden import strip_data
from modelstack.tokenizer.template_marks import without_marks

_MAX_LINES_NAMED = 5
_COMMENT = re.compile(r"<!--")
_STYLE = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|opacity\s*:\s*0(?:\.0+)?\s*[;\"']|font-size\s*:\s*0"
    r"|(?<![-\w])color\s*[:=]\s*[\"']?\s*(?:white\b|#fff(?:fff)?\b|transparent\b|rgba?\(\s*255\s*,\s*255\s*,\s*255)"
    r"|<[a-z][^>\n]{0,200}\shidden[\s>=]",
    re.IGNORECASE,
)
"""Styles that render text invisibly, such as white on white."""
_FAR = re.compile(r"^(?!\s*\|).*?[ \t\u00a0\u2000-\u200a\u3000]{80,}\S")
"""Text behind more blanks than a window is wide; rows of tables have such blanks, too."""


def cleaned(text: str) -> tuple[str, list[str]]:
    """Return text for a model, and descriptions of what was removed or broken up."""
    text, n_hidden = strip_data(text)
    text, n_marks = without_marks(text)
    found = [f"{n_hidden} hidden character{_s(n_hidden)} (zero width, tags, ...) removed"] if n_hidden else []
    if n_marks:
        found.append(f"{n_marks} control token{_s(n_marks)} of chat templates broken up")
    return text, found


def _s(n: int) -> str:
    return "" if n == 1 else "s"


def hiding_places(text: str) -> Iterator[str]:
    """Yield descriptions of text in Markdown that its rendered page does not show."""
    lines = text.split("\n")
    for what, pattern in (
        ("an HTML comment", _COMMENT),
        ("a style that hides text", _STYLE),
        ("text behind a long run of blanks", _FAR),
    ):
        numbers = [n for n, line in enumerate(lines, 1) if pattern.search(line)]
        if numbers:
            shown = ", ".join(map(str, numbers[:_MAX_LINES_NAMED]))
            more = f" and {len(numbers) - _MAX_LINES_NAMED} more" if len(numbers) > _MAX_LINES_NAMED else ""
            yield f"{what}, which a reader of the page does not see: line{_s(len(numbers))} {shown}{more}"
