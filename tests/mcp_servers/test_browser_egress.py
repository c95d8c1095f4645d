"""Ways out of the browser, each tried for real: beside the allowed site listens a port that nobody may come to.

A way counts only if it leads somewhere: the same pages run once in a browser to which the ports are allowed.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest
from browser_site import CHROMIUM, Site, Trap, needs_chromium, settings, site_and_trap
from mcp import Client
from server_harness import asker

from mcp_servers.browser import chromium
from mcp_servers.browser.chromium import Settings
from mcp_servers.browser.server import build_server

pytestmark = [pytest.mark.anyio, needs_chromium, pytest.mark.xdist_group("browser")]

# {u}: a URL of the forbidden origin, {w}: the same for a WebSocket, {p}: its port, {s}: the allowed origin.
ELEMENTS = {
    "image": "<img src={u}>",
    "source set": "<img srcset='{u} 1x'>",
    "script": "<script src={u}></script>",
    "module": "<script type=module src={u}></script>",
    "style sheet": "<link rel=stylesheet href={u}>",
    "style import": "<style>@import '{u}';</style>",
    "background": "<p style='background:url({u})'>x</p>",
    "font": "<style>@font-face{{font-family:z;src:url({u})}}</style><p style='font-family:z'>x</p>",
    "frame": "<iframe src={u}></iframe>",
    "object": "<object data={u}></object>",
    "embed": "<embed src={u}>",
    "video": "<video src={u} preload=auto></video>",
    "poster": "<video poster={u}></video>",
    "image button": "<input type=image src={u}>",
    "preload": "<link rel=preload as=image href={u}>",
    "module preload": "<link rel=modulepreload href={u}>",
    "prefetch": "<link rel=prefetch href={u}>",
    "drawing": "<svg><image href={u} /></svg>",
}
FRAMES = {
    "written frame": "<iframe srcdoc='<img src={u}>'></iframe>",
    "data frame": "<iframe src='data:text/html,<img src={u}>'></iframe>",
    "redirected image": "<img src='{s}/redirect?to={u}'>",
    "redirected script": "<script src='{s}/redirect?to={u}'></script>",
    "redirected frame": "<iframe src='{s}/redirect?to={u}'></iframe>",
    "redirected twice": "<img src='{s}/redirect?to={s}/redirect%3Fto={u}'>",
    "refresh in a frame": "<iframe srcdoc='<meta http-equiv=refresh content=0;url={u}>'></iframe>",
    "speculation": "<script type=speculationrules>"
    '{{"prefetch":[{{"source":"list","urls":["{u}"],"eagerness":"immediate"}}]}}</script>',
    "prerendering": "<script type=speculationrules>"
    '{{"prerender":[{{"source":"list","urls":["{s}/redirect?to={u}"],"eagerness":"immediate"}}]}}</script>',
}
_WORKER = "new {0}(URL.createObjectURL(new Blob([`{1}`])))"
_RELAY = (
    "{{{{const peer = new RTCPeerConnection({{{{iceServers: [{{{{urls: '{0}:127.0.0.1:{{p}}?transport=tcp', "
    "username: 'a', credential: 'b'}}}}]}}}}); peer.createDataChannel('x'); "
    "peer.createOffer().then(offer => peer.setLocalDescription(offer))}}}}"
)
SCRIPTS = {
    "fetch": "fetch('{u}', {{mode: 'no-cors'}}).catch(() => 0)",
    "fetch that outlives": "fetch('{u}', {{mode: 'no-cors', keepalive: true, method: 'POST'}}).catch(() => 0)",
    "redirected fetch": "fetch('{s}/redirect?to={u}', {{mode: 'no-cors'}}).catch(() => 0)",
    "request": "{{const r = new XMLHttpRequest(); r.open('GET', '{u}'); r.send()}}",
    "beacon": "navigator.sendBeacon('{u}', 'x')",
    "WebSocket": "new WebSocket('{w}')",
    "event source": "new EventSource('{u}')",
    "worker": _WORKER.format("Worker", "fetch('{u}', {{mode: 'no-cors'}}).catch(() => 0)"),
    "worker import": _WORKER.format("Worker", "importScripts('{u}')"),
    "worker WebSocket": _WORKER.format("Worker", "new WebSocket('{w}')"),
    "shared worker": _WORKER.format("SharedWorker", "fetch('{u}', {{mode: 'no-cors'}}).catch(() => 0)"),
    "import": "import('{u}').catch(() => 0)",
    "font face": "new FontFace('q', 'url({u})').load().catch(() => 0)",
    "sound": "new Audio('{u}').play().catch(() => 0)",
    "form in a frame": "{{const f = document.createElement('form'); f.method = 'POST'; f.action = '{u}'; "
    "f.target = 'sink'; document.body.append(f); f.submit()}}",
    "relay": _RELAY.format("turn"),
    "relay with TLS": _RELAY.format("turns"),
}
GROUPS = {"elements": ELEMENTS, "frames": FRAMES, "scripts": SCRIPTS}
# Lead nowhere in this Chromium even where they are allowed; they must not begin to.
QUIET = {
    "icon": "<link rel=icon href={u}>",
    "preconnect": "<link rel=preconnect href={u}>",
    "manifest": "<link rel=manifest href={u}>",
    "symbol": "<svg><use href='{u}#x' /></svg>",
    "attribution": "<img attributionsrc={u}>",
    "ping": "<a href=#x ping={u} id=ping>x</a><script>ping.click()</script>",
    "service worker": "<script>ServiceWorkerContainer.prototype.register.call("
    "navigator.serviceWorker, '/worker.js?{u}').catch(() => 0)</script>",
}
# The paragraph makes the body, which the answers need: they can come before the parser is past the script.
DATAGRAMS = """<p>A paragraph</p><script>
const peer = new RTCPeerConnection({{iceServers: [
    {{urls: 'stun:127.0.0.1:{0}'}}, {{urls: 'turn:127.0.0.1:{1}', username: 'a', credential: 'b'}}]}});
peer.createDataChannel('x');
peer.onicecandidate = event => event.candidate || document.body.append('peer ended.');
peer.createOffer().then(offer => peer.setLocalDescription(offer));
new WebTransport('https://127.0.0.1:{2}/').ready.catch(() => document.body.append('transport ended.'));
</script>"""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def web() -> Iterator[tuple[Site, Trap]]:
    with site_and_trap() as both:
        yield both


@pytest.fixture(scope="module")
async def client(web: tuple[Site, Trap]) -> AsyncIterator[Client]:
    """A browser that may go to the site and nowhere else."""
    async with Client(build_server([web[0].origin], settings())) as client:
        yield client


def snippet(pattern: str, port: int, site: Site) -> str:
    """Return a way out to a port."""
    return pattern.format(u=f"http://127.0.0.1:{port}/x", w=f"ws://127.0.0.1:{port}/x", p=port, s=site.origin)


def page_of(group: str, site: Site, trap: Trap) -> tuple[str, dict[int, str]]:
    """Serve a page with the ways out of a group; return its URL, and the names of the ways by their ports."""
    ports = {trap.tcp(): name for name in GROUPS[group]}
    ways = [snippet(GROUPS[group][name], port, site) for port, name in ports.items()]
    scripts = f"<iframe name=sink></iframe><script>{';'.join(ways)}</script>"
    return site.page(f"/{group}", scripts if group == "scripts" else "".join(ways)), ports


def blocked_ports(text: str) -> set[int]:
    """Return the ports that a result says were not connected to, or not gone to."""
    return {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)(?: \(\d+\)|/x\")", text)}


@pytest.mark.parametrize("group", GROUPS)
async def test_nothing_on_a_page_reaches_another_origin(
    group: str, web: tuple[Site, Trap], client: Client
) -> None:
    site, trap = web
    url, ports = page_of(group, site, trap)
    text, is_error = await asker(client)("open", url=url)
    assert not is_error
    blocked = blocked_ports(text)
    with anyio.move_on_after(60):
        while not blocked >= set(ports):
            text, _ = await asker(client)("wait_for", text="never there", seconds=1)
            blocked |= blocked_ports(text)
    assert {name for port, name in ports.items() if port not in blocked} == set()
    assert {name for port, name in ports.items() if trap.connections[port]} == set()


@pytest.fixture(scope="module")
async def free(web: tuple[Site, Trap]) -> AsyncIterator[tuple[Client, dict[str, set[int]]]]:
    """A browser without the flags that may go to every port of the groups; and the ports by page."""
    site, trap = web
    pages = {url: set(ports) for url, ports in (page_of(group, site, trap) for group in GROUPS)}
    ports = set().union(*pages.values())
    origins = [f"{scheme}://127.0.0.1:{port}" for port in ports for scheme in ("http", "https")]
    async with Client(build_server([site.origin, *origins], settings())) as client:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chromium, "FLAGS", ())
            patch.setattr("mcp_servers.browser.running.check_walls", check_nothing)
            assert not (await asker(client)("open", url=site.origin))[1]
        yield client, pages


async def check_nothing(*arguments: object) -> None:
    """Stand for the check that this browser would not pass."""


async def test_the_same_ways_lead_out_where_they_are_allowed(
    free: tuple[Client, dict[str, set[int]]], web: tuple[Site, Trap]
) -> None:
    client, pages = free
    for url, ports in pages.items():
        assert not (await asker(client)("open", url=url))[1]
        await anyio.to_thread.run_sync(web[1].wait_for, ports)


@pytest.mark.skipif(len(socket.if_nameindex()) < 2, reason="without a network WebRTC sends nothing")
async def test_datagrams_leave_a_browser_without_the_flags(
    free: tuple[Client, dict[str, set[int]]], web: tuple[Site, Trap]
) -> None:
    site, trap = web
    ports = [trap.udp(), trap.udp(), trap.udp()]
    assert not (await asker(free[0])("open", url=site.page("/free-datagrams", DATAGRAMS.format(*ports))))[1]
    await anyio.to_thread.run_sync(trap.wait_for, ports)


async def test_ways_that_lead_nowhere_now_do_not_begin_to(web: tuple[Site, Trap], client: Client) -> None:
    site, trap = web
    ports = {trap.tcp(): name for name in QUIET}
    body = "".join(snippet(QUIET[name], port, site) for port, name in ports.items())
    report = trap.tcp()
    url = site.page(
        "/quiet",
        f"{body}<img src=data:,>",
        content_security_policy=f"img-src 'none'; report-uri http://127.0.0.1:{report}/r",
    )
    text, _ = await asker(client)("open", url=url)
    assert report in blocked_ports(text)
    assert {name for port, name in ports.items() if trap.connections[port]} == set()
    assert trap.connections[report] == 0
    assert site.asked("GET", "/worker.js") == []


async def test_no_datagram_leaves(web: tuple[Site, Trap], client: Client) -> None:
    site, trap = web
    ports = [trap.udp(), trap.udp(), trap.udp()]
    opened, is_error = await asker(client)("open", url=site.page("/datagrams", DATAGRAMS.format(*ports)))
    assert not is_error, opened
    for text in ("peer ended.", "transport ended."):
        seen, is_error = await asker(client)("wait_for", text=text, seconds=10)
        assert not is_error, (opened, seen)
    assert [trap.datagrams[port] for port in ports] == [0, 0, 0]


LEAVING = {
    "link": "<a href={u}>go</a>",
    "redirecting link": "<a href='/redirect?to={u}'>go</a>",
    "link to a new window": "<a href={u} target=_blank>go</a>",
    "link to a new window that redirects": "<a href='/redirect?to={u}' target=_blank>go</a>",
    "form": "<form method=post action={u}><button>go</button></form>",
    "redirecting form": "<form method=post action='/redirect?to={u}'><button>go</button></form>",
    "script": "<button onclick='location = \"{u}\"'>go</button>",
    "script in a new window": "<button onclick='window.open(\"{u}\")'>go</button>",
    "script through a new window": "<button onclick='window.open().location = \"{u}\"'>go</button>",
    "javascript link": "<a href='javascript:location=\"{u}\"'>go</a>",
    "written frame": "<button onclick='top.location = \"{u}\"'>go</button>",
}


@pytest.mark.parametrize("way", LEAVING)
async def test_the_page_does_not_leave_for_another_origin(
    way: str, web: tuple[Site, Trap], client: Client
) -> None:
    site, trap = web
    port = trap.tcp()
    url = site.page("/leaving", f"<h1>Still here</h1>{snippet(LEAVING[way], port, site)}")
    ask = asker(client)
    await ask("open", url=url)
    outline, _ = await ask("outline")
    (ref,) = re.findall(r"\[(e\d+)\]", outline)
    text, is_error = await ask("click", ref=ref)
    assert not is_error
    outline, _ = await ask("outline")
    assert "Still here" in outline and f"page: {url}" in outline
    assert f"http://127.0.0.1:{port}" in text + outline or port in blocked_ports(text + outline)
    assert trap.connections[port] == 0


@pytest.mark.parametrize(
    "body",
    [
        "<meta http-equiv=refresh content='0;url={u}'>",
        "<script>location = '{u}'</script>",
        "<body onload='document.forms[0].submit()'><form method=post action={u}></form>",
    ],
)
async def test_a_page_that_leaves_by_itself_stays(body: str, web: tuple[Site, Trap], client: Client) -> None:
    site, trap = web
    port = trap.tcp()
    url = site.page("/restless", f"<h1>Still here</h1>{snippet(body, port, site)}")
    text, is_error = await asker(client)("open", url=url)
    assert not is_error and f"page: {url}" in text
    assert f'"http://127.0.0.1:{port}/x"' in text
    assert trap.connections[port] == 0


async def test_open_does_not_follow_a_redirect_to_another_origin(web: tuple[Site, Trap], client: Client) -> None:
    site, trap = web
    port = trap.tcp()
    url = f"{site.origin}/redirect?to={site.origin}/redirect%3Fto=http://127.0.0.1:{port}/x"
    text, is_error = await asker(client)("open", url=url)
    assert is_error and f'leads to "http://127.0.0.1:{port}/x", which is not allowed' in text
    assert site.origin in text
    assert trap.connections[port] == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "http://{host}@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}\\@{host}/",
        "http://{host}\t@127.0.0.1:{port}/",
        "http://0x7f.1:{port}/",
        "http://2130706433:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "file:///etc/passwd",
        "view-source:http://{host}/",
        "chrome://version",
        "data:text/html,<img src=http://127.0.0.1:{port}>",
        "javascript:fetch('http://127.0.0.1:{port}')",
        "about:blank",
        "blob:http://{host}/x",
        "https://{host}/",
        "http://localhost:{own}/",
        "http://127.0.0.1.:{own}/",
    ],
)
async def test_open_takes_allowed_origins_alone(url: str, web: tuple[Site, Trap], client: Client) -> None:
    site, trap = web
    port, n_requests = trap.tcp(), len(site.requests)
    asked = url.format(port=port, host=f"127.0.0.1:{site.port}", own=site.port)
    text, is_error = await asker(client)("open", url=asked)
    assert is_error and f"Allowed: {site.origin}." in text
    assert trap.connections[port] == 0 and len(site.requests) == n_requests


async def test_another_name_or_scheme_of_the_same_port_is_another_origin(
    web: tuple[Site, Trap], client: Client
) -> None:
    site, _ = web
    url = site.page(
        "/names",
        f"<img src=http://localhost:{site.port}/by-name><img src=https://127.0.0.1:{site.port}/by-scheme>"
        f"<script>new WebSocket('wss://127.0.0.1:{site.port}/by-socket')</script>"
        f"<img src=http://127.0.0.1:{site.port}/allowed>",
    )
    text, _ = await asker(client)("open", url=url)
    assert f"localhost:{site.port} (" in text and f"127.0.0.1:{site.port} (" in text
    assert len(site.asked("GET", "/allowed")) == 1
    assert not [path for _, host, path, _ in site.requests if path.startswith("/by-") or "localhost" in host]


@pytest.mark.parametrize(
    "href", ["mailto:a@example.com", "custom-scheme:x", "file:///etc/passwd", "view-source:/", "chrome://version"]
)
async def test_an_address_for_another_program_opens_nothing_and_the_page_goes_on(
    href: str, web: tuple[Site, Trap], client: Client
) -> None:
    """Chromium would ask a person whether to run xdg-open, and meanwhile take no input for the page."""
    site, _ = web
    body = f"<a href='{href}'>go</a><button onclick='document.title += \"!\"'>count</button>"
    url = site.page("/programs", body, title="n")
    ask = asker(client)
    await ask("open", url=url)
    link, button = re.findall(r"\[(e\d+)\]", (await ask("outline"))[0])
    for _ in range(2):
        text, is_error = await ask("click", ref=link)
        assert not is_error and f"page: {url}" in text
    assert f"page: {url} | n!" in (await ask("click", ref=button))[0]
    if ":x" in href or "mailto" in href:
        assert f'"{href}"' in text


async def test_names_are_not_looked_up_by_the_browser(web: tuple[Site, Trap], tmp_path: Path) -> None:
    """Chromium's own log of its network tells every name that it asks for."""
    site, _ = web
    log, started = tmp_path / "net.json", tmp_path / "chromium"
    started.write_text(f'#!/bin/sh\nexec {CHROMIUM} --log-net-log={log} "$@"\n', encoding="utf-8")
    started.chmod(0o700)
    url = site.page(
        "/lookups",
        "<link rel=dns-prefetch href=//prefetched.example><link rel=preconnect href=//connected.example>"
        "<img src=http://image.example/><a href=http://link.example/>x</a>",
    )
    plain = settings()
    async with Client(build_server([site.origin], Settings(str(started), sandbox=plain.sandbox))) as client:
        text, is_error = await asker(client)("open", url=url)
        assert not is_error and "image.example:80" in text
    first, *rest = log.read_text(encoding="utf-8").splitlines()
    types = json.loads(first.rstrip(",") + "}")["constants"]["logEventTypes"]
    names = {number: name for name, number in types.items()}
    events = [json.loads(line.rstrip(",")) for line in rest if line.startswith("{") and line.endswith("},")]
    told = [(names[event["type"]], json.dumps(event.get("params", {}))) for event in events]
    assert any("image.example" in what for _, what in told)
    assert not [what for name, what in told if "RESOLVER" in name and ".example" in what]


def test_the_trap_counts() -> None:
    """Zero means something only if one is counted."""
    with site_and_trap() as (_, trap):
        port, datagram_port = trap.tcp(), trap.udp()
        socket.create_connection(("127.0.0.1", port)).close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", ("127.0.0.1", datagram_port))
        trap.wait_for([port, datagram_port])
        assert trap.connections[port] == trap.datagrams[datagram_port] == 1
