"""SPDX licence expressions: their identifiers, and whether an allow list covers them.

`A OR B` is allowed if one of them is, `A AND B` if both are. An exception (`WITH`) only grants more rights, so it
is ignored. Grammar: SPDX 2.3, annex D.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

TABLE = Path(__file__).with_name("licenses.toml")
Category = Literal["permissive", "copyleft", "restricted", "unknown"]
_TOKEN = re.compile(r"[()]|[A-Za-z0-9][A-Za-z0-9.+:-]*")
_OPERATORS = {"and": "AND", "or": "OR", "with": "WITH"}
_MAX_TOKENS = 200
_MAX_DEPTH = 20


@dataclass(frozen=True, slots=True)
class Node:
    """Tree of an expression: a single id (`operator` is ""), or several expressions under AND or OR."""

    operator: str
    name: str = ""
    parts: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class _Table:
    categories: dict[str, Category]
    ids: dict[str, str]
    names: dict[str, str]


def category_of(license_id: str) -> Category:
    """Return the category of a licence; "unknown" if the table does not contain it."""
    table = _table()
    return table.categories.get(table.ids.get(license_id.removesuffix("+").lower(), ""), "unknown")


def known_id(name: str) -> str | None:
    """Return the SPDX id for an informal licence name ("MIT License", "Apache 2.0"), or None if unknown."""
    table = _table()
    stripped = name.strip()
    if found := table.ids.get(stripped.lower()) or table.ids.get(stripped.lower().removesuffix("+")):
        return found
    words = re.findall(r"[a-z0-9]+\+?", stripped.lower())
    return table.names.get(" ".join(word for word in words if word not in ("the", "license", "licence", "s")))


def parse(expression: str) -> Node | None:
    """Return the tree of an expression, or None if it is invalid."""
    if name := known_id(expression):
        return Node("", name)
    tokens = _TOKEN.findall(expression)
    if not tokens or len(tokens) > _MAX_TOKENS or _TOKEN.sub("", expression).strip():
        return None
    try:
        node, rest = _either(tokens, 0, 0)
    except _NotAnExpression:
        return None
    return node if rest == len(tokens) else None


def ids_of(node: Node) -> frozenset[str]:
    """Return all ids in an expression."""
    return frozenset({node.name}) if not node.operator else frozenset().union(*map(ids_of, node.parts))


def is_allowed(node: Node, allow: Collection[str]) -> bool:
    """Whether a list of ids and categories covers an expression."""
    if node.operator == "OR":
        return any(is_allowed(part, allow) for part in node.parts)
    if node.operator == "AND":
        return all(is_allowed(part, allow) for part in node.parts)
    return node.name in allow or category_of(node.name) in allow


def written(node: Node) -> str:
    """Return an expression in SPDX notation."""
    pieces = [
        f"({written(part)})" if part.operator and node.operator == "AND" else written(part) for part in node.parts
    ]
    return f" {node.operator} ".join(pieces) if node.operator else node.name


def joined(operator: Literal["AND", "OR"], nodes: Collection[Node]) -> Node | None:
    """Return the distinct expressions joined by an operator; None if there are none."""
    parts = tuple(dict.fromkeys(nodes))
    return Node(operator, parts=parts) if len(parts) > 1 else parts[0] if parts else None


class _NotAnExpression(Exception):
    pass


def _either(tokens: list[str], at: int, depth: int) -> tuple[Node, int]:
    return _sequence(tokens, at, depth, "OR")


def _sequence(tokens: list[str], at: int, depth: int, operator: Literal["AND", "OR"]) -> tuple[Node, int]:
    parts = []
    while True:
        node, at = _sequence(tokens, at, depth, "AND") if operator == "OR" else _single(tokens, at, depth)
        parts.append(node)
        if at >= len(tokens) or _OPERATORS.get(tokens[at].lower()) != operator:
            break
        at += 1
    node = joined(operator, parts)
    assert node is not None, "there is at least one part"
    return node, at


def _single(tokens: list[str], at: int, depth: int) -> tuple[Node, int]:
    if at >= len(tokens) or depth > _MAX_DEPTH or tokens[at] == ")" or tokens[at].lower() in _OPERATORS:
        raise _NotAnExpression
    if tokens[at] == "(":
        node, at = _either(tokens, at + 1, depth + 1)
        if at >= len(tokens) or tokens[at] != ")":
            raise _NotAnExpression
        return node, at + 1
    # An id missing in the table is kept as written; its category is "unknown".
    node = Node("", known_id(tokens[at]) or tokens[at])
    at += 1
    if at + 1 < len(tokens) and tokens[at].lower() == "with":
        at += 2
    return node, at


@cache
def _table() -> _Table:
    content = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    categories: dict[str, Category] = {
        license_id: category for category, ids in content["categories"].items() for license_id in ids
    }
    return _Table(categories, {license_id.lower(): license_id for license_id in categories}, content["names"])
