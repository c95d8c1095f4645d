"""`agentkit-mcp`: lists the servers, runs one of them, and imports no other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mcp_servers.__main__ import SERVERS, main
from tests.mcp_servers.server_harness import REPOSITORY

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


def test_it_knows_every_server() -> None:
    folders = {path.parent.name for path in (REPOSITORY / "mcp_servers").glob("*/__main__.py")}
    assert SERVERS.keys() == folders


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_name_it_lists_the_servers_in_80_columns(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: agentkit-mcp NAME ARGUMENTS..."
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [*SERVERS]
    assert max(map(len, lines)) <= 80


def test_an_unknown_name_is_an_error_that_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["filesytem", "."])
    captured = capsys.readouterr()
    assert ended.value.code == 2 and not captured.out
    assert captured.err.startswith(
        "agentkit-mcp: no server is called 'filesytem'. Did you mean 'filesystem'? Servers: filesystem, git,"
    )


@pytest.mark.parametrize("name", [*SERVERS])
def test_the_arguments_of_a_server_are_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: agentkit-mcp {name} ")


def test_only_the_server_asked_for_is_imported() -> None:
    script = (
        "import sys\nfrom mcp_servers.__main__ import SERVERS, main\nbefore = {*sys.modules}\n"
        "try: main(['time', '--help'])\nexcept SystemExit: pass\n"
        "others = [name for name in SERVERS if name != 'time' and f'mcp_servers.{name}' in sys.modules]\n"
        "heavy = [name for name in ('mcp', 'anyio', 'pydantic') if name in before]\n"
        "print(others, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] []"


def test_a_server_speaks_the_protocol_alone_on_its_output(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mcp_servers", "filesystem", str(tmp_path)],
        input=json.dumps(INITIALIZE) + "\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=REPOSITORY,
    )
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["result"]["serverInfo"]["name"] == "agentkit-filesystem"
