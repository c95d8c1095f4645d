"""The official conformance command line against our servers and our client.

`make test` installs it inside the virtual environment where npm is there (@modelcontextprotocol/conformance, and
the Node 22 that it needs). What is expected to fail, and why, is in `baseline.yml`.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.conformance.our_servers import SERVERS
from tests.mcp_servers.git_repository import new_repository

REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = Path(sys.prefix) / "conformance/node_modules"
BASELINE = Path(__file__).with_name("baseline.yml")
SEVERAL_RUNS = Path(__file__).with_name("several_runs.mjs")
OF_EVERY_SERVER = (
    "server-initialize", "ping", "tools-list", "server-sse-multiple-streams", "dns-rebinding-protection",
)  # fmt: skip
OF_THE_CLIENT = (
    "initialize", "tools_call", "elicitation-sep1034-client-defaults", "sse-retry",
    "auth/metadata-default", "auth/metadata-var1", "auth/metadata-var2", "auth/metadata-var3", "auth/basic-cimd",
    "auth/scope-from-www-authenticate", "auth/scope-from-scopes-supported", "auth/scope-omitted-when-undefined",
    "auth/scope-step-up", "auth/scope-retry-limit", "auth/token-endpoint-auth-basic",
    "auth/token-endpoint-auth-post", "auth/token-endpoint-auth-none", "auth/pre-registration",
    # Of the draft and of extensions.
    "auth/resource-mismatch", "auth/offline-access-scope", "auth/offline-access-not-supported",
    "auth/client-credentials-jwt", "auth/client-credentials-basic",
)  # fmt: skip
"""All but those of 2025-03-26, which need endpoints that no metadata names or metadata of another issuer, and of
cross-app access, which needs an identity provider's assertion."""

pytestmark = [
    pytest.mark.skipif(
        not (MODULES / ".bin/conformance").exists(),
        reason="the conformance command line needs npm: make test installs it",
    ),
    pytest.mark.xdist_group("conformance"),
]


def conformance(*runs: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run the command line once for each list of arguments.

    Return the first exit status that is not 0, or 0, and what it says.
    """
    program = MODULES / "@modelcontextprotocol/conformance/dist/index.js"
    arguments = [[*run, "-o", str(folder / "results")] for run in runs]
    done = subprocess.run(
        [str(MODULES / ".bin/node"), str(SEVERAL_RUNS), str(program), json.dumps(arguments)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Serve our servers over HTTP, in one process; yield their URLs by name."""
    folder = tmp_path_factory.mktemp("served")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.conformance.fixture_server",
            json.dumps({name: arguments_of(name, folder) for name in SERVERS}),
        ],
        cwd=REPOSITORY,
        env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache")},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.communicate()


def arguments_of(name: str, folder: Path) -> list[str]:
    """Make what a server serves."""
    if name == "git":
        return [str(new_repository(folder / "repository"))]
    if name in ("filesystem", "search"):
        (folder / name).mkdir()
        return [str(folder / name)]
    if name == "sqlite":
        sqlite3.connect(folder / "shop.db").close()
        return [str(folder / "shop.db")]
    return [str(folder / "memory.db")] if name == "memory" else []


def test_the_base_of_our_servers_conforms(urls: dict[str, str], tmp_path: Path) -> None:
    arguments = ("server", "--url", urls["fixture"], "--expected-failures", str(BASELINE))
    status, said = conformance(arguments, folder=tmp_path)
    assert status == 0, said
    passed, failed = map(int, re.findall(r"Total: (\d+) passed, (\d+) failed", said)[0])
    assert passed >= 32
    assert failed == 0


@pytest.mark.parametrize("name", [name for name in SERVERS if name != "fixture"])
def test_each_server_conforms(name: str, urls: dict[str, str], tmp_path: Path) -> None:
    runs = [("server", "--url", urls[name], "--scenario", scenario) for scenario in OF_EVERY_SERVER]
    status, said = conformance(*runs, folder=tmp_path)
    assert status == 0, said
    assert said.count(" exits with 0\n") == len(OF_EVERY_SERVER)


@pytest.mark.parametrize("scenario", OF_THE_CLIENT)
def test_our_client_conforms(scenario: str, tmp_path: Path) -> None:
    command = f"{sys.executable} -m tests.conformance.client"
    status, said = conformance(("client", "--command", command, "--scenario", scenario), folder=tmp_path)
    assert status == 0, said
