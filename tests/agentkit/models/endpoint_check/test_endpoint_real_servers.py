"""Endpoints that other people made, and our own: what the check says of them is so."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentkit.models.endpoint_check.advice import advice_of
from agentkit.models.endpoint_check.checking import EndpointCheck
from agentkit.models.endpoint_check.findings import Finding
from agentkit.models.endpoint_check.sending import Sender
from agentkit.models.http.http_clients import LoopClients
from agentkit.models.openai.messages import Dialect
from tests.modelstack.inference.server.serving import served

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).resolve().parents[4]
LLAMA_CPP = Path(os.environ.get("LLAMA_SERVER_PYTHON", ROOT / ".venv-peers-serving-llama-cpp/bin/python"))
"""Interpreter of an environment with xllamacpp, which is llama.cpp's own server in a wheel."""
OF_EACH_SERVER = (
    "reachable",
    "model list",
    "context window",
    "protocol: chat completions",
    "protocol: Responses",
    "protocol: Anthropic messages",
    "end of stream",
    "usage in stream",
    "usage",
    "json_schema",
    "json_schema without strict",
    "cached tokens",
    "logprobs",
    "context overflow",
    "errors",
)
"""Findings that every one of these servers promises, whatever the model writes."""
OF_OURS = (
    "max_tokens",
    "max_completion_tokens",
    "json_object",
    "tool_choice required",
    "tool_choice named",
    "calls in streams",
    "strict arguments",
    "unknown model",
    "unknown field",
)
_LLAMA_CPP_SERVER = """
import sys, time
import xllamacpp
settings = xllamacpp.CommonParams()
settings.model.path = sys.argv[1]
settings.n_ctx, settings.n_parallel, settings.use_jinja, settings.port = 1024, 1, True, 0
for cpu in (settings.cpuparams, settings.cpuparams_batch):
    cpu.n_threads, cpu.poll = 1, 0
server = xllamacpp.Server(settings)
print(server.listening_address, flush=True)
time.sleep(600)
"""


async def findings_of(url: str) -> Mapping[str, Finding]:
    async with LoopClients(url).borrowed() as client:
        check = EndpointCheck(send=Sender(client, url, None, timeout_s=120.0).send)
        await check.run()
    assert check.end == "complete", check.findings[-1]
    return {finding.id: finding for finding in check.findings}


def assert_held(found: Mapping[str, Finding], *ids: str) -> None:
    assert {id: found[id] for id in ids if not found[id].holds} == {}


async def test_our_server_holds_its_guarantees_even_with_random_weights(tiny_gguf: Path) -> None:
    from modelstack.inference.llama.engine import LlamaCppEngine

    with (
        LlamaCppEngine(tiny_gguf, n_threads=1, n_threads_prefill=1, n_cells=4096) as engine,
        served(engine) as server,
    ):
        found = await findings_of(f"{server.url}/v1")
    assert_held(found, *OF_EACH_SERVER, *OF_OURS, "temperature 0", "seed")
    assert found["protocol: Gemini"].verdict == "fails" and found["images"].verdict == "refused"
    assert found["context window"].figures == {"context_window": 1024}
    assert found["tool calls"].verdict == "fails"  # random weights call nothing by themselves
    given = advice_of(list(found.values()), model="tiny", base_url=f"{server.url}/v1", key_variable=None)
    assert given.can_run and given.dialect == Dialect()


@pytest.mark.skipif(
    not LLAMA_CPP.exists(),
    reason="needs xllamacpp: `python -m evals.speed.mtp_drafts` makes its environment, or set LLAMA_SERVER_PYTHON",
)
async def test_the_server_of_llama_cpp_is_seen_as_it_is(tiny_gguf: Path) -> None:
    with started([str(LLAMA_CPP), "-c", _LLAMA_CPP_SERVER, str(tiny_gguf)]) as url:
        found = await findings_of(url)
    assert_held(found, *OF_EACH_SERVER)
    assert found["context window"].detail == "1,024 tokens (/props)"
    # Facts of this server that its documentation states, and that differ from ours.
    assert (
        found["unknown model"].verdict == found["unknown field"].verdict == found["wrong key"].verdict == "ignored"
    )
    assert found["images"].verdict == "refused" and "image input is not supported" in found["images"].detail
    given = advice_of(list(found.values()), model="m", base_url=url, key_variable=None)
    assert given.dialect == Dialect() and given.profile.context_window == 1024 and given.profile.native_output


@contextmanager
def started(command: list[str]) -> Iterator[str]:
    """Start a server that prints its address first; yield its base URL."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().split()[0].removesuffix("/v1")
        yield f"{address}/v1"
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()
