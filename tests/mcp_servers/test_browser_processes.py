"""The browser server's processes: whatever ends, nothing of it is left, and what is needed comes back."""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from browser_site import CHROMIUM, Site, descendants, needs_chromium, settings, site_and_trap
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from server_harness import REPOSITORY, asker

from mcp_servers.browser.server import build_server

pytestmark = [
    pytest.mark.xdist_group("browser"),  # one Chromium at a time
    pytest.mark.anyio,
    needs_chromium,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="processes are watched by Linux's pidfd"),
]

END_TIMEOUT_MS = 20_000
INITIALIZE = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "t", "version": "0"},
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with site_and_trap() as (site, _):
        yield site


@pytest.fixture(scope="module")
async def client(site: Site) -> AsyncIterator[Client]:
    """A server in this process, whose environment has a key while the browser starts."""
    async with Client(build_server([site.origin], settings())) as client:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SOME_API_KEY", "secret-value")
            assert not (await asker(client)("open", url=site.origin))[1]
        yield client


def main_process(victim: str, root: int) -> int:
    """Return the process below `root` that speaks through the debugging pipe, or Playwright's driver."""
    sign = {"browser": "--remote-debugging-pipe", "driver": "run-driver"}[victim]
    (found,) = [pid for pid, line in descendants(root).items() if sign in line and "--type=" not in line]
    return found


def still_running(pids: list[int]) -> list[int]:
    """Wait for processes to end; return those that do not."""
    left = []
    for pid in pids:
        try:
            watch = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            poll = select.poll()
            poll.register(watch, select.POLLIN)
            if not poll.poll(END_TIMEOUT_MS):
                left.append(pid)
        finally:
            os.close(watch)
    return left


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose name leaves room for the socket of Chromium's profile (107 bytes in all)."""
    with tempfile.TemporaryDirectory(prefix="b", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def running_server(site: Site, temporary: Path) -> Iterator[tuple[subprocess.Popen[str], dict[int, str]]]:
    """Run the server over stdio with an open page; yield it and the processes below it."""
    arguments = ["--allow", site.origin, "--chromium", CHROMIUM or ""]
    process = subprocess.Popen(
        [sys.executable, "-m", "mcp_servers.browser", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        request(process, 1, "initialize", INITIALIZE)
        opened = request(process, 2, "tools/call", {"name": "open", "arguments": {"url": site.origin}})
        assert not opened.get("isError"), opened
        below = descendants(process.pid)
        assert any("--remote-debugging-pipe" in line for line in below.values())
        yield process, below
    finally:
        process.kill()
        with process:  # closes the pipes and waits
            pass


def request(process: subprocess.Popen[str], number: int, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Send one request and return its result."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())["result"]


@pytest.mark.parametrize("ending", ["end of input", "SIGTERM", "SIGKILL"])
async def test_when_the_server_ends_the_browser_and_its_profile_are_gone(
    ending: str, site: Site, short_path: Path
) -> None:
    with running_server(site, short_path) as (process, below):
        assert list(short_path.iterdir())  # the profile
        if ending == "end of input":
            assert process.stdin is not None
            process.stdin.close()
        else:
            process.send_signal(getattr(signal, ending))
        assert still_running([process.pid, *below]) == []
        assert process.wait() == (0 if ending == "end of input" else -getattr(signal, ending))
        assert list(short_path.iterdir()) == []


async def test_a_killed_browser_or_driver_is_told_and_the_next_open_starts_another(
    site: Site, short_path: Path
) -> None:
    page = site.page("/field", "<input aria-label=Name>")
    with running_server(site, short_path) as (process, _):
        numbers = itertools.count(10)

        def ask(tool: str, **arguments: Any) -> str:
            params = {"name": tool, "arguments": arguments}
            return request(process, next(numbers), "tools/call", params)["content"][0]["text"]

        ask("open", url=page)
        assert "[e1]" in ask("outline")
        for n_killed, victim in enumerate(("browser", "driver"), start=1):
            below = descendants(process.pid)
            os.kill(main_process(victim, process.pid), signal.SIGKILL)
            assert still_running([pid for pid, line in below.items() if "run-driver" not in line]) == []
            ended = "The browser has ended, and its page with it. Call open first."
            assert ask("type_text", ref=f"e{n_killed}", text="Ann").startswith(ended)
            assert "the browser had ended; this is a new one" in ask("open", url=page)
            assert f"[e{n_killed + 1}]" in ask("outline")  # never e1 again
            assert "older outline" in ask("type_text", ref=f"e{n_killed}", text="Ann")


async def test_the_browser_is_gone_when_the_client_leaves(site: Site) -> None:
    others = descendants(os.getpid())  # that tests before this one keep
    async with Client(build_server([site.origin], settings())) as client:
        assert not (await asker(client)("open", url=site.origin))[1]
        below = {pid: line for pid, line in descendants(os.getpid()).items() if pid not in others}
        assert any("--remote-debugging-pipe" in line for line in below.values())
    assert still_running(list(below)) == []


async def test_the_page_outlives_http_connections_and_not_the_http_server(site: Site) -> None:
    command = [sys.executable, "-m", "mcp_servers.browser", "--allow", site.origin, "--http"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = [process.stderr.readline().strip() for _ in range(3)]
        assert "Chromium's sandbox is o" in said[0]
        url, token = (line.partition(": ")[2] for line in said[1:])
        bearer = {"authorization": f"Bearer {token}"}
        for tool, arguments in (("open", {"url": site.origin}), ("outline", {})):
            async with (
                httpx2.AsyncClient(headers=bearer, timeout=60) as http,
                Client(streamable_http_client(url, http_client=http)) as client,
            ):
                text, is_error = await asker(client)(tool, **arguments)
                assert not is_error and "Home" in text
        below = descendants(process.pid)
        assert any("--remote-debugging-pipe" in line for line in below.values())
        process.terminate()
        assert still_running([process.pid, *below]) == []
    finally:
        process.kill()
        process.communicate()


async def test_the_browser_gets_no_keys_from_the_environment_and_no_debugging_port(client: Client) -> None:
    browser = main_process("browser", os.getpid())
    environment = Path(f"/proc/{browser}/environ").read_text(encoding="utf-8", errors="replace")
    assert "HOME=/dev/null" in environment and "secret-value" not in environment
    line = descendants(os.getpid())[browser]
    assert "--remote-debugging-port" not in line and "--proxy-server=socks5://127.0.0.1:" in line


async def test_a_page_whose_process_dies_is_given_up(site: Site, client: Client) -> None:
    ask = asker(client)
    await ask("open", url=site.origin)
    renderers = [pid for pid, line in descendants(os.getpid()).items() if "--type=renderer" in line]
    for renderer in renderers:
        os.kill(renderer, signal.SIGKILL)
    assert still_running(renderers) == []
    text, is_error = await ask("outline")
    assert is_error and "The page crashed. Call open first." in text
    text, is_error = await ask("open", url=site.origin)
    assert not is_error and "the page before did not answer any more; this is a new one" in text
    assert "Home" in (await ask("outline"))[0]


async def test_the_command_line_says_whether_the_sandbox_is_on(site: Site) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mcp_servers.browser", "--allow", site.origin, "--no-sandbox"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0 and done.stderr.startswith("Warning: Chromium's sandbox is off (--no-sandbox).")
