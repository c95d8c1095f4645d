"""Pages that take memory as fast as they can: they are ended, the machine is not, and the next page loads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from browser_site import CHROMIUM, Site, descendants, needs_chromium, site_and_trap
from mcp import Client, StdioServerParameters, stdio_client
from server_harness import REPOSITORY, asker

from mcp_servers.browser.memory import ProcessTree, limit_growth, used_bytes

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.anyio, needs_chromium, pytest.mark.slow]

MAX_TREE_BYTES = 1_500_000_000
"""Of the server with Playwright's driver and Chromium."""

_LAYER = "will-change:transform;position:absolute;width:4000px;height:4000px;background:linear-gradient(red,blue)"
_TEXTURES = """
    const kept = [];
    setTimeout(() => {
        for (let n = 0; n < 12; n++) {
            const gl = document.createElement('canvas').getContext('webgl');
            if (!gl) continue;
            for (let i = 0; i < 40; i++) {
                gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
                const pixels = new Uint8Array(4096 * 4096 * 4).fill(7);
                gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 4096, 4096, 0, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
            }
            kept.push(gl);
        }
    }, 200);
"""
_DATABASE = """
    const asked = indexedDB.open('x');
    asked.onupgradeneeded = () => asked.result.createObjectStore('s');
    asked.onsuccess = () => setInterval(() => {
        const store = asked.result.transaction('s', 'readwrite').objectStore('s');
        for (let i = 0; i < 20; i++) store.put(new Uint8Array(5e6).fill(1), Math.random());
    }, 5);
"""
_ALLOCATING = "const kept = []; for (;;) kept.push(new Float64Array(4e6).fill(1));"
_WORKERS = f"""
    const url = URL.createObjectURL(new Blob(['{_ALLOCATING}']));
    for (let i = 0; i < 20; i++) new Worker(url);
"""
_LABELS = """
    let html = '';
    for (let i = 0; i < 29000; i++) html += `<button aria-label="${'x'.repeat(5000)}${i}">b</button>`;
    d.innerHTML = html;
"""
STORMS = {
    "arrays": f"<script>{_ALLOCATING}</script>",
    "workers": f"<script>{_WORKERS}</script>",
    "layers": f'<div id=d></div><script>d.innerHTML = `<div style="{_LAYER}"></div>`.repeat(5000)</script>',
    "labels": f"<div id=d></div><script>{_LABELS}</script>",
    "textures": f"<script>{_TEXTURES}</script>",
    "database": f"<script>{_DATABASE}</script>",
}


@dataclass(frozen=True)
class Served:
    """A browser server in a process of its own, as users run it.

    Memory and threads of the tests are no part of the measurement.
    """

    client: Client
    pid: int


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with site_and_trap() as (site, _):
        yield site


@pytest.fixture(scope="module")
async def served(site: Site) -> AsyncIterator[Served]:
    """Serve all storms with one browser, which each finds as the storms before left it."""
    arguments = ["-m", "mcp_servers.browser", "--allow", site.origin, "--chromium", CHROMIUM or ""]
    others = servers_below(os.getpid())
    parameters = StdioServerParameters(command=sys.executable, args=arguments, cwd=REPOSITORY)
    async with Client(stdio_client(parameters)) as client:
        (server,) = servers_below(os.getpid()) - others
        yield Served(client, server)


def servers_below(pid: int) -> set[int]:
    """Return the processes below a process that run the browser server."""
    return {each for each, line in descendants(pid).items() if "mcp_servers.browser" in line}


@contextmanager
def peak_bytes(pid: int) -> Iterator[list[int]]:
    """Yield a list whose one item grows to the most that a process and all below it took together."""
    peak, ended = [0], threading.Event()
    tree = ProcessTree(pid)

    def watch() -> None:
        while not ended.wait(0.02):
            peak[0] = max(peak[0], sum(map(used_bytes, tree.members())))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("storm", STORMS)
async def test_a_storm_is_bounded_and_the_next_page_loads(storm: str, site: Site, served: Served) -> None:
    ask = asker(served.client)
    with peak_bytes(served.pid) as peak:
        await ask("open", url=site.page(f"/{storm}", STORMS[storm]))
        for tool in ("outline", "wait_for"):
            await ask(tool, **({"text": "never there", "seconds": 2} if tool == "wait_for" else {}))
        _, is_error = await ask("open", url=site.origin)
        assert not is_error
        assert "Home" in (await ask("outline"))[0]
    assert 0 < peak[0] < MAX_TREE_BYTES


async def test_what_ended_a_page_is_told(site: Site, served: Served) -> None:
    url = site.page(
        "/slow-growth", "<script>const k=[];setInterval(()=>k.push(new Uint8Array(4e7).fill(1)),20)</script>"
    )
    ask = asker(served.client)
    await ask("open", url=url)
    said = [await ask("wait_for", text="never there", seconds=10) for _ in range(2)]
    assert all(is_error for _, is_error in said)
    assert "The page took too much memory and was ended. Call open first." in said[1][0]
    text, is_error = await ask("open", url=site.origin)
    assert not is_error and "this is a new one" in text


async def test_an_ordinary_page_with_much_text_is_left_alone(site: Site, served: Served) -> None:
    url = site.page("/long", "<p>A line of text, as there are many.</p>" * 2_000)
    ask = asker(served.client)
    assert not (await ask("open", url=url))[1]
    assert "A line of text" in (await ask("outline"))[0]


def test_the_kernel_refuses_what_the_guard_comes_too_late_for() -> None:
    """A process that may add 100 MB gets no 200."""
    allocate = "print('ready', flush=True); input(); held = bytearray(200_000_000); print('held')"
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", allocate], stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        limit_growth(process.pid, 100_000_000)
        out, error = process.communicate("\n", timeout=60)
    assert out == "" and "MemoryError" in error
