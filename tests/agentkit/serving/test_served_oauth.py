"""The MCP endpoint of a served agent behind OAuth, asked by a toolset that logs in at node-oidc-provider."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from typer.testing import CliRunner, Result

from agentkit import MCPToolset
from agentkit.cli.main import app as command_line
from agentkit.cli.serve import SETTINGS_VARIABLE
from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.mcp.oauth import MemoryStorage, OAuth
from agentkit.serving import app
from mcp_servers.oauth.protected_resource import ProtectedResource
from tests.agentkit.mcp.oauth_servers import Person, authorization_server, needs_provider
from tests.agentkit.serving.served_agents import KEYS, clerk, client_of, listening

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("oauth")]


@pytest.fixture
def issuer() -> Iterator[str]:
    with authorization_server() as found:
        yield found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@needs_provider
async def test_the_mcp_endpoint_admits_tokens_and_their_users_own_the_runs(issuer: str, tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    made = app(
        clerk(),
        journal=tmp_path / "runs.db",
        keys=KEYS,
        oauth=ProtectedResource(url, issuer, scopes=("mcp:read",)),
    )
    auth, context = OAuth(storage=MemoryStorage(), on_authorize=Person()), RunContext(deps=None, tool_name="ask")
    async with listening(made, port) as origin, client_of(origin, "ann") as ann, httpx.AsyncClient() as http:
        metadata = await http.get(f"{origin}/.well-known/oauth-protected-resource/mcp")
        assert metadata.json()["resource"] == url and metadata.json()["authorization_servers"] == [issuer]
        for headers in ({}, {"Authorization": f"Bearer {KEYS['ann']}"}, {"X-Agentkit-Owner": "ann"}):
            refused = await http.post(f"{url}/", json={}, headers=headers)
            assert refused.status_code == 401 and "resource_metadata=" in refused.headers["www-authenticate"]
        assert (await http.get(f"{origin}/agent")).status_code == 401  # the other endpoints want keys
        async with MCPToolset.http(url, auth=auth, pins=None) as toolset:
            (ask,) = await toolset.list_tools(context)
            done = await ask.call({"task": "a", "session": "talk"}, context)
            assert not done.is_error and done.data["answer"] == "done: a"
        assert await ann.ask("GET", "/sessions/talk", 200) == {"session": "talk", "messages": []}


def test_a_service_for_others_needs_keys_beside_oauth(tmp_path: Path) -> None:
    oauth = ProtectedResource("https://agents.example/mcp", "https://login.example")
    with pytest.raises(UserError, match="other endpoints need keys"):
        app(clerk(), journal=tmp_path / "runs.db", oauth=oauth)


SERVE = ("serve", "clerk_app.py:agent", "--oauth-resource", "https://agents.example/mcp")
ISSUER = ("--oauth-issuer", "https://login.example")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (SERVE, "needs both --oauth-issuer and --oauth-resource"),
        ((*SERVE, "--oauth-issuer", "http://login.example"), "must be https"),
        ((*SERVE, *ISSUER), "other endpoints need keys"),
    ],
)
def test_options_of_the_command_line_that_cannot_work_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], reason: str
) -> None:
    refused = _serve(tmp_path, monkeypatch, *arguments)
    assert refused.exit_code == 1 and reason in " ".join(refused.stderr.split())


async def test_the_command_line_serves_the_resource_that_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = list[Any]()
    monkeypatch.setattr(uvicorn, "run", lambda served, **_: made.append(served))
    monkeypatch.setenv("WEB_KEY", "a-key-of-the-test-0123456789")
    options = ("--oauth-scope", "ask", "--oauth-audience", "api://agents", "--key", "web=WEB_KEY")
    assert _serve(tmp_path, monkeypatch, *SERVE, *ISSUER, *options).exit_code == 0
    transport = httpx.ASGITransport(made[0])
    async with httpx.AsyncClient(transport=transport, base_url="https://agents.example") as http:
        metadata = (await http.get("/.well-known/oauth-protected-resource/mcp")).json()
        assert (metadata["resource"], metadata["scopes_supported"]) == ("https://agents.example/mcp", ["ask"])
        assert (await http.post("/mcp/", json={})).status_code == 401


def _serve(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    """Run `agentkit serve` in a folder with an agent."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "clerk_app", raising=False)
    monkeypatch.setenv(SETTINGS_VARIABLE, "")  # the command sets it; it is restored after the test
    Path("clerk_app.py").write_text(
        "from agentkit import Agent\nfrom agentkit.testing import ScriptedModel\n"
        'agent = Agent(ScriptedModel(["Hello."]))\n',
        encoding="utf-8",
    )
    monkeypatch.setenv("AGENTKIT_JOURNAL", str(folder / "runs.db"))
    return CliRunner().invoke(command_line, arguments)
