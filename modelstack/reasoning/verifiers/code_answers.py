"""Extracts the code of a reply, and the names that tests use; shared with the program benchmarks."""

from __future__ import annotations

import ast
import builtins
import re
import warnings
from collections.abc import Sequence

_FENCE = re.compile(r"```[ \t]*(?:[pP]ython3?|py)?[ \t]*\r?\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)


def fenced_code(text: str, wanted: str = "") -> str | None:
    """Return the first fenced block that defines `wanted`, else the first block; None if there is none."""
    blocks = [match.group(1) for match in _FENCE.finditer(text)]
    defining = [block for block in blocks if wanted and defines(block, wanted)]
    return next(iter([*defining, *blocks]), None)


def defines(code: str, name: str) -> bool:
    """Return whether code defines a function or class of that name at the top level."""
    return re.search(rf"^(?:async\s+def|def|class)\s+{re.escape(name)}\b", code, re.MULTILINE) is not None


def tested_names(tests: Sequence[str], defining: str) -> list[str]:
    """Return the globals of a program that its tests use: names that the reference defines, or no builtins.

    Args:
        tests: Assertions.
        defining: Reference solution with everything that it needs.

    Raises:
        SyntaxError: A test or the reference is not valid Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # data sets contain invalid escapes such as "\w" in plain strings
        used = _names_in(ast.parse("\n".join(tests)))
        defined = _names_in(ast.parse(defining), defined=True)
    # A reference may redefine a builtin; the assertions then use the reference's definition.
    return sorted(name for name in used if name in defined or not hasattr(builtins, name))


def _names_in(tree: ast.AST, *, defined: bool = False) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store if defined else ast.Load):
            names.add(node.id)
        elif defined and isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
    return names
