"""Keys, limits, clients that leave or read nothing, and many at once."""

from __future__ import annotations

import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.inference.server.replying import Limits
from tests.modelstack.inference.server.serving import NAME, Served, served, until

ASK = [{"role": "user", "content": "hello"}]
PATH, CHAT = "/v1/completions", "/v1/chat/completions"
LONG = {"model": NAME, "prompt": "hello", "max_tokens": 8_000, "ignore_eos": True, "n": 16}
"""Replies to the ends of the windows, which take some seconds in all."""
SHORT = {"model": NAME, "messages": ASK, "temperature": 1.0, "max_tokens": 3}


@pytest.fixture(scope="module")
def engine(tiny_gguf: Path) -> Iterator[LlamaCppEngine]:
    with LlamaCppEngine(
        tiny_gguf, n_threads=1, n_threads_prefill=1, n_cells=16_384, max_conversations=4
    ) as engine:
        yield engine


def open_replies(found: Served) -> float:
    with found.client as client:
        text = client.get("/metrics", headers={"Authorization": "Bearer k"}).text
    return float(next(line for line in text.splitlines() if line.startswith("modelstack_replies_open")).split()[1])


def test_a_key_is_asked_for_everywhere_but_at_health(engine: LlamaCppEngine) -> None:
    with served(engine, key="k") as found, found.client as client:
        assert client.get("/health").status_code == 200
        for path in ("/v1/models", "/metrics"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"Authorization": "Bearer kk"}).status_code == 401
            assert client.get(path, headers={"Authorization": "bearer k"}).status_code == 200
            assert client.get(path, headers={"x-api-key": "k"}).status_code == 200
        refused = client.post("/v1/messages", json=SHORT)
        assert refused.status_code == 401 and refused.json()["error"]["type"] == "authentication_error"
        assert client.post("/v1/messages", json=SHORT, headers={"x-api-key": "k"}).is_success


def test_a_client_that_leaves_frees_its_place(engine: LlamaCppEngine) -> None:
    with served(engine, limits=Limits(max_running=1, max_waiting=20)) as found, found.client as client:
        for stream in (True, False):
            if stream:
                with client.stream("POST", PATH, json={**LONG, "stream": True}) as response:
                    lines = response.iter_lines()
                    next(lines)
                    assert open_replies(found) == LONG["n"]
            else:
                with pytest.raises(httpx.ReadTimeout):
                    client.post(PATH, json=LONG, timeout=0.1)
            until(lambda: open_replies(found) == 0)
        assert client.post(CHAT, json=SHORT).is_success


def test_a_client_that_reads_nothing_is_left(engine: LlamaCppEngine) -> None:
    """Its stream fills the buffers of the connection; then it is ended, and others are answered meanwhile."""
    limits = Limits(send_timeout_s=0.5)
    with served(engine, limits=limits) as found, found.client as client:
        host, port = found.url.removeprefix("http://").split(":")
        body = httpx.Request("POST", found.url, json={**LONG, "stream": True}).content
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.socket() as idle:
            idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            idle.connect((host, int(port)))
            idle.sendall(head.encode() + body)
            until(lambda: open_replies(found) > 0)
            assert client.post(CHAT, json=SHORT).is_success
            until(lambda: open_replies(found) == 0)


def test_requests_beyond_the_line_are_refused_at_once(engine: LlamaCppEngine) -> None:
    with served(engine, limits=Limits(max_running=1, max_waiting=31)) as found, found.client as client:
        with ThreadPoolExecutor(2) as pool:
            stopped = threading.Event()

            def hold() -> None:
                with (
                    found.client as own,
                    own.stream("POST", PATH, json={**LONG, "stream": True}) as response,
                ):
                    for _ in response.iter_lines():
                        if stopped.is_set():
                            return

            held = [pool.submit(hold) for _ in range(2)]
            until(lambda: open_replies(found) == 32)
            refused = client.post(PATH, json=LONG)
            assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["type"] == "rate_limit_error"
            stopped.set()
            for each in held:
                each.result()
        until(lambda: open_replies(found) == 0)


def test_a_reply_that_takes_too_long_ends_in_an_error(engine: LlamaCppEngine) -> None:
    with served(engine, limits=Limits(reply_timeout_s=0.2)) as found, found.client as client:
        late = client.post(PATH, json=LONG)
        assert late.status_code == 504 and late.json()["error"]["code"] == "timeout"
        streamed = client.post(PATH, json={**LONG, "stream": True})
        assert streamed.status_code == 200
        assert '"code":"timeout"' in streamed.text.strip().splitlines()[-1]
        until(lambda: open_replies(found) == 0)


@pytest.mark.slow
def test_a_thousand_requests_of_fifty_clients_end_in_a_reply_or_an_error(engine: LlamaCppEngine) -> None:
    """Some are long, some are broken off, some are wrong; all others are answered, and nothing is left."""
    draws = [random.Random(number) for number in range(50)]
    ends = Counter[str]()
    with served(engine, limits=Limits(max_running=4, max_waiting=100)) as found:

        def ask(draw: random.Random) -> None:
            with found.client as client:
                for _ in range(20):
                    kind = draw.choice(["whole", "whole", "stream", "left", "wrong"])
                    body = {**SHORT, "max_tokens": draw.randint(1, 12), "stream": kind in ("stream", "left")}
                    if kind == "wrong":
                        body["n"] = -1
                    with client.stream("POST", CHAT, json=body) as response:
                        if kind != "left":
                            text = response.read().decode()
                            assert kind != "stream" or text.strip().endswith("data: [DONE]")
                        ends[f"{kind} {response.status_code}"] += 1

        with ThreadPoolExecutor(len(draws)) as pool:
            list(pool.map(ask, draws))
        until(lambda: open_replies(found) == 0)
    assert sum(ends.values()) == 1_000
    assert set(ends) == {"whole 200", "stream 200", "left 200", "wrong 400"}
    engine.check_integrity()
