"""Turning Playwright's tree of a page into an outline for a model: fewer lines, short references, pages of it.

Playwright writes one node a line, `- role "name" [state] [ref=e5]: text`, and a reference for everything that can
be seen. Here a reference is kept where there is something to act on, with a number that is never used again, so
that a number from an old outline cannot mean something else in a new document. What the page itself says never
looks like a reference.
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
# Left out where they have neither name nor text; what is in them moves up.
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
    """Something that can be acted on."""

    page_ref: str
    """The reference that Playwright knows."""
    what: str
    """Role and name, as the model sees them."""


Number = Callable[[Node], str]


def outline_lines(tree: str, number: Number, max_line_chars: int) -> list[str]:
    """Return the outline's lines; `number` gives each node that can be acted on its reference."""
    lines: list[str] = []
    dropped: list[int] = []  # indents of the nodes left out, around the line
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
    """Return lines from number `first` on (from 1) that fit; always at least one, if there is one."""
    page: list[str] = []
    size = 0
    for line in lines[first - 1 :]:
        size += len(line.encode()) + 1
        if page and size > max_bytes:
            break
        page.append(line)
    return page


def _node_line(text: str, number: Number) -> str | None:
    """Return a node as the model sees it; None where the line says nothing."""
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
    """Undo YAML's single quotes around what stands before the colon."""
    match = re.match(r"'((?:[^']|'')*)'", text)
    return text if match is None else match[1].replace("''", "'") + text[match.end() :]


def _harmless(text: str) -> str:
    return _LOOKS_LIKE_REFERENCE.sub(r"(\2)", text)


def _wrapped(text: str, indent: str, max_chars: int) -> list[str]:
    pieces = [text[start : start + max_chars] for start in range(0, len(text), max_chars)] or [""]
    return [f"{indent}- {pieces[0]}", *(f"{indent}  {piece}" for piece in pieces[1:])]
