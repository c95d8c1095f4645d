"""The torch engine with adapters behind the server, our own client in front of it, and the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from agentkit import Agent
from agentkit.models.openai.model import OpenAICompatibleModel
from agentkit.testing.conformance_of_models import check_model
from modelstack.cli import app
from tests.modelstack.inference.server.serving import NAME, Served, served

ASK = [{"role": "user", "content": "hello"}]


def our_client(found: Served) -> OpenAICompatibleModel:
    return OpenAICompatibleModel(NAME, base_url=f"{found.url}/v1", api_key="")


@pytest.mark.anyio
async def test_our_client_conforms_on_our_server(tiny_server: Served) -> None:
    await check_model(lambda: our_client(tiny_server))


@pytest.mark.anyio
async def test_an_agent_gets_a_typed_output_from_the_server(tiny_server: Served) -> None:
    """Random weights follow a schema because the server's grammar makes them."""
    agent = Agent(our_client(tiny_server), output_type=bool)
    result = await agent.run("Is it?")
    assert result.output in (True, False)


def test_adapters_of_the_torch_engine_are_models_by_name() -> None:
    pytest.importorskip("torch", reason="needs torch (extra `train`)")
    from modelstack.inference.server.served_model import ServedModel
    from tests.modelstack.inference.test_batch_adapters import engine_with

    with engine_with("llama", "calls", "sums") as engine:
        model = ServedModel(engine, NAME, adapters=("calls", "sums"))
        with served(model) as found, found.client as client:
            names = [card["id"] for card in client.get("/v1/models").json()["data"]]
            assert names == [NAME, "calls", "sums"]
            body: dict[str, Any] = {"messages": ASK, "max_tokens": 12}
            texts = [
                client.post("/v1/chat/completions", json={**body, "model": name}).json()["choices"][0]["message"][
                    "content"
                ]
                for name in (*names, NAME)
            ]
            assert len(set(texts[:3])) == 3 and texts[0] == texts[3]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert result.exit_code == 1, result.output
    return " ".join(result.output.split())


def test_what_cannot_be_served_is_said(tiny_gguf: Path, tmp_path: Path) -> None:
    model = str(tiny_gguf)
    assert "set MODELSTACK_API_KEY, or give --no-key" in run(model, "--host", "0.0.0.0")
    assert "write NAME=STAGE" in run(model, "--engine", "torch", "--adapter", "x")
    assert "for the torch engine" in run(model, "--engine", "llama.cpp", "--adapter", f"x={tmp_path}")
    assert "--lora is for llama.cpp" in run(model, "--engine", "torch", "--lora", str(tmp_path))
    assert "is missing" in run("there-is-no-such-model")
    for option in (("--prefill-process",), ("--precision", "int8")):
        assert "are for the torch engine" in run(model, *option)


@pytest.mark.parametrize("is_killed", [False, True], ids=["stopped", "killed"])
def test_a_second_process_reads_long_prompts_beside_a_reply(tiny_gguf: Path, is_killed: bool) -> None:
    pytest.importorskip("torch", reason="needs torch (extra `train`)")
    options = ["--engine", "torch", "--prefill-process", "--precision", "fp32", "--drafter", "none", "--port", "0"]
    arguments = [sys.executable, "-m", "modelstack", "serve", str(tiny_gguf), *options, "--threads", "1"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        watch = threading.Timer(100, process.kill)
        watch.start()
        url = process.stderr.readline().split(" ")[0].removesuffix("/v1")
        running = {"model": "tiny", "prompt": "go", "max_tokens": 900, "ignore_eos": True, "stream": True}
        long = {"model": "tiny", "prompt": "0 1 2 3 4 5 6 7 8 9 " * 20, "max_tokens": 2}
        with (
            httpx.Client(base_url=url, timeout=60) as client,
            client.stream("POST", "/v1/completions", json=running) as response,
        ):
            lines = response.iter_lines()
            next(lines)
            usage = client.post("/v1/completions", json=long).json()["usage"]
            assert usage["prompt_tokens"] > 256
            assert usage["prompt_tokens_details"]["cached_tokens"] >= usage["prompt_tokens"] - 17
        (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("ascii").split()
        settings = Path(f"/proc/{worker}/cmdline").read_bytes().split(b"\0")[-2]
        folder = Path(json.loads(settings)["folder"])
        assert any(folder.glob("*.kv"))
        process.send_signal(signal.SIGKILL if is_killed else signal.SIGTERM)
        assert process.wait(timeout=60) == (-signal.SIGKILL if is_killed else 0)
        watch.cancel()
        for _ in range(300):
            if not folder.exists():
                return
            time.sleep(0.1)
        raise AssertionError("shared memory is left")


def test_the_command_serves_until_it_is_told_to_stop(tiny_gguf: Path) -> None:
    """A reply that runs when the signal comes is finished; the process ends with status 0."""
    arguments = [sys.executable, "-m", "modelstack", "serve", str(tiny_gguf), "--port", "0", "--threads", "1"]
    with subprocess.Popen(
        arguments, stderr=subprocess.PIPE, text=True, env={**os.environ, "MODELSTACK_API_KEY": "k"}
    ) as process:
        assert process.stderr is not None
        watch = threading.Timer(100, process.kill)
        watch.start()
        url = process.stderr.readline().split(" ")[0].removesuffix("/v1")
        body = {"model": "tiny", "prompt": "hello", "max_tokens": 400, "n": 8, "ignore_eos": True, "stream": True}
        with (
            httpx.Client(base_url=url, headers={"Authorization": "Bearer k"}, timeout=60) as client,
            client.stream("POST", "/v1/completions", json=body) as response,
        ):
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert process.wait(timeout=60) == 0
        watch.cancel()
