"""Attacks on a login: by the MCP server, by its authorization server, and by a page in the person's browser."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import anyio
import httpx
import httpx2
import pytest
from mcp.server import MCPServer

from agentkit.context import RunContext
from agentkit.errors import MCPAuthorizationRequired, MCPConnectionError, UserError
from agentkit.mcp import MCPToolset
from agentkit.mcp.oauth import MemoryStorage, OAuth
from agentkit.mcp.oauth import requests as oauth_requests
from agentkit.mcp.oauth.challenge import bearer_challenge
from agentkit.mcp.oauth.loopback import open_receiver
from agentkit.mcp.oauth.requests import OAuthError, Requests, open_requests
from agentkit.mcp.oauth.storage import login_name
from agentkit.mcp.oauth.urls import UntrustedURL, checked_url
from tests.agentkit.mcp.conftest import serving

pytestmark = pytest.mark.anyio

TOKEN = "good-token-of-the-test"
Answer = tuple[int, dict[str, str], bytes]
PRM, ASM = "/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-authorization-server"


def as_json(document: Any, status: int = 200) -> Answer:
    return status, {"content-type": "application/json"}, json.dumps(document).encode()


class World:
    """MCP server and authorization server on one port; `answers` replaces the answer at a path."""

    def __init__(self) -> None:
        self.origin = ""
        self.answers: dict[str, Callable[[dict[str, str]], Answer] | Answer] = {}
        self.metadata: dict[str, Any] = {}
        """Changes of the authorization server's metadata."""
        self.requests: list[tuple[str, dict[str, str]]] = []
        """Paths with forms, or the token under "bearer"."""
        server = MCPServer("adder", version="1")

        @server.tool()
        async def add(a: int, b: int) -> int:
            """Add two integers."""
            return a + b

        self._app = server.streamable_http_app()

    def paths(self) -> list[str]:
        """Paths that were requested, those of MCP left out."""
        return [path for path, _ in self.requests if path != "/mcp"]

    def _usual(self, path: str, form: dict[str, str]) -> Answer | None:
        if path == PRM:
            return as_json({"resource": f"{self.origin}/mcp", "authorization_servers": [self.origin]})
        if path == ASM:
            urls = {
                f"{name}_endpoint": f"{self.origin}/{name}" for name in ("authorization", "token", "registration")
            }
            known = {"issuer": self.origin, "code_challenge_methods_supported": ["S256"], **urls}
            known["token_endpoint_auth_methods_supported"] = ["none"]
            return as_json({**known, **self.metadata})
        if path == "/registration":
            return as_json({"client_id": "client", "token_endpoint_auth_method": "none"}, 201)
        if path == "/authorization":
            back = urlencode({"code": "code", "state": form["state"]})
            return 302, {"location": f"{form['redirect_uri']}?{back}"}, b""
        if path == "/token":
            return as_json(
                {"access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600, "refresh_token": "r" * 20}
            )
        return None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        body, path = b"", scope["path"]
        headers = dict(scope["headers"])
        given = headers.get(b"authorization", b"").decode().removeprefix("Bearer ")
        if path == "/mcp" and path not in self.answers:
            self.requests.append((path, {"bearer": given}))
            if given == TOKEN:
                await self._app(scope, receive, send)
                return
            answer: Answer = (401, {"www-authenticate": f'Bearer resource_metadata="{self.origin}{PRM}"'}, b"")
        else:
            while (message := await receive())["type"] == "http.request":
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
            text = (body if scope["method"] == "POST" else scope["query_string"]).decode()
            form = {name: values[0] for name, values in parse_qs(text).items()} | (
                {"bearer": given} if given else {}
            )
            self.requests.append((path, form))
            chosen = self.answers.get(path) or self._usual(path, form) or (404, {}, b"")
            answer = chosen(form) if callable(chosen) else chosen
        status, fields, content = answer
        pairs = [(name.encode(), value.encode()) for name, value in fields.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": content})


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    with serving(made) as url:
        made.origin = url.removesuffix("/mcp")
        yield made


async def visit(url: str) -> None:
    """Follow the redirects of a login."""
    async with httpx.AsyncClient(follow_redirects=True) as browser:
        await browser.get(url)


async def use(world: World, **options: Any) -> Any:
    """Connect and add two numbers."""
    auth = OAuth(**{"storage": MemoryStorage(), "on_authorize": visit, "timeout_s": 10.0, **options})
    context = RunContext(deps=None, tool_name="tool", tool_call_id="1")
    with anyio.fail_after(60):
        async with MCPToolset.http(f"{world.origin}/mcp", auth=auth, pins=None) as toolset:
            (tool,) = await toolset.list_tools(context)
            return (await tool.call({"a": 1, "b": 2}, context)).data


async def test_the_world_of_these_tests_works_without_an_attack(world: World) -> None:
    assert await use(world) == {"result": 3}
    assert world.paths() == [PRM, ASM, "/registration", "/authorization", "/token"]
    form = dict(world.requests)["/token"]
    assert form["resource"] == f"{world.origin}/mcp" and len(form["code_verifier"]) >= 43


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"issuer": "https://honest.example"}, "is of 'https://honest.example'"),
        ({"token_endpoint": "http://token.example/token"}, "token_endpoint=.* must be https"),
        ({"registration_endpoint": "http://169.254.169.254/latest"}, "registration_endpoint=.* must be https"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "not valid at 'authorization_endpoint'"),
        ({"authorization_endpoint": "file:///etc/passwd"}, "not valid at 'authorization_endpoint'"),
        ({"authorization_endpoint": "https://a.example/$(touch${IFS}x)"}, "those of RFC 3986"),
        ({"authorization_endpoint": "https://user:secret@a.example/"}, "has no user name"),
        ({"code_challenge_methods_supported": ["plain"]}, "does not state PKCE with S256"),
        ({"code_challenge_methods_supported": None}, "does not state PKCE with S256"),
    ],
)
async def test_metadata_of_the_authorization_server_is_refused_before_anything_is_sent(
    world: World, changes: dict[str, Any], reason: str
) -> None:
    world.metadata = changes
    with pytest.raises(MCPConnectionError, match=reason):
        await use(world)
    assert not {"/registration", "/authorization", "/token"} & {*world.paths()}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"resource": "https://bank.example/mcp"}, "is for 'https://bank.example/mcp'"),
        ({"resource": "ORIGIN/mcp/other"}, "not for this server"),
        ({"authorization_servers": ["http://login.example"]}, "must be https"),
        ({"authorization_servers": []}, "not valid at 'authorization_servers'"),
    ],
)
async def test_metadata_of_the_resource_is_refused(world: World, document: dict[str, Any], reason: str) -> None:
    usual = {"resource": f"{world.origin}/mcp", "authorization_servers": [world.origin]}
    changed = json.loads(json.dumps({**usual, **document}).replace("ORIGIN", world.origin))
    world.answers[PRM] = as_json(changed)
    with pytest.raises(MCPConnectionError, match=reason):
        await use(world)
    assert {*world.paths()} <= {PRM}


async def test_resource_metadata_of_another_origin_is_not_requested(world: World) -> None:
    with serving(other := World()) as url:
        elsewhere = url.removesuffix("/mcp") + PRM
        world.answers["/mcp"] = (401, {"www-authenticate": f'Bearer resource_metadata="{elsewhere}"'}, b"")
        with pytest.raises(MCPConnectionError, match="must be on the server's own origin"):
            await use(world)
    assert other.requests == []


async def test_redirects_lead_neither_metadata_nor_secrets_to_another_origin(world: World) -> None:
    with serving(other := World()) as url:
        elsewhere = url.removesuffix("/mcp")
        world.answers[ASM] = (302, {"location": f"{elsewhere}{ASM}"}, b"")
        with pytest.raises(MCPConnectionError, match="redirects to another origin"):
            await use(world)
        del world.answers[ASM]
        world.answers["/token"] = (307, {"location": f"{elsewhere}/token"}, b"")
        with pytest.raises(MCPConnectionError, match="not followed with secrets"):
            await use(world)
        assert other.requests == []
    world.answers = {ASM: (302, {"location": ASM}, b"")}
    with pytest.raises(MCPConnectionError, match="redirects more than 3 times"):
        await use(world)


@pytest.mark.parametrize("place", ["another origin", "another path"])
async def test_a_token_does_not_follow_a_redirect_of_the_mcp_server(world: World, place: str) -> None:
    storage = MemoryStorage()
    assert await use(world, storage=storage) == {"result": 3}
    with serving(other := World()) as url:
        target = url if place == "another origin" else f"{world.origin}/elsewhere"
        world.answers = {"/mcp": (307, {"location": target}, b""), "/elsewhere": (404, {}, b"")}
        world.requests.clear()
        with pytest.raises(MCPConnectionError):
            await use(world, storage=storage)
        assert other.requests == []
    assert all("bearer" not in form for path, form in world.requests if path == "/elsewhere")
    assert any(form.get("bearer") == TOKEN for path, form in world.requests if path == "/mcp")


@pytest.mark.parametrize(
    ("body", "headers", "reason"),
    [
        (b'{"x": "' + b"a" * 300_000 + b'"}', {}, "more than 256 KiB"),
        (b'{"x": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", {}, "more than 5,000 objects"),
        (b'{"x": ' + b"[" * 4_000 + b"]" * 4_000 + b"}", {}, "not valid"),
        (b"{}", {"content-encoding": "gzip"}, "compressed"),
        (b"<html>", {}, "not valid"),
    ],
)
async def test_a_document_that_is_too_large_or_none_is_refused(
    world: World, body: bytes, headers: dict[str, str], reason: str
) -> None:
    world.answers[ASM] = (200, {"content-type": "application/json", **headers}, body)
    with pytest.raises(MCPConnectionError, match=reason):
        await use(world)


@pytest.mark.parametrize(
    ("issuer", "reason"),
    [("https://evil.example", "is of another server than"), (None, "lacks `iss`")],
)
async def test_a_response_of_another_authorization_server_is_refused(
    world: World, issuer: str | None, reason: str
) -> None:
    def back(form: dict[str, str]) -> Answer:
        query = {"code": "stolen", "state": form["state"], **({} if issuer is None else {"iss": issuer})}
        return 302, {"location": f"{form['redirect_uri']}?{urlencode(query)}"}, b""

    world.metadata = {"authorization_response_iss_parameter_supported": True}
    world.answers["/authorization"] = back
    with pytest.raises(MCPConnectionError, match=reason):
        await use(world)
    assert "/token" not in world.paths()


async def test_a_pasted_response_with_another_state_is_refused(world: World) -> None:
    async def paste(url: str) -> str:
        return "http://127.0.0.1:1/callback?code=stolen&state=other"

    with pytest.raises(MCPConnectionError, match="another state"):
        await use(world, on_authorize=paste)
    assert "/token" not in world.paths()


async def test_a_page_in_the_browser_can_neither_end_a_login_nor_slip_a_code_in() -> None:
    async with open_receiver("the-state", 0) as receiver, httpx.AsyncClient() as page:
        there = receiver.redirect_uri
        forged = await page.get(f"{there}?code=forged&state=guessed")
        twice = await page.get(f"{there}?code=forged&state=guessed&state=the-state")
        assert (forged.status_code, twice.status_code) == (400, 400) and "forged" not in forged.text
        rebound = await page.get(f"{there}?code=forged&state=the-state", headers={"host": "evil.example"})
        posted = await page.post(f"{there}?code=forged&state=the-state")
        other = await page.get(there.replace("/callback", "/"))
        assert [each.status_code for each in (rebound, posted, other)] == [404, 404, 404]
        with pytest.raises(httpx.RemoteProtocolError):
            await page.get(f"{there}?{'a' * 20_000}")
        right = await page.get(f"{there}?code=right&state=the-state&iss=https%3A%2F%2Fa.example")
        assert right.status_code == 200 and "default-src 'none'" in right.headers["content-security-policy"]
        again = await page.get(f"{there}?code=second&state=the-state")
        assert again.status_code == 400
        response = await receiver.response()
        assert (response.code, response.issuer) == ("right", "https://a.example")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"access_token": "a\r\nHost: b", "token_type": "Bearer"}, "printable ASCII"),
        ({"access_token": TOKEN, "token_type": "mac"}, "only Bearer"),
        ({"access_token": "a" * 20_000, "token_type": "Bearer"}, "at most 16384"),
        ({"access_token": TOKEN, "token_type": "Bearer", "expires_in": -1}, "expires_in"),
        ({"access_token": TOKEN, "token_type": "Bearer", "expires_in": 1e300}, "expires_in"),
        ({}, "access_token"),
    ],
)
async def test_an_answer_of_the_token_endpoint_is_checked_and_not_repeated(
    world: World, answer: dict[str, Any], reason: str
) -> None:
    world.answers["/token"] = as_json(answer)
    with pytest.raises(MCPConnectionError, match=reason) as refused:
        await use(world)
    shown, cause = str(refused.value), refused.value
    while (cause := cause.__cause__ or cause.__context__) is not None:  # type: ignore[assignment]
        shown += str(cause)
    assert TOKEN not in shown and "Host: b" not in shown


async def test_a_server_that_is_never_content_asks_the_person_a_few_times_at_most(world: World) -> None:
    shown = list[str]()

    async def counted(url: str) -> None:
        shown.append(url)
        await visit(url)

    world.answers["/mcp"] = (401, {"www-authenticate": "Bearer"}, b"")
    with pytest.raises(MCPAuthorizationRequired):
        await use(world, on_authorize=counted)
    assert len(shown) <= 3


async def test_a_server_that_moves_to_another_authorization_server_gets_no_refresh_token_there(
    world: World,
) -> None:
    storage = MemoryStorage()
    assert await use(world, storage=storage) == {"result": 3}
    name = login_name(f"{world.origin}/mcp", "")
    login = json.loads(storage.read(name) or "")
    login["tokens"] |= {"access_token": "old-token-of-the-test", "refresh_token": None}
    storage.write(name, json.dumps(login))
    with serving(other := World()) as url:
        other.origin = url.removesuffix("/mcp")
        world.answers[PRM] = as_json({"resource": f"{world.origin}/mcp", "authorization_servers": [other.origin]})
        with pytest.raises(MCPConnectionError, match="names the authorization server"):
            await use(world, storage=storage)
        assert other.requests == []


async def test_calls_that_are_refused_at_once_fail_with_errors_of_their_own(world: World) -> None:
    storage, context = MemoryStorage(), RunContext(deps=None, tool_name="tool", tool_call_id="1")
    assert await use(world, storage=storage) == {"result": 3}
    auth = OAuth(storage=storage)
    async with MCPToolset.http(f"{world.origin}/mcp", auth=auth, pins=None) as toolset:
        (tool,) = await toolset.list_tools(context)
        world.answers["/mcp"] = (401, {"www-authenticate": "Bearer"}, b"")
        world.answers["/token"] = as_json({"error": "invalid_grant"}, 400)  # the login was revoked
        calls = (tool.call({"a": 1, "b": 2}, context) for _ in range(5))
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(each) for each in errors] == [MCPAuthorizationRequired] * 5 and len({*map(id, errors)}) == 5
        assert world.paths().count("/token") == 2  # the first login, and one refresh for all
        del world.answers["/mcp"], world.answers["/token"]
        await use(world, storage=storage)  # somebody logs in, in another place
        assert (await tool.call({"a": 1, "b": 2}, context)).data == {"result": 3}


async def test_a_login_that_was_stored_for_another_server_is_not_sent(world: World) -> None:
    storage = MemoryStorage()
    assert await use(world, storage=storage) == {"result": 3}
    name = login_name(f"{world.origin}/mcp", "")
    login = json.loads(storage.read(name) or "")
    for changes in ({"url": "https://bank.example/mcp"}, {"account": "alice"}):
        storage.write(name, json.dumps({**login, **changes}))
        world.requests.clear()
        with pytest.raises(MCPAuthorizationRequired):
            await use(world, storage=storage, on_authorize=None)
        assert all(not form.get("bearer") for _, form in world.requests)


async def test_a_token_that_the_server_repeats_in_an_error_is_left_out(world: World) -> None:
    storage = MemoryStorage()
    assert await use(world, storage=storage) == {"result": 3}
    told = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": f"bad header: Bearer {TOKEN}"}}
    world.answers["/mcp"] = as_json(told, 400)
    with pytest.raises(MCPConnectionError) as refused:
        await use(world, storage=storage)
    assert TOKEN not in str(refused.value) and "[token]" in str(refused.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.8", "169.254.169.254", "intern.example"])
async def test_a_public_server_cannot_lead_into_this_machine_or_network(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are resolved here: the documentation's public server, and a name with a private address."""

    async def resolve(name: str, *_: Any, **__: Any) -> list[Any]:
        found = {"public.example": "8.8.8.8", "intern.example": "192.168.3.4"}.get(name, name)
        return [(0, 0, 0, "", (found, 0))]

    monkeypatch.setattr(oauth_requests.anyio, "getaddrinfo", resolve)
    monkeypatch.setattr(oauth_requests.urllib.request, "getproxies", dict)
    sent = list[httpx2.Request]()

    async def body() -> AsyncIterator[bytes]:
        yield b"{}"

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return httpx2.Response(200, content=body())

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
        requests = Requests(http, "https://public.example/mcp")
        with pytest.raises(OAuthError, match="on this machine|in a private network"):
            await requests.get(f"https://{host}/.well-known/openid-configuration", "metadata")
        assert sent == []
        assert (await requests.get("https://8.8.4.4/x", "metadata")).status == 200


async def test_http_is_for_loopback_only() -> None:
    async with open_requests("http://127.0.0.1:1/mcp") as requests:
        with pytest.raises(OAuthError, match="must be https"):
            await requests.get("http://10.1.2.3/x", "metadata")
    with pytest.raises(UserError, match="must be https"):
        MCPToolset.http("http://mcp.example/mcp", auth=OAuth())
    with pytest.raises(UserError, match="not both"):
        MCPToolset.http("https://mcp.example/mcp", auth=OAuth(), headers={"authorization": "Bearer x"})


@pytest.mark.parametrize(
    "url",
    ["https://a.example/`id`", "https://a.example/ x", "https:///x", "ftp://a.example/", "https://a.example/#f",
     "https://a.example:99999/", "http://localhost.evil.example/", "https://[::1", "https://a.example/" + "x" * 3_000],
)  # fmt: skip
def test_urls_that_are_never_requested_or_opened(url: str) -> None:
    with pytest.raises(UntrustedURL):
        checked_url(url, "url")


def test_challenges_are_parsed_as_their_grammar_says() -> None:
    found = bearer_challenge(
        ['Basic realm="scope=x", Bearer error_description="error=\\"none\\", scope=all", scope="a b a",'
         ' error=insufficient_scope, resource_metadata="https://a.example/x"']
    )  # fmt: skip
    assert (found.error, found.scopes, found.resource_metadata) == (
        "insufficient_scope",
        ("a", "b"),
        "https://a.example/x",
    )
    assert bearer_challenge(["Basic scope=x", "Digest error=invalid_token"]).scopes is None
    assert bearer_challenge(["Bearer " + 'x="' * 50_000]).error is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"scopes": "read"}, r"scopes=\('read',\)"),
        ({"scopes": ('a"b',)}, "printable ASCII"),
        ({"client_secret": "s"}, "belong to a client_id"),
        ({"client_id": "a", "client_secret": "s", "private_key": "k"}, "either client_secret or private_key"),
        ({"client_id": "a", "client_metadata_url": "https://a.example/c"}, "either client_id or"),
        ({"client_metadata_url": "https://a.example/"}, "https URL with a path"),
        ({"grant": "client_credentials"}, "needs client_id"),
        ({"redirect_port": 70_000}, "0 to 65535"),
        ({"timeout_s": 0}, "positive"),
        ({"issuer": "http://a.example"}, "must be https"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        OAuth(**options)


def test_no_secret_shows_in_what_is_printed(tmp_path: Path) -> None:
    auth = OAuth(client_id="id", client_secret="secret-of-the-client", storage=MemoryStorage())
    toolset = MCPToolset.http("https://a.example/mcp", auth=auth)
    assert "secret-of" not in repr(auth) + repr(toolset) + repr(toolset._target)
