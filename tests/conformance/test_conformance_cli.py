"""The official conformance command line against our servers and our client.

`make test` installs it inside the virtual environment where npm is there (@modelcontextprotocol/conformance, and
the Node 22 that it needs). What is expected to fail, and why, is in `baseline.yml`.
"""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conformance.our_servers import SERVERS
from tests.mcp_servers.git_repository import new_repository

REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = Path(sys.prefix) / "conformance/node_modules"
BASELINE = Path(__file__).with_name("baseline.yml")
OF_EVERY_SERVER = (
    "server-initialize", "ping", "tools-list", "server-sse-multiple-streams", "dns-rebinding-protection",
)  # fmt: skip

pytestmark = [
    pytest.mark.skipif(
        not (MODULES / ".bin/conformance").exists(),
        reason="the conformance command line needs npm: make test installs it",
    ),
    pytest.mark.xdist_group("conformance"),
]


def conformance(*arguments: str, cwd: Path) -> tuple[int, str]:
    """Run the command line; return its exit status and what it says."""
    program = MODULES / "@modelcontextprotocol/conformance/dist/index.js"
    done = subprocess.run(
        [str(MODULES / ".bin/node"), str(program), *arguments, "-o", str(cwd / "results")],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@contextmanager
def running(name: str, *arguments: str) -> Iterator[str]:
    """Serve one of our servers over HTTP; yield its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.conformance.fixture_server", name, *arguments],
        cwd=REPOSITORY, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.communicate()


def arguments_of(name: str, folder: Path) -> list[str]:
    """Make what a server serves."""
    if name == "git":
        return [str(new_repository(folder / "repository"))]
    if name in ("filesystem", "search"):
        (folder / "files").mkdir()
        return [str(folder / "files")]
    if name == "sqlite":
        sqlite3.connect(folder / "shop.db").close()
        return [str(folder / "shop.db")]
    return [str(folder / "memory.db")] if name == "memory" else []


def test_the_base_of_our_servers_conforms(tmp_path: Path) -> None:
    with running("fixture") as url:
        status, said = conformance("server", "--url", url, "--expected-failures", str(BASELINE), cwd=tmp_path)
    assert status == 0, said
    passed, failed = map(int, re.findall(r"Total: (\d+) passed, (\d+) failed", said)[0])
    assert passed >= 14
    assert failed == 18  # those of the baseline


@pytest.mark.parametrize("name", [name for name in SERVERS if name != "fixture"])
def test_each_server_conforms(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with running(name, *arguments_of(name, tmp_path)) as url:
        for scenario in OF_EVERY_SERVER:
            status, said = conformance("server", "--url", url, "--scenario", scenario, cwd=tmp_path)
            assert status == 0, said


@pytest.mark.parametrize(
    "scenario", ["initialize", "tools_call", "elicitation-sep1034-client-defaults", "sse-retry"]
)
def test_our_client_conforms(scenario: str, tmp_path: Path) -> None:
    command = f"{sys.executable} -m tests.conformance.client"
    status, said = conformance("client", "--command", command, "--scenario", scenario, cwd=tmp_path)
    assert status == 0, said
