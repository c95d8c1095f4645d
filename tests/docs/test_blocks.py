"""The code blocks of README and of the documentation run as they stand, and print what they show.

`pytest tests/docs --update-examples` writes the output of Python blocks (`#>`) anew, `--update-golden` that of
commands.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType, SimpleNamespace

import pytest
import yaml
from _pytest.mark import ParameterSet
from pytest_examples import CodeExample, EvalExample, find_examples, run_code

from agentkit.testing import block_model_requests
from agentkit.workspace import SandboxError
from tests.docs.blocks import PAGES, ROOT, Block, blocks_of
from tests.docs.console import INSTALLED, check_console, terminal, update_console
from tests.docs.warm_programs import can_fork, warm_programs
from tests.golden import UPDATE

DATA = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}
LANGUAGES = {"python", "console", "sh", "text", "mermaid", "ini", "js", *DATA}
EMBEDDED = re.compile(r"(?<=[\"' =])(?<!\bon=\")local(?::small|:medium)?(?=[\"'\s?])")
"""Names of the embedded model's larger profiles, which tests do not have. `on="local"` is a place of runs."""
FIRST = {ROOT, ROOT / "docs", ROOT / "docs" / "get-started"}
"""Folders of the pages whose console scripts are not forks of a warm process, see `tests.docs.warm_programs`."""


def _params() -> Iterator[ParameterSet]:
    for page in PAGES:
        if blocks := [block for block in blocks_of(page) if block.language in {"python", "console", *DATA}]:
            marks = [pytest.mark.slow] if _ask_the_embedded_model(blocks) else []
            yield pytest.param(page, blocks, id=str(page.relative_to(ROOT)), marks=marks)


def _ask_the_embedded_model(blocks: list[Block]) -> bool:
    return any(block.is_run and EMBEDDED.search(block.code) for block in blocks)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the repository's examples, as a reader in a fresh clone has them; it is the current one."""
    if (ROOT / "examples").is_dir():
        shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # examples are modules of this name
    return tmp_path


@pytest.fixture(scope="module")
def warm() -> Iterator[Path]:
    """A folder with the console scripts as forks of one process; or the installed ones, without forks."""
    if not can_fork():
        yield INSTALLED
        return
    with TemporaryDirectory() as folder, warm_programs(Path(folder), terminal()) as programs:
        yield programs


@pytest.fixture
def cheap_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pytest-examples see its callers without their sources.

    For each print it would search all imported modules for the source of each frame: a fourth of the pages' time.
    """
    monkeypatch.setattr(run_code, "inspect", SimpleNamespace(**vars(inspect) | {"stack": _callers}))


def _callers() -> list[inspect.FrameInfo]:
    frame: FrameType | None = sys._getframe(1)
    found: list[inspect.FrameInfo] = []
    while frame is not None:
        code = frame.f_code
        found.append(inspect.FrameInfo(frame, code.co_filename, frame.f_lineno, code.co_name, None, None))
        frame = frame.f_back
    return found


@pytest.mark.usefixtures("cheap_prints")
@pytest.mark.parametrize(("page", "blocks"), list(_params()))
def test_the_blocks_of_a_page_run_from_top_to_bottom(
    page: Path, blocks: list[Block], folder: Path, eval_example: EvalExample, request: pytest.FixtureRequest
) -> None:
    """All Python blocks of a page share one namespace. The first pages' commands are processes of their own."""
    if _ask_the_embedded_model(blocks):
        request.getfixturevalue("smollm2_gguf")
    eval_example.set_config(line_length=110, target_version="py310", quotes="double")
    examples = {example.start_line: example for example in find_examples(page)}
    scope: dict[str, object] = {}
    for block in blocks:
        if not block.is_run:
            continue
        if block.language == "python":
            scope = _run(block, examples[block.line], scope, eval_example)
        elif block.language == "console":
            if request.config.getoption(UPDATE):
                update_console(block, folder)
            else:
                programs = INSTALLED if page.parent in FIRST else request.getfixturevalue("warm")
                check_console(block, folder, programs)
        else:
            DATA[block.language](block.code)


def _run(
    block: Block, example: CodeExample, scope: dict[str, object], eval_example: EvalExample
) -> dict[str, object]:
    if block.output_varies:
        example.source = EMBEDDED.sub("local:tiny", example.source)
        run, may_ask = eval_example.run, nullcontext()
    else:
        run = eval_example.run_print_update if eval_example.update_examples else eval_example.run_print_check
        may_ask = block_model_requests()
    try:
        with may_ask:
            return run(example, module_globals=scope, rewrite_assertions=False)
    except SandboxError as error:
        pytest.skip(str(error))
    except Exception as error:  # its traceback is one that pytest 9.2 cannot print
        raised = f"{type(error).__name__}: {error}"
    pytest.fail(f"{block} raises {raised}", pytrace=False)


def test_each_block_names_its_language_and_each_mark_is_known() -> None:
    for block in (block for page in PAGES for block in blocks_of(page)):
        assert block.language in LANGUAGES, f"{block}: unknown language {block.language!r}"
        marked = block.mark.startswith(("not run", "output varies", "exits"))
        assert not marked or re.fullmatch(r"(?:not run|output varies): \S.*|exits \d+", block.mark), (
            f"{block}: {block.mark}"
        )
