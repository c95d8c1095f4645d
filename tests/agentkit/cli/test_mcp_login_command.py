"""`agentkit mcp login` and `logout`, and the commands that use the login."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from agentkit.mcp import oauth
from tests.agentkit.cli.conftest import Agentkit
from tests.agentkit.mcp.oauth_servers import GuardedServer, Person, authorization_server, needs_provider

pytestmark = [pytest.mark.xdist_group("oauth"), needs_provider]


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with authorization_server() as found:
        yield found


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Person:
    """Play somebody at the browser; the logins are kept beside the test."""
    monkeypatch.setenv("AGENTKIT_TOKENS_DIR", str(tmp_path / "logins"))
    monkeypatch.setenv("AGENTKIT_KEYRING", "off")
    monkeypatch.setenv("AGENTKIT_PINS_DIR", str(tmp_path / "pins"))
    made = Person()
    monkeypatch.setattr(oauth, "open_browser", made)
    return made


def test_a_login_is_used_by_commands_until_the_logout(agentkit: Agentkit, person: Person, issuer: str) -> None:
    with GuardedServer(issuer).running() as url:
        before = agentkit("mcp", "list", url)
        assert before.returncode == 1 and f"agentkit mcp login {url}" in " ".join(before.stderr.split())
        login = agentkit("mcp", "login", url)
        assert login.returncode == 0, login.stderr
        assert f"{url}: logged in with mcp:read" in login.stdout and len(person.urls) == 1
        assert "add" in agentkit("mcp", "list", url).stdout
        called = agentkit("mcp", "call", url, "add", '{"a": 1, "b": 2}')
        assert (called.returncode, called.stdout) == (0, "3\n")
        logout = agentkit("mcp", "logout", url)
        assert logout.returncode == 0 and "the tokens were revoked" in logout.stdout
        assert agentkit("mcp", "logout", url).returncode == 1
        assert agentkit("mcp", "list", url).returncode == 1


def test_accounts_and_scopes_are_apart_and_a_file_names_them(
    agentkit: Agentkit, person: Person, issuer: str, tmp_path: Path
) -> None:
    with GuardedServer(issuer).running() as url:
        login = agentkit("mcp", "login", url, "--account", "work", "--scope", "mcp:read", "--scope", "mcp:write")
        assert "mcp:read, mcp:write" in login.stdout, login.stderr
        assert agentkit("mcp", "list", url).returncode == 1  # another account
        file = tmp_path / "servers.json"
        entry = {"url": url, "auth": {"type": "oauth", "account": "work"}}
        file.write_text(json.dumps({"mcpServers": {"adder": entry}}), encoding="utf-8")
        assert "adder: 1 tool" in agentkit("mcp", "list", str(file)).stdout
        assert agentkit("mcp", "logout", url, "--account", "work").returncode == 0
        assert "--account work" in " ".join(agentkit("mcp", "list", str(file)).stderr.split())


def test_a_browser_on_another_machine_is_finished_by_pasting(
    agentkit: Agentkit, person: Person, issuer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentkit.cli import mcp_login

    asked = list[str]()

    def prompt(text: str, **_: object) -> str:
        asked.append(text)
        return "http://127.0.0.1:1/callback?code=x&state=of-another-login"

    monkeypatch.setattr(mcp_login.typer, "prompt", prompt)
    with GuardedServer(issuer).running() as url:
        refused = agentkit("mcp", "login", url, "--paste")
    assert refused.returncode == 1 and "another state" in refused.stderr and len(asked) == 1


def test_a_secret_comes_from_the_environment_alone(agentkit: Agentkit, person: Person) -> None:
    missing = agentkit("mcp", "login", "https://a.example/mcp", "--client-id", "a", "--client-secret", "NO_SUCH")
    assert missing.returncode == 1 and "--client-secret NO_SUCH" in missing.stderr
    plain = agentkit("mcp", "login", "http://a.example/mcp")
    assert plain.returncode == 1 and "must be https" in plain.stderr


def test_the_browser_is_opened_with_the_url(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import webbrowser

    opened = list[str]()
    monkeypatch.setattr(webbrowser, "open", opened.append)
    anyio.run(oauth.open_browser, "https://login.example/auth?x=1")
    assert opened == ["https://login.example/auth?x=1"] and opened[0] in capsys.readouterr().err
