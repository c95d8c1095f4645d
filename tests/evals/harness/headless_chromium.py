"""A page in headless Chromium, driven over its DevTools protocol: wait for text, read it, take a picture.

`--dump-dom` and `--virtual-time-budget` guess when a page is done and are often wrong where it loads data in
workers; here the page itself says when the text that is waited for is there.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import signal
import subprocess
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0",
)  # fmt: skip
WIDTH, HEIGHT = 1280, 900
PATIENCE_MS = 60_000
"""After this the page says what it shows instead of what is waited for."""
WAIT = """
new Promise((resolve, reject) => {
  const [wanted, unwanted] = %s
  const check = () => {
    const text = document.body.innerText
    const shows = (each) => text.toLowerCase().includes(each.toLowerCase())
    if (wanted.every(shows) && !unwanted.some(shows)) resolve(text)
  }
  new MutationObserver(check).observe(document, {childList: true, subtree: true, characterData: true})
  setTimeout(() => reject(new Error('the page shows: ' + document.body.innerText)), %d)
  check()
})
"""


@dataclass(frozen=True)
class Seen:
    """What a page showed."""

    text: str
    html: str
    png: bytes


@contextmanager
def child(command: Sequence[str], *, ready: str, **options: Any) -> Generator[re.Match[str]]:
    """Run a program until the block ends; begin the block when a line of its output matches `ready`."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    assert process.stdout is not None
    said: list[str] = []
    try:
        for line in process.stdout:
            said.append(line)
            if found := re.search(ready, line):
                break
        else:
            raise AssertionError(f"{command[0]} ended before it was ready: {''.join(said)}")
        # What nobody reads any more would fill the pipe and stop the program.
        rest = Thread(target=process.stdout.read, daemon=True)
        rest.start()
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    rest.join()
    process.stdout.close()


@contextmanager
def chromium(profile: Path) -> Generator[str]:
    """Run Chromium with an empty profile and yield the address of its DevTools."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", f"--window-size={WIDTH},{HEIGHT}", "about:blank"]
    with child(command, ready=r"DevTools listening on ws://([\d.]+:\d+)/") as found:
        yield f"http://{found[1]}"


async def look(devtools: str, url: str, wanted: Sequence[str], unwanted: Sequence[str] = ()) -> Seen:
    """Open a page in a new tab, wait until it shows all of `wanted` and none of `unwanted`; return what it shows.

    Case does not count, since styles change it.
    """
    async with aiohttp.ClientSession() as session:
        async with session.put(f"{devtools}/json/new?about:blank") as response:
            target = (await response.json())["webSocketDebuggerUrl"]
        async with session.ws_connect(target, max_msg_size=0) as socket:
            page = _Page(socket)
            await page.ask("Page.enable")
            await page.ask("Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT,
                           deviceScaleFactor=1, mobile=False)  # fmt: skip
            await page.ask("Page.navigate", url=url)
            await page.event("Page.loadEventFired")
            text = await page.evaluate(WAIT % (json.dumps([list(wanted), list(unwanted)]), PATIENCE_MS))
            html = await page.evaluate("document.documentElement.outerHTML")
            picture = await page.ask("Page.captureScreenshot", format="png")
    return Seen(text, html, base64.b64decode(picture["data"]))


class _Page:
    """One tab's connection: requests have numbers, what comes between is an event."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._n_asked = 0
        self._events: set[str] = set()

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._n_asked += 1
        await self._socket.send_json({"id": self._n_asked, "method": method, "params": parameters})
        while (message := await self._receive()).get("id") != self._n_asked:
            pass
        assert "error" not in message, message
        return message["result"]

    async def event(self, name: str) -> None:
        while name not in self._events:
            await self._receive()

    async def evaluate(self, expression: str) -> str:
        done = await self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]["exception"]["description"]
        return done["result"]["value"]

    async def _receive(self) -> dict[str, Any]:
        message = await self._socket.receive_json()
        if "method" in message:
            self._events.add(message["method"])
        return message
