"""A real HTTP server on loopback that serves one file as a hub or a package index would, and can misbehave."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import quote


@dataclass
class FileServer:
    """Serves `body` under any path, or a package index; what it was asked is in `requests`."""

    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    """Bytes after which each of the next answers breaks off."""
    statuses: list[int] = field(default_factory=list)
    """Sent instead of the next answers."""
    redirect_to: str | None = None
    ignore_range: bool = False
    stall_after: int | None = None
    """Send so many bytes, then nothing, until the server ends."""
    stall_at: str = ""
    """End of the paths that `stall_after` concerns."""
    wheels: Mapping[str, bytes] = field(default_factory=dict)
    """By file name, instead of `body`; other paths are answered with a package index page that lists them."""

    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"server_state": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def url(self, path: str = "model.gguf", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self._http.server_port}/{path}"

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("range") for method, _, headers in self.requests if method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    server_state: FileServer

    def do_HEAD(self) -> None:
        self._note()
        state = self.server_state
        self.send_response(state.statuses.pop(0) if state.statuses else 302)
        for name, value in {"Content-Length": "0", "Location": "/elsewhere", **state.headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self) -> None:
        self._note()
        state = self.server_state
        if state.statuses:
            self.send_error(state.statuses.pop(0))
        elif state.wheels and self._name not in state.wheels:
            links = [f'<a href="/files/{quote(name)}">{name}</a><br>' for name in state.wheels]
            self._send("".join(links).encode(), "text/html")
        elif state.redirect_to is not None and not self.path.startswith("/elsewhere"):
            self.send_response(302)
            self.send_header("Location", state.redirect_to)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._send_file(state.wheels.get(self._name, state.body))

    @property
    def _name(self) -> str:
        return self.path.rpartition("/")[2]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _note(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server_state.requests.append((self.command, self.path, headers))

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, body: bytes) -> None:
        state = self.server_state
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and not state.ignore_range else 0
        if start >= len(body) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        rest = body[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        stalls = state.stall_after is not None and self.path.endswith(state.stall_at)
        n_bytes = state.cuts.pop(0) if state.cuts else state.stall_after if stalls else None
        self.wfile.write(rest[:n_bytes])
        self.wfile.flush()
        if stalls:
            state.stalled.set()
            state.ended.wait()
        self.close_connection = True
