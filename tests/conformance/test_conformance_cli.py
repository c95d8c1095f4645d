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
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.conformance import our_servers
from tests.conformance.our_servers import SERVERS
from tests.docs.warm_programs import can_fork, warm_programs
from tests.mcp_servers.git_repository import new_repository

REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = Path(sys.prefix) / "conformance/node_modules"
BASELINE = Path(__file__).with_name("baseline.yml")
SEVERAL_RUNS = Path(__file__).with_name("several_runs.mjs")
CLIENT = "tests.conformance.client"
OF_OUR_CLIENT = ("agentkit.mcp.toolset", "httpx", "jsonschema", "mcp.client", "mcp.client.streamable_http")
"""Modules that our client imports, which take 1 s."""
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


# Arguments -> exit status and what is said.
Conformance = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def conformance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Conformance]:
    """The command line in one process of Node: to start Node and load the modules takes longer than most runs."""
    program = MODULES / "@modelcontextprotocol/conformance/dist/index.js"
    results = str(tmp_path_factory.mktemp("results"))
    process = subprocess.Popen(
        [str(MODULES / ".bin/node"), str(SEVERAL_RUNS), str(program)],
        cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    read, write = process.stdout, process.stdin

    def run(*arguments: str) -> tuple[int, str]:
        print(json.dumps([*arguments, "-o", results]), file=write, flush=True)
        said = ""
        try:
            for line in read:
                if (ended := re.fullmatch(r"exits with (\d+)\n", line)) is not None:
                    return int(ended[1]), said
                said += line
        except BaseException:
            process.kill()  # or the next run would be told the status of this one
            raise
        raise AssertionError(f"Node ended:\n{said}")

    try:
        yield run
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def client() -> Iterator[str]:
    """The command of our client; where it can be, a fork of a process that has its imports."""
    if not can_fork():
        yield f"{sys.executable} -m {CLIENT}"
        return
    with TemporaryDirectory() as folder, warm_programs(Path(folder), os.environ, OF_OUR_CLIENT) as programs:
        # The command line gives a client 30 s, which the imports of the forked process are not to take from.
        subprocess.run([str(programs / "python"), "-m", our_servers.__name__], cwd=REPOSITORY, check=True)
        yield f"{programs / 'python'} -m {CLIENT}"


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


def test_the_base_of_our_servers_conforms(conformance: Conformance, urls: dict[str, str]) -> None:
    status, said = conformance("server", "--url", urls["fixture"], "--expected-failures", str(BASELINE))
    assert status == 0, said
    passed, failed = map(int, re.findall(r"Total: (\d+) passed, (\d+) failed", said)[0])
    assert passed >= 32
    assert failed == 0


@pytest.mark.parametrize("name", [name for name in SERVERS if name != "fixture"])
def test_each_server_conforms(name: str, conformance: Conformance, urls: dict[str, str]) -> None:
    for scenario in OF_EVERY_SERVER:
        status, said = conformance("server", "--url", urls[name], "--scenario", scenario)
        assert status == 0, said


@pytest.mark.parametrize("scenario", OF_THE_CLIENT)
def test_our_client_conforms(scenario: str, conformance: Conformance, client: str) -> None:
    status, said = conformance("client", "--command", client, "--scenario", scenario)
    assert status == 0, said
