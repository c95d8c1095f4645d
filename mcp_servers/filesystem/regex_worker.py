"""Child process that runs regular expressions on text from its parent; it opens no files.

`(a+)+$` needs 2^n steps on n letters a, and a nested counted repeat needs gigabytes to compile. The parent kills
this process at the deadline, and its memory limit ends a growing compile.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from mcp_servers.child import answer_requests
from mcp_servers.failures import ToolFailure


def matching_lines(request: dict[str, Any]) -> list[int]:
    """Return the numbers (from 1) of at most `limit` lines of `text` in which `pattern` is found.

    Raises:
        ToolFailure: The pattern is not a regular expression.
    """
    pattern = compile_pattern(request["pattern"], request["ignore_case"])
    found: list[int] = []
    for number, line in enumerate(request["text"].split("\n"), start=1):
        if len(found) == request["limit"]:
            break
        if pattern.search(line):
            found.append(number)
    return found


@lru_cache
def compile_pattern(text: str, ignore_case: bool) -> re.Pattern[str]:
    """Compile a regular expression.

    Raises:
        ToolFailure: The text is not a regular expression.
    """
    try:
        return re.compile(text, re.IGNORECASE if ignore_case else 0)
    except (re.error, OverflowError, RecursionError) as error:
        raise ToolFailure(
            f"The pattern is not a regular expression: {error}. Use regex=false to search for it as plain text."
        ) from error


def main() -> None:
    """Answer the parent's requests."""
    answer_requests(matching_lines)
