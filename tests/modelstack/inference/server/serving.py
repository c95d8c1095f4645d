"""A served model for tests: random weights behind real HTTP on a port of this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import uvicorn

from mcp_servers.uvicorn_settings import uvicorn_settings
from modelstack.inference.engine import Engine
from modelstack.inference.server.app import ServerApp
from modelstack.inference.server.replying import Limits
from modelstack.inference.server.served_model import ServedModel

NAME = "tiny"


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    app: ServerApp
    model: ServedModel

    @property
    def client(self) -> httpx.Client:
        """A new client of the server."""
        return httpx.Client(base_url=self.url, timeout=60)


@contextmanager
def served(
    source: Engine | ServedModel, *, key: str | None = None, limits: Limits | None = None
) -> Iterator[Served]:
    """Serve an engine, or a model, until the block is left."""
    model = source if isinstance(source, ServedModel) else ServedModel(source, NAME)
    app = ServerApp(model, key=key, limits=limits)
    settings = uvicorn_settings(log_level="error")
    config = uvicorn.Config(app.asgi(), host="127.0.0.1", port=0, timeout_graceful_shutdown=1, **settings)
    listener = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", app, model)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds; fail after half a minute."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)
