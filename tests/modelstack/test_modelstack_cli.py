"""The `modelstack` command: mistakes are one line, tracebacks are asked for, nothing heavy is imported to help."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from modelstack.cli import app
from modelstack.errors import UserError


def test_help_lists_the_commands_without_importing_torch() -> None:
    code = (
        "import sys, json; from typer.testing import CliRunner; from modelstack.cli import app; "
        "out = CliRunner().invoke(app, ['--help']).output; "
        "heavy = [m for m in ('torch', 'transformers', 'gguf', 'matplotlib') if m in sys.modules]; "
        "print(json.dumps([out, heavy]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    output, heavy = json.loads(done.stdout)
    for command in ("plan", "fit-law", "tokenizer", "count", "ablate", "export", "import"):
        assert command in output
    assert heavy == []


def test_a_mistake_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["import", "gguf", str(tmp_path / "no.gguf"), str(tmp_path / "out")])
    assert result.exit_code == 1
    assert result.stderr.startswith("modelstack: ") and "no.gguf" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_debug_shows_where_a_mistake_came_from() -> None:
    result = CliRunner().invoke(app, ["--debug", "count", "no-such-model"])
    assert isinstance(result.exception, UserError)
    with pytest.raises(UserError, match="no-such-model"):
        raise result.exception
