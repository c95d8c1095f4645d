"""Documentation names tests that exist, its code runs, and docstrings open with their subject."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from agentkit.testing import block_model_requests

ROOT = Path(__file__).parents[1]
NAMED_TEST = re.compile(r"`((?:\w+/)*test_\w+\.py)::(test_\w+)`")
PAGES = sorted((ROOT / "docs").glob("*.md"))
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
RIDDLES = ("Of", "What", "That", "Whose", "As", "Whether")
"""First words that postpone the subject of a docstring."""


def test_each_promise_about_combinations_names_a_test_that_exists() -> None:
    text = (ROOT / "docs" / "composition.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| Promise")]
    assert rows
    for row in rows:
        named = NAMED_TEST.findall(row)
        assert named, row
        for path, function in named:
            source = (ROOT / "tests" / "agentkit" / path).read_text(encoding="utf-8")
            assert re.search(rf"^(?:async )?def {function}\(", source, re.MULTILINE), f"{path}::{function}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All blocks share one namespace; test doubles stand for models, and files go to the current folder."""
    text = page.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    scope = ModuleType(f"page_{page.stem}")
    monkeypatch.setitem(sys.modules, scope.__name__, scope)  # annotations are looked up there
    with block_model_requests():
        for found in CODE.finditer(text):
            line = text.count("\n", 0, found.start(1))
            exec(compile("\n" * line + found[1], str(page), "exec"), vars(scope))


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and text of each docstring: of modules, classes, functions, and behind attributes."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for index, statement in enumerate(body):
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))) if index == 0 or isinstance(
                    body[index - 1], ast.Assign | ast.AnnAssign
                ):
                    yield statement.lineno, text
                case _:
                    pass


@pytest.mark.parametrize("package", ["agentkit", "mcp_servers"])
def test_no_docstring_postpones_its_subject(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text.strip().splitlines()[0]}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, text in docstrings(ast.parse(path.read_text(encoding="utf-8")))
        if text.strip() and text.split(None, 1)[0].rstrip(",:") in RIDDLES
    ]
    assert not found, "\n".join(found)
