"""The structure of the packages: no circle of imports, no long module, nothing written twice, plain docstrings."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("agentkit", "modelstack", "mcp_servers", "evals")
MAX_LINES = 500
MAX_REPEATED_LINES = 5

# What a package does not hold yet, as the number of places that are allowed. They only get fewer.
ALLOWED_LONG_MODULES = {"agentkit": 0, "modelstack": 0, "mcp_servers": 0, "evals": 0}
"""Modules with more than MAX_LINES lines."""
ALLOWED_IN_CIRCLES = {"agentkit": 0, "modelstack": 0, "mcp_servers": 0, "evals": 0}
"""Modules that import themselves through others."""
ALLOWED_REPEATS = {"agentkit": 0, "modelstack": 7, "mcp_servers": 1, "evals": 8}
"""Groups of places that share a run of MAX_REPEATED_LINES + 1 lines; a longer run counts once a further line."""

CLEAN_PACKAGES = ("agentkit", "mcp_servers", "modelstack", "evals", "tools")
"""Folders in which every docstring opens with a verb or the noun that it describes."""
UNCLEAR_OPENINGS = "Of|What|That|Those|Whose|Where|As|So|Such|When|Which|If|Let|One|Another"

Statement = ast.Import | ast.ImportFrom | ast.Expr | ast.FunctionDef | ast.AsyncFunctionDef

pytestmark = pytest.mark.xdist_group("structure")  # one process parses each file once
in_each_package = pytest.mark.parametrize("package", PACKAGES)


@cache
def modules(package: str) -> dict[str, Path]:
    """Return the files of a package by module name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((ROOT / package).rglob("*.py"))
    }


@cache
def statements(path: Path) -> tuple[Statement, ...]:
    """Return the imports, functions and expressions of a file, those within other statements included."""
    found = list[Statement]()
    waiting = list[ast.AST](ast.parse(path.read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Statement):
            found.append(node)
        # An expression holds no statement, so its tree is not walked.
        waiting += (child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr))
    return tuple(found)


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yield the modules that a module names in imports, also within functions and for types alone."""
    for node in statements(path):
        match node:
            case ast.ImportFrom(module=str(module), names=names):
                for alias in names:
                    name = f"{module}.{alias.name}"
                    yield name if name in known else module
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case _:
                pass


def reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    """Return the modules that a module imports, directly or through others."""
    found = set[str]()
    waiting = [*graph[start]]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += graph[name]
    return found


@in_each_package
def test_no_imports_form_a_circle(package: str) -> None:
    known = modules(package)
    # The package itself names everything that an application imports; nothing inside may import from it.
    graph = {
        name: {other for other in imported(path, known) if other in known} - {package}
        for name, path in known.items()
    }
    in_circles = [name for name in graph if name in reached(name, graph)]
    assert len(in_circles) <= ALLOWED_IN_CIRCLES[package], in_circles


@in_each_package
def test_no_module_is_long(package: str) -> None:
    lengths = {name: path.read_text(encoding="utf-8").count("\n") for name, path in modules(package).items()}
    long = {name: n for name, n in lengths.items() if n > MAX_LINES}
    assert len(long) <= ALLOWED_LONG_MODULES[package], long


def told_lines(path: Path) -> list[tuple[int, str]]:
    """Return number and text of the code lines: no imports, signatures, docstrings and comments."""
    text = path.read_text(encoding="utf-8")
    silent = set[int]()
    for node in statements(path):
        match node:
            case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant(value=str())):
                silent.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                silent.update(range(node.lineno, node.body[0].lineno))
            case _:
                pass
    lines = enumerate(text.splitlines(), 1)
    return [(n, line.strip()) for n, line in lines if n not in silent and len(line.strip()) > 3]


@in_each_package
def test_no_lines_stand_twice(package: str) -> None:
    places = defaultdict[tuple[str, ...], list[str]](list)
    for name, path in modules(package).items():
        told = [(n, line) for n, line in told_lines(path) if not line.startswith("#")]
        for index in range(len(told) - MAX_REPEATED_LINES):
            run = tuple(line for _, line in told[index : index + MAX_REPEATED_LINES + 1])
            places[run].append(f"{name}:{told[index][0]}")
    twice = {", ".join(where): run for run, where in places.items() if len(where) > 1}
    shown = "\n\n".join(f"{where}\n" + "\n".join(run) for where, run in twice.items())
    assert len(twice) <= ALLOWED_REPEATS[package], shown


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of every docstring, those of attributes included."""
    for node in statements(path):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text)), lineno=line):
                yield line, text
            case _:
                pass


@pytest.mark.parametrize("folder", CLEAN_PACKAGES)
def test_docstrings_open_with_a_verb_or_the_noun_that_they_describe(folder: str) -> None:
    unclear = re.compile(rf"(?:{UNCLEAR_OPENINGS})\b(?!-)")
    found = [
        f"{path.relative_to(ROOT)}:{line} {text.splitlines()[0]}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, text in docstrings(path)
        if unclear.match(text)
    ]
    assert not found, "\n".join(found)
