"""What the tests of the command line share: the command as a child process, away from the user's files."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentkit.cli.main import app

SERVER = Path(__file__).with_name("cli_server.py")
Agentkit = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTKIT_TRACE_DIR", str(tmp_path / "traces"))
    monkeypatch.setenv("AGENTKIT_JOURNAL", str(tmp_path / "runs.db"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def agentkit() -> Agentkit:
    """Run `agentkit ARGUMENTS` in this process, which spares the imports, and return what it printed."""

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        result = CliRunner().invoke(app, arguments, input=stdin)
        return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def agentkit_process() -> Agentkit:
    """Run `agentkit ARGUMENTS` in a process of its own and return what it printed."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "agentkit.cli.main", *arguments]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture
def server() -> Callable[..., str]:
    """Return a value for `--mcp`: the test server with these tools."""
    return lambda *tools: shlex.join([sys.executable, "-S", str(SERVER), *tools])
