"""Terminal output of untrusted text: tool results, model text, names from servers.

Such text is never markup (it goes into `rich.text.Text`, not into a format string) and never reaches the terminal
with control characters: an escape sequence can move the cursor over what was shown, set the title, write to the
clipboard (OSC 52) or be answered as typed input; bidirectional controls show text in another order than it has
(CVE-2021-42574).
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from datetime import datetime
from functools import cache
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from agentkit.basics.hidden import strip_data

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from modelstack.terminal.tables import Table

_LINE_ENDS = re.compile("\r\n?|[\u2028\u2029]")


def clean(text: str) -> str:
    """Return `text` without anything that a terminal would act on; newlines and tabs stay."""
    return strip_data(_LINE_ENDS.sub("\n", text))[0]


def one_line(text: str, limit: int = 200) -> str:
    """Return `text` cleaned, on one line, cut to `limit` characters."""
    line = " ".join(clean(text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def plain(text: str, style: str = "") -> Text:
    """Return cleaned text for rich, without interpreting markup."""
    from rich.text import Text

    return Text(clean(text), style=style)


@cache
def _lenient_streams() -> None:
    """Print a question mark for a character that the terminal cannot encode, instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def local_time(seconds: float) -> str:
    """Return a time in seconds since 1970 as ISO 8601 in the local zone."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def minute_of(time: str) -> str:
    """Return the day and the minute of an ISO 8601 time."""
    return time[:16].replace("T", " ")


def count_of(n: int, what: str) -> str:
    """Return a number with its noun, in the plural if needed."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def print_tables(*tables: Table) -> None:
    """Print tables on standard output; their texts are cleaned."""
    from modelstack.terminal import tables as layout

    shown = [
        replace(table, title=clean(table.title), rows=[[_cleaned(value) for value in row] for row in table.rows])
        for table in tables
    ]
    layout.print_tables(output_console(), *shown)


def print_wrapped(console: Console, text: str, style: str = "", *, indent: str = "") -> None:
    """Print cleaned text: wrapped between words on a terminal, whole elsewhere.

    Args:
        console: Receives the text.
        text: A paragraph.
        style: Style of the text.
        indent: Indent of the second and further lines.
    """
    from modelstack.terminal import tables as layout

    layout.print_wrapped(console, clean(text), indent=indent, style=style)


def _cleaned(value: Any) -> Any:
    return clean(value) if isinstance(value, str) else value


def output_console() -> Console:
    """Return a console on standard output, for results."""
    return _console(stderr=False)


def notes_console() -> Console:
    """Return a console on standard error, for progress and notices."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    _lenient_streams()
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)
