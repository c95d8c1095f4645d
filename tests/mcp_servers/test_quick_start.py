"""Quick imports: what is late comes when it is asked for, and nothing stays changed.

Each test is a process of its own, since what it is about is what has been imported.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def told_by(script: str) -> dict[str, object]:
    """Run a script; return the JSON object that it prints last."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


START = """
import gc, json, sys
from mcp_servers.quick_start import quick_imports
with quick_imports():
    from mcp_servers.time.server import build_server
"""


def test_what_a_server_does_not_use_is_not_imported() -> None:
    told = told_by(
        START + "build_server('UTC')\n"
        "unused = ('mcp.client', 'mcp.server.mcpserver', 'httpx2')\n"
        "print(json.dumps({'imported': [name for name in unused if name in sys.modules]}))"
    )
    assert told == {"imported": []}


@pytest.mark.parametrize(
    "asked",
    [
        "from mcp import Client",
        "import mcp.server; mcp.server.MCPServer",
        "from mcp import *; Client",
        "import mcp; mcp.types.Tool",
    ],
)
def test_what_comes_late_is_there_when_it_is_asked_for(asked: str) -> None:
    told = told_by(
        f"{START}\n{asked}\nimport mcp\nprint(json.dumps({{'is whole': hasattr(mcp, 'ClientSession')}}))"
    )
    assert told == {"is whole": True}


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    told = told_by(
        START + "import mcp\n"
        "found = [hasattr(mcp, name) for name in ('nothing', '__nothing__', 'Client')]\n"
        "print(json.dumps({'found': found}))"
    )
    assert told == {"found": [False, False, True]}


def test_pydantic_and_the_collector_are_as_before() -> None:
    told = told_by(
        """
import gc, json
from pydantic import BaseModel, TypeAdapter
before = (BaseModel.model_config, TypeAdapter.__init__, gc.isenabled())
"""
        + START
        + """
class After(BaseModel):
    x: int
print(json.dumps({
    "same": (BaseModel.model_config, TypeAdapter.__init__, gc.isenabled()) == before,
    "compiled": After.__pydantic_complete__,
    "late": "defer_build" in After.model_config,
}))
"""
    )
    assert told == {"same": True, "compiled": True, "late": False}


def test_a_failing_import_leaves_nothing_changed() -> None:
    told = told_by(
        """
import gc, json
from mcp_servers.quick_start import quick_imports
try:
    with quick_imports():
        import a_package_that_nobody_has
except ModuleNotFoundError as error:
    from pydantic import BaseModel
    print(json.dumps({"missing": error.name, "collects": gc.isenabled(), "config": dict(BaseModel.model_config)}))
"""
    )
    assert told == {"missing": "a_package_that_nobody_has", "collects": True, "config": {}}


def test_the_list_of_tools_is_that_of_a_server_imported_as_usual() -> None:
    listing = """
import anyio
async def listed():
    from mcp import Client
    async with Client(build_server("UTC")) as client:
        return (await client.list_tools()).model_dump(mode="json")
print(json.dumps(anyio.run(listed)))
"""
    usual = "import json\nfrom mcp_servers.time.server import build_server\n"
    assert told_by(START + listing) == told_by(usual + listing)
