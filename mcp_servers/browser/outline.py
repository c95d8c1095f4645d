"""Converts Playwright's tree of a page to an outline for a model: fewer lines, short references, in pages.

Playwright writes one node a line, `- role "name" [state] [ref=e5]: text`, with a reference for every visible node.
Here only nodes that can be acted on keep a reference, with a number that is never reused, so a number from an old
outline cannot refer to something else in a new document. Text of the page is altered if it looks like a reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mcp_servers.hidden import visible

ACTED_ON = frozenset(
    [
        "button",
        "checkbox",
        "combobox",
        "link",
        "listbox",
        "menuitem",
        "menuitemcheckbox",
        "menuitemradio",
        "option",
        "radio",
        "scrollbar",
        "searchbox",
        "slider",
        "spinbutton",
        "switch",
        "tab",
        "textbox",
        "treeitem",
    ]
)
# Roles that are dropped without a name or text; their children move up.
SAYING_NOTHING = frozenset({"generic", "rowgroup"})
_NODE = re.compile(
    r'(?P<role>[a-z]+)(?P<name> "(?:[^"\\]|\\.)*")?(?P<states>(?: \[[^\]]*\])*)(?P<rest>:.*)?', re.DOTALL
)
_REFERENCE = re.compile(r" \[ref=(?P<ref>(?:f\d+)?e\d+)\]")
_POINTER = " [cursor=pointer]"
_LOOKS_LIKE_REFERENCE = re.compile(r"\[(ref=)?((?:f\d+)?e\d+)\]")
_INDENT = 2


@dataclass(frozen=True)
class Node:
    """A node that can be acted on."""

    page_ref: str
    """Playwright's reference."""
    what: str
    """Role and name, as shown to the model."""


Number = Callable[[Node], str]


def outline_lines(tree: str, number: Number, max_line_chars: int) -> list[str]:
    """Return the outline's lines; `number` returns the reference of each node that can be acted on."""
    lines: list[str] = []
    dropped: list[int] = []  # indents of dropped ancestors of the line
    for line in tree.split("\n"):
        indent = len(line) - len(line.lstrip(" "))
        while dropped and dropped[-1] >= indent:
            dropped.pop()
        text = _node_line(line.strip().removeprefix("- "), number)
        if text is None:
            dropped.append(indent)
            continue
        lines += _wrapped(text, " " * (indent - _INDENT * len(dropped)), max_line_chars)
    return lines


def page_of_lines(lines: Sequence[str], first: int, max_bytes: int) -> list[str]:
    """Return lines from number `first` on (from 1) that fit; at least one, if any is left."""
    page: list[str] = []
    size = 0
    for line in lines[first - 1 :]:
        size += len(line.encode()) + 1
        if page and size > max_bytes:
            break
        page.append(line)
    return page


def _node_line(text: str, number: Number) -> str | None:
    """Return a node as shown to the model; None if the line carries no information."""
    text = visible(_unquoted_key(text))
    match = _NODE.fullmatch(text)
    if match is None:
        return _harmless(text)
    role, name, states, rest = match["role"], match["name"] or "", match["states"], match["rest"] or ""
    ref = _REFERENCE.search(states)
    acted_on = role in ACTED_ON or _POINTER in states or (role == "generic" and name != "")
    shown_states = _REFERENCE.sub("", states).replace(_POINTER, "")
    what = f"{role}{_harmless(name)}"
    shown = f" [{number(Node(ref['ref'], what))}]" if ref is not None and acted_on else ""
    if role in SAYING_NOTHING and not name and not shown and rest in ("", ":"):
        return None
    return f"{what}{shown_states}{shown}{_harmless(rest)}"


def _unquoted_key(text: str) -> str:
    """Undo YAML's single quotes around the key."""
    match = re.match(r"'((?:[^']|'')*)'", text)
    return text if match is None else match[1].replace("''", "'") + text[match.end() :]


def _harmless(text: str) -> str:
    return _LOOKS_LIKE_REFERENCE.sub(r"(\2)", text)


def _wrapped(text: str, indent: str, max_chars: int) -> list[str]:
    pieces = [text[start : start + max_chars] for start in range(0, len(text), max_chars)] or [""]
    return [f"{indent}- {pieces[0]}", *(f"{indent}  {piece}" for piece in pieces[1:])]
