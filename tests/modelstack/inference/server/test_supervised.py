"""A server that outlives the process that evaluates its model: kills, retries, errors, and the end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import anyio
import httpx
import openai
import pytest
from starlette.testclient import TestClient

from modelstack.inference.server.errors import ApiError
from modelstack.inference.server.front import FrontApp, whole_events
from modelstack.inference.server.replying import Limits
from modelstack.inference.server.worker_process import Supervisor, Worker
from tests.modelstack.inference.tiny_gguf import TinyShape, write_tiny_gguf

ASK = [{"role": "user", "content": "hello"}]
CHAT = "/v1/chat/completions"
LONG: dict[str, Any] = {"model": "tiny", "prompt": "go", "max_tokens": 8_000, "ignore_eos": True, "stream": True}


@dataclass(frozen=True)
class Supervised:
    """A supervised server in a process of its own."""

    process: subprocess.Popen[str]
    url: str

    @property
    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=100, headers={"Authorization": "Bearer k"})

    def worker(self) -> int:
        """Return the number of the worker's process."""
        threads = Path(f"/proc/{self.process.pid}/task")
        (worker,) = (each for path in threads.glob("*/children") for each in path.read_text("ascii").split())
        return int(worker)

    def kill_worker(self) -> None:
        os.kill(self.worker(), signal.SIGKILL)

    def memory_bytes(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text("ascii").split()[1]) * 4_096


@contextmanager
def supervised(*arguments: str) -> Iterator[Supervised]:
    command = [sys.executable, "-m", "modelstack", "serve", *arguments, "--supervise", "--port", "0"]
    environment = {**os.environ, "MODELSTACK_API_KEY": "k"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        watch = threading.Timer(200, process.kill)
        watch.start()
        url = process.stderr.readline().split(" ")[0].removesuffix("/v1")
        drained = threading.Thread(target=process.stderr.read, daemon=True)
        drained.start()
        try:
            yield Supervised(process, url)
        finally:
            watch.cancel()
            process.kill()
            drained.join()


@pytest.fixture(scope="module")
def server(tiny_gguf: Path) -> Iterator[Supervised]:
    with supervised(str(tiny_gguf), "--threads", "1", "--running", "4", "--waiting", "100") as found:
        yield found


@pytest.fixture
def endless_server(tmp_path: Path) -> Iterator[Supervised]:
    """A server whose replies are still being written, however late a worker is killed."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf", shape=TinyShape(context=16_384), ends=False)
    with supervised(str(path), "--threads", "1", "--running", "4", "--waiting", "100") as found:
        yield found


def last_data(text: str) -> Any:
    return json.loads(text.strip().splitlines()[-1].removeprefix("data: "))


def test_requests_go_through_to_the_worker_and_back(server: Supervised) -> None:
    with (
        server.client as client,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as official,
    ):
        create = cast(Any, official.chat.completions.create)
        whole = create(model="tiny", messages=ASK, max_tokens=5, seed=1, temperature=1.0)
        pieces = create(model="tiny", messages=ASK, max_tokens=5, seed=1, temperature=1.0, stream=True)
        assert "".join(each.choices[0].delta.content or "" for each in pieces) == whole.choices[0].message.content
        assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
        assert client.get("/health").json() == {"status": "ok"}
        assert "modelstack_worker_restarts " in client.get("/metrics").text
        assert client.get("/nowhere").json()["error"]["message"].endswith("does not exist on this server")
        assert client.post(CHAT, json={"model": "other", "messages": ASK}).status_code == 404
        assert client.post(CHAT, content=b"[" * 100).json()["error"]["message"].startswith("the body is not JSON")
        refused = httpx.post(server.url + "/v1/messages", json={})
        assert refused.status_code == 401 and refused.json()["error"]["type"] == "authentication_error"
        assert "modelstack" not in httpx.get(server.url + "/metrics").text
        too_large = client.post(CHAT, content=b" " * 8_000_001)
        assert too_large.status_code == 413


def test_a_stream_whose_worker_is_killed_ends_in_an_error_of_its_protocol(endless_server: Supervised) -> None:
    server = endless_server
    streams: dict[str, dict[str, Any]] = {
        "/v1/completions": LONG,
        "/v1/messages": {"model": "tiny", "messages": ASK, "max_tokens": 8_000, "stream": True},
        "/v1/responses": {"model": "tiny", "input": "hello", "stream": True},
    }
    busy = threading.Barrier(len(streams) + 1)

    def read(path: str, body: dict[str, Any]) -> str:
        with server.client as client, client.stream("POST", path, json=body) as response:
            parts = response.iter_text()
            text = next(parts)
            busy.wait(60)
            return text + "".join(parts)

    with ThreadPoolExecutor(len(streams)) as pool:
        reading = {path: pool.submit(read, path, body) for path, body in streams.items()}
        busy.wait(60)
        server.kill_worker()
    for path, found in reading.items():
        text = found.result()
        error = last_data(text)["error"]
        assert "ended during this reply; ask again" in error["message"]
        assert error.get("code") == "worker_ended" or (path, error["type"]) == ("/v1/messages", "overloaded_error")
        events = [line for line in text.splitlines() if line.startswith("event: ")]
        assert (events[-1:] == ["event: error"]) == (path != "/v1/completions")
    with server.client as client:
        assert client.post("/v1/completions", json={**LONG, "max_tokens": 3, "stream": False}).is_success


def test_a_reply_that_has_not_begun_is_written_by_the_next_worker(server: Supervised) -> None:
    with server.client as client, ThreadPoolExecutor(1) as pool:
        whole = pool.submit(client.post, "/v1/completions", json={**LONG, "max_tokens": 400, "stream": False})
        time.sleep(0.05)
        before = server.worker()
        server.kill_worker()
        reply = whole.result()
        assert reply.json()["usage"]["completion_tokens"] == 400
        assert server.worker() != before


@pytest.mark.slow
def test_a_thousand_requests_of_fifty_clients_end_while_workers_are_killed(server: Supervised) -> None:
    """Each request ends in a reply, or in an error that says what happened; the server's memory stays."""
    draws = [random.Random(number) for number in range(50)]
    ends = Counter[str]()
    n_kills = 2

    def ask(draw: random.Random) -> None:
        with server.client as client:
            for _ in range(20):
                kind = draw.choice(["whole", "whole", "stream", "left", "wrong"])
                body = {"model": "tiny", "messages": ASK, "max_tokens": draw.randint(1, 40), "temperature": 1.0}
                body["stream"] = kind in ("stream", "left")
                if kind == "wrong":
                    body["n"] = -1
                with client.stream("POST", CHAT, json=body) as response:
                    if kind == "left":
                        ends["left"] += 1
                        continue
                    text = response.read().decode()
                if kind == "stream" and response.is_success:
                    is_whole = text.endswith("data: [DONE]\n\n")
                    assert is_whole or last_data(text)["error"]["code"] == "worker_ended", text[-300:]
                    ends["stream" if is_whole else "stream, worker_ended"] += 1
                else:
                    error = json.loads(text).get("error")
                    ends[f"{kind} {response.status_code}" + (f", {error['code']}" if error else "")] += 1

    memory = server.memory_bytes()
    over = threading.Event()

    def kill() -> None:
        for _ in range(n_kills):
            if over.wait(2.0):
                return
            with server.client as client:
                while client.get("/health").status_code == 503:
                    time.sleep(0.1)
            server.kill_worker()

    with ThreadPoolExecutor(len(draws) + 1) as pool:
        killing = pool.submit(kill)
        asking = [pool.submit(ask, draw) for draw in draws]
        for each in asking:
            each.result()
        over.set()
        killing.result()
    assert sum(ends.values()) == 1_000
    known = {"whole 200", "stream", "left", "wrong 400, None", "stream, worker_ended"}
    # Wrong ones too: what a request says is read by the worker, and both of its workers may end before they did.
    ended = {f"{kind} 503, worker_ended" for kind in ("whole", "stream", "wrong")}
    assert set(ends) <= known | ended, ends
    assert ends["whole 200"] + ends["stream"] > 400
    assert server.memory_bytes() < memory + 30e6
    with server.client as client:
        assert client.post(CHAT, json={"model": "tiny", "messages": ASK, "max_tokens": 3}).is_success


def test_a_signal_lets_running_replies_end_and_ends_the_worker(tiny_gguf: Path) -> None:
    with supervised(str(tiny_gguf), "--threads", "1") as found:
        worker = found.worker()
        with (
            found.client as client,
            client.stream("POST", "/v1/completions", json={**LONG, "max_tokens": 400}) as response,
        ):
            lines = response.iter_lines()
            next(lines)
            found.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert found.process.wait(timeout=60) == 0
        assert not Path(f"/proc/{worker}").exists()


def test_a_worker_does_not_outlive_a_killed_server(tiny_gguf: Path) -> None:
    with supervised(str(tiny_gguf), "--threads", "1") as found:
        worker = found.worker()
        found.process.kill()
        for _ in range(200):
            if not Path(f"/proc/{worker}").exists():
                return
            time.sleep(0.05)
    raise AssertionError("the worker is left")


def test_a_model_that_cannot_be_loaded_is_said_by_the_worker() -> None:
    command = [sys.executable, "-m", "modelstack", "serve", "there-is-no-such-model", "--supervise"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "is missing" in " ".join(done.stderr.split())


class _Workers(Supervisor):
    """Workers that a test plays."""

    def __init__(self, *answers: Callable[[httpx.Request], httpx.Response], alive: bool = False) -> None:
        super().__init__([], Path(), max_waiting=1)
        self._answers, self._is_alive = list(answers), alive
        self.n_asked = 0

    async def worker(self) -> Worker:
        transport = httpx.MockTransport(self._answers[self.n_asked])
        self.n_asked += 1
        client = httpx.AsyncClient(transport=transport, base_url="http://worker")
        worker = Worker(cast(Any, None), client, {})
        if not self._is_alive:
            worker.ended.set()
        return worker


def ends(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadError("the connection broke")


def answers(request: httpx.Request) -> httpx.Response:
    content = json.dumps({"asked": request.content.decode()}).encode()
    return httpx.Response(200, headers={"content-type": "application/json"}, stream=httpx.ByteStream(content))


def post(workers: Supervisor) -> httpx.Response:
    app = FrontApp(workers, key=None, limits=Limits()).asgi()
    return cast(Any, TestClient(app)).post("/v1/completions", content=b"hello")


def test_a_request_that_ends_two_workers_is_given_to_no_third() -> None:
    workers = _Workers(ends, ends, answers)
    reply = post(workers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "worker_ended")
    assert "ended 2 times during this request" in reply.json()["error"]["message"]
    assert workers.n_asked == 2
    assert post(_Workers(ends, answers)).json() == {"asked": "hello"}


def fails(request: httpx.Request) -> httpx.Response:
    raise ValueError("a secret detail")


def test_a_fault_of_the_server_itself_has_the_form_of_its_errors() -> None:
    reply = post(_Workers(fails))
    assert reply.status_code == 500
    assert reply.json()["error"]["message"] == "the server failed; its log has the reason"


def test_a_worker_that_lives_and_closes_the_connection_is_not_asked_again() -> None:
    workers = _Workers(ends, answers, alive=True)
    reply = post(workers)
    assert reply.status_code == 502 and "the connection broke" in reply.json()["error"]["message"]
    assert workers.n_asked == 1


@pytest.mark.anyio
async def test_requests_beyond_the_line_for_a_worker_are_refused() -> None:
    supervisor = Supervisor([], Path(), max_waiting=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervisor.worker)
        await anyio.sleep(0)
        with pytest.raises(ApiError, match="1 requests wait until the model is loaded again"):
            await supervisor.worker()
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_stream_is_cut_only_between_events() -> None:
    async def parts() -> AsyncIterator[bytes]:
        for part in (b"data: 1\n", b"\ndata: 2\n\nda", b"ta: 3\n\n", b"data: half"):
            yield part

    found = [each async for each in whole_events(parts())]
    assert found == [b"data: 1\n\ndata: 2\n\n", b"data: 3\n\n"]
