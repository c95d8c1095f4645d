"""Each example runs offline as it stands, fits on a page, and is in the list once."""

from __future__ import annotations

import re
import runpy
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from agentkit.workspace import SandboxError

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name != "make_shop.py")
N_EXAMPLES, MAX_LINES = 37, 60
LOCAL = {"answer_from_files", "query_a_database", "stream_an_answer", "typed_answer"}
"""Examples that ask the model in this process; its name is their first argument."""
TRAINING = {"adapter_from_traces", "train_a_tiny_model"}
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _params() -> list[Any]:
    return [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in LOCAL | TRAINING else [])
        for path in EXAMPLES
    ]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection but to this machine; a program that a test starts finds no proxy for others, either."""
    connect = socket.socket.connect

    def checked(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in LOOPBACK:
            raise AssertionError(f"an example connects to {address[0]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", checked)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("example", _params())
def test_an_example_runs(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """All but one run in this process, where imports are paid once."""
    if example.stem in LOCAL | {"adapter_from_traces", "serve_a_model"}:
        request.getfixturevalue("smollm2_gguf")
    folder = tmp_path / "examples"
    shutil.copytree(ROOT / "examples", folder, ignore=shutil.ignore_patterns("__pycache__"))
    before = _files(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [example.name, *(["local:tiny"] if example.stem in LOCAL else [])])
    try:
        runpy.run_path(str(folder / example.name), run_name="__main__")
    except SandboxError as error:
        pytest.skip(str(error))
    assert _files(folder) == before, "an example leaves the folder as it was"


def test_there_are_as_many_as_told_of_at_most_sixty_lines() -> None:
    assert len(EXAMPLES) == N_EXAMPLES
    for path in [*EXAMPLES, ROOT / "examples/make_shop.py"]:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES, path.name


def test_each_example_asserts_what_it_shows() -> None:
    for path in EXAMPLES:
        assert re.search(r"^ *assert ", path.read_text(encoding="utf-8"), re.MULTILINE), path.name


def test_the_page_lists_each_example_once() -> None:
    page = (ROOT / "docs/examples.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\|.*`(\w+\.py)` \|$", page, re.MULTILINE)) == [path.name for path in EXAMPLES]


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
