"""Exact-match edits as a pure function: text in, text and diff out.

An edit identifies its place by the text it replaces, so it cannot hit a wrong line after the file has changed.
Overlapping matches ("aa" in "aaa") count as several, and an ambiguous edit is refused. The diff is built from the
replacements themselves, in linear time; difflib is quadratic on repetitive files.
"""

from __future__ import annotations

from dataclasses import dataclass

from mcp_servers.failures import ToolFailure, close_matches

# Lines compared by their beginnings for the hint "The nearest is line ...".
MAX_COMPARED_LINES = 2_000
MAX_SHOWN_LINE_CHARS = 200
MAX_SHOWN_PLACES = 5
MAX_DIFF_LINE_CHARS = 1_000


@dataclass(frozen=True)
class Edit:
    """The new text, the number of replacements, and a unified diff without context lines."""

    text: str
    replacements: int
    diff: str


def apply_edit(text: str, old: str, new: str, *, replace_all: bool, max_chars: int, max_diff_lines: int) -> Edit:
    """Replace `old` by `new` in `text`.

    Raises:
        ToolFailure: `old` is empty, equal to `new`, not in the text, or in several places without `replace_all`;
            its places overlap; or the new text would exceed `max_chars`, which is checked before it is built.
    """
    if not old:
        raise ToolFailure("old_text is empty. Give the exact text to replace, or use write_file for a new file.")
    if old == new:
        raise ToolFailure("old_text and new_text are the same; there is nothing to change.")
    starts = find_all(text, old, limit=None if replace_all else MAX_SHOWN_PLACES)
    if not starts:
        raise ToolFailure(_not_found(text, old))
    if len(starts) > 1 and not replace_all:
        raise ToolFailure(_ambiguous(text, starts))
    if any(later - earlier < len(old) for earlier, later in zip(starts, starts[1:], strict=False)):
        raise ToolFailure("The places of old_text overlap. Give a longer old_text that matches once.")
    n_chars = len(text) + len(starts) * (len(new) - len(old))
    if n_chars > max_chars:
        raise ToolFailure(f"The text would have {n_chars} characters; at most {max_chars} can be written.")
    return Edit(text.replace(old, new), len(starts), _diff(text, starts, old, new, max_diff_lines))


def find_all(text: str, wanted: str, limit: int | None) -> list[int]:
    """Return at most `limit` positions of `wanted`; without a limit, stop after the first overlapping one."""
    found: list[int] = []
    position = text.find(wanted)
    while position >= 0 and (limit is None or len(found) < limit):
        overlaps = bool(found) and position - found[-1] < len(wanted)
        found.append(position)
        if overlaps and limit is None:  # finding the others takes quadratic time, and overlaps are refused anyway
            break
        position = text.find(wanted, position + 1)
    return found


def _diff(text: str, starts: list[int], old: str, new: str, max_lines: int) -> str:
    """Return hunks for the lines that the replacements touch."""
    output: list[str] = []
    shift = 0  # lines added by earlier hunks
    for begin, end, places in _touched_lines(text, starts, len(old)):
        before = text[begin:end]
        after = _replace_at(text, begin, end, places, len(old), new)
        old_lines, new_lines = before.splitlines(), after.splitlines()
        number = text.count("\n", 0, begin) + 1
        output.append(f"@@ -{number},{len(old_lines)} +{number + shift},{len(new_lines)} @@")
        output += [_shown(f"-{line}") for line in old_lines] + [_shown(f"+{line}") for line in new_lines]
        shift += len(new_lines) - len(old_lines)
        if len(output) > max_lines:
            return "\n".join([*output[:max_lines], "... (diff cut)"])
    return "\n".join(output)


def _touched_lines(text: str, starts: list[int], length: int) -> list[tuple[int, int, list[int]]]:
    """Group replacements into line ranges `(begin, end, starts)`; touching ranges become one.

    Each character is read at most once, however many replacements are on one line.
    """
    ranges: list[tuple[int, int, list[int]]] = []
    begin = end = 0
    places: list[int] = []
    for start in starts:
        if not places or start >= end:  # starts a new line range
            if places:
                ranges.append((begin, end, places))
            begin = text.rfind("\n", end, start) + 1 or end
            places = []
        places.append(start)
        last = start + length - 1
        if last >= end:
            newline = text.find("\n", last)
            end = len(text) if newline < 0 else newline + 1
    return [*ranges, (begin, end, places)]


def _shown(line: str) -> str:
    return line if len(line) <= MAX_DIFF_LINE_CHARS else f"{line[:MAX_DIFF_LINE_CHARS]}... (line cut)"


def _replace_at(text: str, begin: int, end: int, places: list[int], length: int, new: str) -> str:
    pieces: list[str] = []
    position = begin
    for place in places:
        pieces += [text[position:place], new]
        position = place + length
    return "".join([*pieces, text[position:end]])


def _ambiguous(text: str, starts: list[int]) -> str:
    lines = ", ".join(str(text.count("\n", 0, start) + 1) for start in starts)
    more = " or more" if len(starts) == MAX_SHOWN_PLACES else ""
    return (
        f"old_text is in {len(starts)}{more} places (lines {lines}). "
        "Add the lines around it so that it matches once, or set replace_all=true."
    )


def _not_found(text: str, old: str) -> str:
    if "\r\n" in text and old.replace("\n", "\r\n") in text:
        return "old_text was not found: the file ends its lines with \\r\\n. Match within one line."
    lines = [line[:MAX_SHOWN_LINE_CHARS] for line in text.split("\n", MAX_COMPARED_LINES)[:MAX_COMPARED_LINES]]
    wanted = old.strip("\n").split("\n")[0][:MAX_SHOWN_LINE_CHARS]
    close = close_matches(wanted, lines, n=1)
    if not close:
        return "old_text was not found. Read the file and copy the text exactly."
    number = lines.index(close[0]) + 1
    return f"old_text was not found. The nearest is line {number}: {close[0]!r}"
