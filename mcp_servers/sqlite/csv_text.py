r"""Rows as CSV (RFC 4180), and allowed file names: pure rules without I/O or MCP.

Lines end in \r\n; a field with a comma, quote or line end is quoted, quotes doubled. NULL is an empty field and
the empty text is `""`, as in PostgreSQL's COPY; blobs are hexadecimal.

A text that begins like a formula may be run by a spreadsheet that opens the file (CWE-1236). It is written
unchanged, and counted: an export contains what the database holds. A leading quote mark would change "-5" and "+49
30 1" for every program that reads the file as data, and would not stop all spreadsheets. A user who is warned can
import the columns as text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mcp_servers.failures import ToolFailure

# OWASP's list, "CSV Injection"; the last four are full-width forms that some spreadsheets accept.
FORMULA_STARTS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
MAX_FILE_NAME_BYTES = 100
# An allow-list: no folders, no hidden files, no drive letters or streams (`:`), nothing that a shell expands.
_FILE_NAME = re.compile(r"\w[\w .-]*\.csv", re.IGNORECASE)
_NEEDS_QUOTES = re.compile(r'[",\r\n]')


def csv_line(values: Sequence[object]) -> str:
    """Return one record with its line end."""
    # A record of one empty field would be an empty line, which readers skip.
    if len(values) == 1 and values[0] is None:
        return '""\r\n'
    return ",".join(map(csv_field, values)) + "\r\n"


def csv_field(value: object) -> str:
    """Return one field."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.hex()
    text = str(value)
    return text if text and not _NEEDS_QUOTES.search(text) else '"' + text.replace('"', '""') + '"'


def count_formulas(values: Sequence[object]) -> int:
    """Return how many values a spreadsheet may treat as formulas; only texts count."""
    return sum(1 for value in values if isinstance(value, str) and value.startswith(FORMULA_STARTS))


def check_file_name(name: str) -> str:
    """Return the name of a new file.

    Raises:
        ToolFailure: It is not a plain name that ends in `.csv`.
    """
    if not _FILE_NAME.fullmatch(name) or len(name.encode("utf-8", "replace")) > MAX_FILE_NAME_BYTES:
        raise ToolFailure(
            f"The file name {name[:MAX_FILE_NAME_BYTES]!r} is not allowed. Use letters, digits, '-' and '_', "
            "and end with .csv, like 'orders-2026.csv'; no folders."
        )
    return name
