"""The house of agentkit: no circle of imports, types included; no long module; nothing written twice."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "agentkit").rglob("*.py"))
}
MAX_LINES = 500
MAX_REPEATED_LINES = 5


def imported(path: Path) -> Iterator[str]:
    """Yield the modules of agentkit that a module names in imports, also within functions and for types alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.ImportFrom(module=str(module), names=names):
                for alias in names:
                    name = f"{module}.{alias.name}"
                    yield name if name in MODULES else module
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case _:
                pass


def test_no_imports_form_a_circle() -> None:
    # The package itself names everything that an application imports; nothing inside may import from it.
    graph = {
        name: {other for other in imported(path) if other in MODULES} - {"agentkit"}
        for name, path in MODULES.items()
    }
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise AssertionError(" -> ".join(reversed(error.args[1]))) from None


def test_no_module_is_long() -> None:
    lengths = {name: path.read_text(encoding="utf-8").count("\n") for name, path in MODULES.items()}
    long = {name: n for name, n in lengths.items() if n > MAX_LINES}
    assert not long


def told_lines(path: Path) -> list[tuple[int, str]]:
    """Return number and text of the code lines: no imports, signatures, docstrings and comments."""
    text = path.read_text(encoding="utf-8")
    silent = set[int]()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant(value=str())):
                silent.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                silent.update(range(node.lineno, node.body[0].lineno))
            case _:
                pass
    lines = enumerate(text.splitlines(), 1)
    return [(n, line.strip()) for n, line in lines if n not in silent and len(line.strip()) > 3]


def test_no_lines_stand_twice() -> None:
    places = defaultdict[tuple[str, ...], list[str]](list)
    for name, path in MODULES.items():
        told = [(n, line) for n, line in told_lines(path) if not line.startswith("#")]
        for index in range(len(told) - MAX_REPEATED_LINES):
            run = tuple(line for _, line in told[index : index + MAX_REPEATED_LINES + 1])
            places[run].append(f"{name}:{told[index][0]}")
    twice = {", ".join(where): run for run, where in places.items() if len(where) > 1}
    assert not twice, "\n\n".join(f"{where}\n" + "\n".join(run) for where, run in twice.items())
