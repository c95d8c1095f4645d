"""A web site on loopback for the browser tests, and ports that must not be connected to."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from mcp_servers.browser.chromium import NAMES, Settings, sandbox_note

CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

WAIT_S = 60.0
HTML = "text/html; charset=utf-8"


def settings(width: int = 800, height: int = 600) -> Settings:
    """Return how the tests start Chromium."""
    sandbox, _ = sandbox_note(no_sandbox=False)
    return Settings(CHROMIUM or "", sandbox=sandbox, width=width, height=height)


def descendants(root: int) -> dict[int, str]:
    """Return the command lines of the processes below `root`, by id."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # it ended while we looked
            if entry.name.isdecimal():
                stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    below: dict[int, str] = {}
    level = [root]
    while level:
        level = [pid for pid, parent in parents.items() if parent in level]
        for pid in level:
            with suppress(OSError):
                below[pid] = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    return below


class Site:
    """Pages by path; what was asked for is kept."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[str, str]] = {"/": (HTML, "<title>Home</title><h1>Home</h1>")}
        self.pages["/favicon.ico"] = ("image/x-icon", "")
        self.headers: dict[str, dict[str, str]] = {}
        self.released = threading.Event()
        """`/slow` is answered once this is set."""
        self.requests: list[tuple[str, str, str, str]] = []
        """Method, Host header, path with query, body."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.port = self._server.server_address[1]
        self.origin = f"http://127.0.0.1:{self.port}"

    def page(self, path: str, body: str, title: str = "A page", **headers: str) -> str:
        """Serve an HTML body at `path`; return its URL."""
        self.pages[path] = (HTML, f"<!doctype html><title>{title}</title>{body}")
        self.headers[path] = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.origin + path

    def file(self, path: str, content_type: str, body: str) -> str:
        """Serve something else than HTML at `path`; return its URL."""
        self.pages[path] = (content_type, body)
        return self.origin + path

    def asked(self, method: str, path: str) -> list[str]:
        """Return the bodies of the requests for a path."""
        return [body for how, _, where, body in self.requests if (how, where) == (method, path)]

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode("utf-8", "replace")
            site.requests.append((self.command, self.headers.get("host", ""), self.path, body))
            path, _, query = self.path.partition("?")
            if path == "/slow":
                site.released.wait(WAIT_S)
            if path == "/redirect":  # ?to=URL
                self.send_response(302)
                self.send_header("location", unquote(parse_qs(query)["to"][0]))
                self.send_header("access-control-allow-origin", "*")
                self.send_header("content-length", "0")
                self.end_headers()
                return
            content_type, text = site.pages.get(
                path, (HTML, "" if path == "/empty-error" else "<h1>Not found</h1>")
            )
            data = text.encode()
            self.send_response(200 if path in site.pages else 404)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(data)))
            for name, value in site.headers.get(path, {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


class Trap:
    """TCP and UDP ports on loopback that count who comes."""

    def __init__(self) -> None:
        self.connections: dict[int, int] = {}
        self.datagrams: dict[int, int] = {}
        self._came = threading.Condition()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def tcp(self) -> int:
        """Return a port that counts connections, and closes them."""
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        self.connections[port] = 0

        def come() -> None:
            connection, _ = listener.accept()
            self._count(self.connections, port)
            connection.close()

        self._serve(listener, come)
        return port

    def udp(self) -> int:
        """Return a port that counts datagrams."""
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        self.datagrams[port] = 0

        def come() -> None:
            listener.recv(2_048)
            self._count(self.datagrams, port)

        self._serve(listener, come)
        return port

    def wait_for(self, ports: Iterable[int]) -> None:
        """Wait until somebody has come to each of the ports."""
        wanted = set(ports)

        def missing() -> set[int]:
            return {port for port in wanted if not (self.connections.get(port) or self.datagrams.get(port))}

        with self._came:
            if not self._came.wait_for(lambda: not missing(), timeout=WAIT_S):
                raise AssertionError(f"nobody came to {missing()}")

    def close(self) -> None:
        for listener in self._sockets:
            listener.close()
        for thread in self._threads:
            thread.join()

    def _count(self, counts: dict[int, int], port: int) -> None:
        with self._came:
            counts[port] += 1
            self._came.notify_all()

    def _serve(self, listener: socket.socket, come: Callable[[], None]) -> None:
        listener.settimeout(0.05)  # a blocking accept is not ended by close

        def run() -> None:
            while True:
                try:
                    come()
                except TimeoutError:
                    continue
                except OSError:
                    return

        thread = threading.Thread(target=run)
        thread.start()
        self._sockets.append(listener)
        self._threads.append(thread)


@contextmanager
def site_and_trap() -> Iterator[tuple[Site, Trap]]:
    """Serve a site, and a trap beside it."""
    site, trap = Site(), Trap()
    try:
        yield site, trap
    finally:
        site.close()
        trap.close()


def port_of(url: str) -> int:
    """Return a URL's port."""
    port = urlsplit(url).port
    assert port is not None
    return port
