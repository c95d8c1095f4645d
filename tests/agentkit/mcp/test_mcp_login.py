"""The whole life of a login, against node-oidc-provider and our own guard of tokens."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx
import pytest

from agentkit.context import RunContext
from agentkit.errors import MCPAuthorizationRequired, MCPConnectionError
from agentkit.mcp import MCPToolset
from agentkit.mcp.oauth import FileStorage, OAuth
from agentkit.mcp.oauth.challenge import Challenge
from agentkit.mcp.oauth.records import StoredLogin
from agentkit.mcp.oauth.session import OAuthSession
from agentkit.mcp.oauth.storage import login_name
from mcp_servers.oauth.verifying import IntrospectionVerifier, JWTVerifier, TokenRefused
from tests.agentkit.mcp.oauth_servers import (
    GuardedServer,
    Person,
    authorization_server,
    needs_provider,
)
from tests.mcp_servers.server_harness import http_server

pytestmark = [pytest.mark.anyio, needs_provider, pytest.mark.xdist_group("oauth")]


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with authorization_server() as found:
        yield found


def stored(storage: FileStorage, url: str) -> StoredLogin:
    text = storage.read(login_name(url, ""))
    assert text is not None
    return StoredLogin.model_validate_json(text)


def store(storage: FileStorage, url: str, **changes: Any) -> None:
    """Change the stored tokens."""
    login = stored(storage, url)
    assert login.tokens is not None
    tokens = login.tokens.model_copy(update=changes)
    storage.write(login_name(url, ""), login.model_copy(update={"tokens": tokens}).model_dump_json())


async def add(url: str, auth: OAuth, context: RunContext[None], n_calls: int = 1) -> list[Any]:
    """Connect and call `add` that often at once."""
    with anyio.fail_after(60):
        async with MCPToolset.http(url, auth=auth, pins=None) as toolset:
            (tool,) = await toolset.list_tools(context)
            outputs = await asyncio.gather(*(tool.call({"a": n, "b": 1}, context) for n in range(n_calls)))
            return [output.data for output in outputs]


async def test_a_login_is_discovered_made_stored_refreshed_and_revoked(
    issuer: str, tmp_path: Path, context: RunContext[None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    person, storage = Person(), FileStorage(tmp_path / "logins")
    server = GuardedServer(issuer)
    with server.running() as url:
        # Nobody is there: a typed error that says how to log in.
        with pytest.raises(MCPAuthorizationRequired, match=f"`agentkit mcp login {url}`") as required:
            await add(url, OAuth(storage=storage), context)
        assert required.value.url == url
        assert copy.copy(required.value).url == url

        # A person logs in. Ten calls at once need one login.
        assert await add(url, OAuth(storage=storage, on_authorize=person), context, 10) == [
            {"result": n + 1} for n in range(10)
        ]
        (shown,) = person.urls
        query = parse_qs(urlsplit(shown).query)
        assert query["resource"] == [url] and query["code_challenge_method"] == ["S256"]
        assert query["scope"] == ["mcp:read offline_access"] and len(query["state"][0]) >= 40
        assert query["redirect_uri"][0].startswith("http://127.0.0.1:")
        login = stored(storage, url)
        assert login.tokens is not None and login.client is not None
        assert (login.tokens.issuer, login.tokens.resource, login.tokens.scopes[0]) == (issuer, url, "mcp:read")
        assert login.tokens.is_fresh() and login.client.auth_method == "none"

        # The stored login is used without a person, also in another process, from the first request on.
        server.requests.clear()
        assert await add(url, OAuth(storage=storage), context) == [{"result": 1}]
        assert all(has_token for _, _, has_token in server.requests)
        assert {path for _, path, _ in server.requests} == {"/mcp"}

        # It ends soon: refreshed before it is sent. The refresh token is a new one.
        store(storage, url, expires_at=time.time() + 5)
        server.verifier.seen.clear()
        assert await add(url, OAuth(storage=storage), context) == [{"result": 1}]
        second = stored(storage, url).tokens
        assert second is not None and set(server.verifier.seen) == {second.access_token}
        assert second.access_token != login.tokens.access_token
        assert second.refresh_token != login.tokens.refresh_token

        # The server refuses it before its expiry: refreshed, and the request is sent again.
        server.verifier.refused.add(second.access_token)
        assert await add(url, OAuth(storage=storage), context, 5) == [{"result": n + 1} for n in range(5)]
        third = stored(storage, url).tokens
        assert third is not None and third.refresh_token is not None

        # Revoked at the authorization server: without a person a typed error, with one a new login.
        server.verifier.refused.add(third.access_token)
        async with httpx.AsyncClient() as client:
            form = {"token": third.refresh_token, "client_id": login.client.client_id}
            (await client.post(f"{issuer}/token/revocation", data=form)).raise_for_status()
        with pytest.raises(MCPAuthorizationRequired, match="agentkit mcp login"):
            await add(url, OAuth(storage=storage), context)
        assert stored(storage, url).tokens is None
        assert await add(url, OAuth(storage=storage, on_authorize=person), context) == [{"result": 1}]
        assert len(person.urls) == 2
        fourth = stored(storage, url).tokens
        assert fourth is not None

        # Logged out: revoked and deleted.
        assert await OAuthSession(url, OAuth(storage=storage)).log_out() is True
        assert storage.read(login_name(url, "")) is None
    secrets = {
        token
        for each in (login.tokens, second, third, fourth)
        for token in (each.access_token, each.refresh_token)
    }
    text = "\n".join(f"{record.getMessage()} {record.exc_text}" for record in caplog.records)
    assert not [secret for secret in secrets if secret and secret in text]
    assert not [secret for secret in secrets if secret and secret in repr((login, second, third, fourth))]


async def test_a_refresh_in_two_processes_at_once_uses_the_refresh_token_once(
    issuer: str, tmp_path: Path, context: RunContext[None]
) -> None:
    storage, server = FileStorage(tmp_path / "logins"), GuardedServer(issuer)
    program = (
        "import sys, anyio; from agentkit.mcp.oauth import FileStorage, OAuth;"
        "from agentkit.mcp.oauth.session import OAuthSession\n"
        "session = OAuthSession(sys.argv[1], OAuth(storage=FileStorage(sys.argv[2])))\n"
        "async def main(): return await session.access_token()\n"
        "print(anyio.run(main))"
    )
    with server.running() as url:
        await add(url, OAuth(storage=storage, on_authorize=Person()), context)
        store(storage, url, expires_at=time.time() - 1)
        before = stored(storage, url).tokens
        command = [sys.executable, "-c", program, url, str(storage.folder)]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        tokens = {process.communicate(timeout=60)[0].strip() for process in processes}
        after = stored(storage, url).tokens
        assert before is not None and after is not None
        # node-oidc-provider revokes the whole login when a rotated refresh token is used twice.
        assert tokens == {after.access_token} and after.access_token != before.access_token
        assert await add(url, OAuth(storage=storage), context) == [{"result": 1}]


async def test_a_person_who_does_not_agree_gets_a_typed_error(
    issuer: str, tmp_path: Path, context: RunContext[None]
) -> None:
    person = Person(agrees=False)
    auth = OAuth(storage=FileStorage(tmp_path), on_authorize=person)
    refusal = pytest.raises(MCPAuthorizationRequired, match=r"was not granted a login \(access_denied\)")
    with GuardedServer(issuer).running() as url, refusal:
        await add(url, auth, context)
    assert len(person.urls) == 1


async def test_a_person_who_never_comes_back_is_waited_for_and_then_a_typed_error(
    issuer: str, tmp_path: Path, context: RunContext[None]
) -> None:
    async def looks_away(url: str) -> None:
        """Open nothing."""

    auth = OAuth(storage=FileStorage(tmp_path), on_authorize=looks_away, timeout_s=1.5)
    with GuardedServer(issuer).running() as url:
        # The clock of connecting stops meanwhile: the person has a limit of their own.
        toolset = MCPToolset.http(url, auth=auth, pins=None, connect_timeout_s=1.0)
        with pytest.raises(MCPAuthorizationRequired, match=r"got no login within 1\.5 s"):
            async with toolset:
                pass


async def test_a_login_on_another_machine_is_finished_with_the_url_that_it_led_to(
    issuer: str, tmp_path: Path, context: RunContext[None]
) -> None:
    led_to = list[str]()

    class Elsewhere(httpx.AsyncHTTPTransport):
        """A network in which nothing listens on the port of the redirect."""

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path == "/callback":
                led_to.append(str(request.url))
                return httpx.Response(200, request=request, text="not reached")
            return await super().handle_async_request(request)

    async def paste(url: str) -> str:
        person = Person()
        original = httpx.AsyncClient.__init__
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                httpx.AsyncClient,
                "__init__",
                lambda self, **options: original(self, transport=Elsewhere(), **options),
            )
            await person(url)
        return led_to[-1]

    with GuardedServer(issuer).running() as url:
        assert await add(url, OAuth(storage=FileStorage(tmp_path), on_authorize=paste), context) == [{"result": 1}]


async def test_more_scopes_are_asked_for_when_the_server_names_them_and_kept(
    issuer: str, tmp_path: Path, context: RunContext[None]
) -> None:
    person, storage = Person(), FileStorage(tmp_path)
    server = GuardedServer(issuer, scopes=("mcp:read", "mcp:write"))
    with server.running() as url:
        session = OAuthSession(url, OAuth(storage=storage, on_authorize=person, scopes=("mcp:read",)))
        await session.log_in(Challenge())
        login = stored(storage, url).tokens
        assert login is not None and "mcp:write" not in login.scopes
        auth = OAuth(storage=storage, on_authorize=person)
        assert await add(url, auth, context) == [{"result": 1}]
        wider = stored(storage, url).tokens
        assert wider is not None and {"mcp:read", "mcp:write"} <= set(wider.scopes)
    assert len(person.urls) == 2, ([each[-200:] for each in person.urls], login, wider, server.requests)


async def test_tokens_for_another_resource_are_refused_and_so_are_changed_and_expired_ones(
    issuer: str, tmp_path: Path, context: RunContext[None]
) -> None:
    storage = FileStorage(tmp_path)
    with GuardedServer(issuer).running() as url, GuardedServer(issuer).running() as other:
        for each in (url, other):
            await add(each, OAuth(storage=storage, on_authorize=Person()), context)
        own, foreign = stored(storage, url).tokens, stored(storage, other).tokens
        assert own is not None and foreign is not None
        head, body, signature = own.access_token.split(".")
        changed = f"{head}.{body}.{signature[:-8]}{'A' * 8}"
        async with httpx.AsyncClient() as client:
            for token, reason in ((foreign.access_token, "another resource"), (changed, "signature")):
                answer = await client.post(url, json={}, headers={"Authorization": f"Bearer {token}"})
                assert answer.status_code == 401 and reason in answer.text
                assert 'error="invalid_token"' in answer.headers["www-authenticate"]
                assert (
                    f'resource_metadata="{url.removesuffix("/mcp")}/.well-known/'
                    in answer.headers["www-authenticate"]
                )
    from mcp_servers.oauth.protected_resource import ProtectedResource

    later = JWTVerifier(ProtectedResource(url, issuer), now=lambda: time.time() + 700)
    with pytest.raises(TokenRefused, match="has expired"):
        await later.verify(own.access_token)
    assert (await JWTVerifier(ProtectedResource(url, issuer)).verify(own.access_token)).subject == "alice"


async def test_opaque_tokens_are_verified_by_introspection(
    issuer: str, tmp_path: Path, context: RunContext[None]
) -> None:
    from mcp_servers.oauth.protected_resource import ProtectedResource

    storage, person = FileStorage(tmp_path), Person()
    options: dict[str, Any] = {
        "introspection_endpoint": f"{issuer}/token/introspection",
        "client_id": "resource-server",
        "client_secret": "secret-of-the-resource-server",
    }
    with GuardedServer(issuer, "/opaque", **options).running() as url:
        assert await add(url, OAuth(storage=storage, on_authorize=person), context) == [{"result": 1}]
        tokens = stored(storage, url).tokens
        assert tokens is not None and "." not in tokens.access_token
        verifier = IntrospectionVerifier(ProtectedResource(url, issuer, **options))
        assert (await verifier.verify(tokens.access_token)).scopes == ("mcp:read",)
        with pytest.raises(TokenRefused, match="another resource"):
            await IntrospectionVerifier(ProtectedResource(f"{url}2", issuer, **options)).verify(
                tokens.access_token
            )
        assert await OAuthSession(url, OAuth(storage=storage)).log_out() is True
    with pytest.raises(TokenRefused, match="not active"):
        await IntrospectionVerifier(ProtectedResource(url, issuer, **options)).verify(tokens.access_token)


@pytest.mark.parametrize("kind", ["jwt", "opaque"])
async def test_our_own_servers_demand_tokens_under_their_confinement(
    tmp_path: Path, context: RunContext[None], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("MCP_SERVER_OAUTH_CLIENT", "resource-server:secret-of-the-resource-server")
    auth = OAuth(storage=FileStorage(tmp_path), on_authorize=Person())
    with authorization_server(kind=kind) as issuer:
        asked = () if kind == "jwt" else ("--oauth-introspection", f"{issuer}/token/introspection")
        arguments = ("--oauth-issuer", issuer, "--oauth-scope", "mcp:read", *asked)
        with http_server("mcp_servers.time", *arguments) as (url, line), anyio.fail_after(60):
            assert line == f"access tokens: for {url} of {issuer}"
            async with MCPToolset.http(url, auth=auth, pins=None) as toolset:
                tools = {tool.name: tool for tool in await toolset.list_tools(context)}
                output = await tools["calculate"].call({"expression": "6 * 7"}, context)
                assert "42" in str(output.content)
            async with httpx.AsyncClient() as client:
                assert (await client.post(url, json={}, headers={"Authorization": "Bearer x"})).status_code == 401


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--oauth-issuer", "https://a.example"), "needs --http"),
        (("--oauth-scope", "x"), "--oauth-scope needs --oauth-issuer"),
        (("--http", "--oauth-issuer", "http://a.example"), "must be https"),
        (("--http", "--oauth-issuer", "http://127.0.0.1:1"), "cannot be reached"),
        (
            ("--http", "--oauth-issuer", "https://a.example", "--oauth-introspection", "https://a.example/i"),
            "CLIENT_ID",
        ),
    ],
)
async def test_a_server_does_not_start_with_impossible_oauth(arguments: tuple[str, ...], reason: str) -> None:
    command = [sys.executable, "-m", "mcp_servers.time", *arguments]
    environment = {key: value for key, value in os.environ.items() if key != "MCP_SERVER_OAUTH_CLIENT"}
    done = await anyio.run_process(command, check=False, env=environment)
    assert done.returncode != 0 and reason in done.stderr.decode()


async def test_a_client_logs_itself_in_without_a_person(
    issuer: str, tmp_path: Path, context: RunContext[None]
) -> None:
    auth = OAuth(
        client_id="resource-server",
        client_secret="secret-of-the-resource-server",
        grant="client_credentials",
        issuer=issuer,
        storage=FileStorage(tmp_path),
    )
    with GuardedServer(issuer).running() as url:
        assert await add(url, auth, context) == [{"result": 1}]
        with pytest.raises(MCPConnectionError, match=r"refuses the grant: status 401 \(invalid_client\)"):
            wrong = OAuth(
                client_id="resource-server",
                client_secret="wrong",
                grant="client_credentials",
                storage=FileStorage(tmp_path / "other"),
            )
            await add(url, wrong, context)
    assert json.loads(json.dumps(repr(auth))).count("secret-of") == 0
