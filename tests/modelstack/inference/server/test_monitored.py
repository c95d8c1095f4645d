"""A served model with a monitor: what each protocol says of a reply that was stopped, whole and streamed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anthropic
import numpy as np
import openai
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch", reason="needs torch (extra `train`)")

from modelstack.align.monitor.probe import REPLY, REQUEST, Direction, Probe
from modelstack.align.monitor.watch import MIN_TOKENS, Watch
from modelstack.cli import app
from modelstack.inference.engine import Engine
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.inference.server.served_model import ServedModel
from modelstack.inference.server.turns import FILTERED
from modelstack.inference.torch.engine import TorchEngine
from tests.modelstack.inference.server.serving import NAME, Served, served

ASK: list[Any] = [{"role": "user", "content": "Will it rain in Oslo?"}]
TOOL: dict[str, Any] = {
    "name": "now",
    "description": "The time.",
    "parameters": {"type": "object", "properties": {}},
}
_NOTHING = Direction(np.zeros((1, 64), np.float32), 0.0)
PROBE = Probe((0,), _NOTHING, _NOTHING, 4, {REQUEST: {}, REPLY: {}}, ("f",))
"""Log-odds of 0 for each text: a threshold of 0 stops it, and one of infinity does not."""


@dataclass
class Monitored:
    """A server whose monitor tests switch."""

    server: Served
    request: float = math.inf
    reply: float = math.inf
    asked: list[bool] = field(default_factory=list[bool])

    def watch(self, judges_request: bool) -> Watch:
        self.asked.append(judges_request)
        return Watch(PROBE, self.request if judges_request else math.inf, self.reply)


@pytest.fixture(scope="module", params=["llama.cpp", "torch"])
def running(request: pytest.FixtureRequest, tiny_gguf: Path) -> Iterator[Monitored]:
    engine: Engine
    if request.param == "torch":
        engine = TorchEngine.load(tiny_gguf, state_layers=(0,))
    else:
        engine = LlamaCppEngine(tiny_gguf, n_threads=1, n_threads_prefill=1, n_cells=4096, state_layers=(0,))
    switched: list[Monitored] = []
    model = ServedModel(engine, NAME, new_watch=lambda judges_request: switched[0].watch(judges_request))
    with engine, served(model) as server:
        switched.append(Monitored(server))
        yield switched[0]


@pytest.fixture(params=["request", "reply"])
def stopped(running: Monitored, request: pytest.FixtureRequest) -> Iterator[Monitored]:
    setattr(running, request.param, 0.0)
    yield running
    running.request = running.reply = math.inf


@pytest.fixture
def client(running: Monitored) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_a_chat_completion_ends_with_a_refusal(stopped: Monitored, client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": NAME, "messages": ASK, "max_tokens": 20, "seed": 0, "temperature": 1}
    (choice,) = client.chat.completions.create(**options).choices
    assert (choice.finish_reason, choice.message.content, choice.message.refusal) == (
        "content_filter",
        None,
        FILTERED,
    )
    chunks = list(client.chat.completions.create(**options, stream=True))
    assert chunks[-1].choices[0].finish_reason == "content_filter"
    assert chunks[-1].choices[0].delta.refusal == FILTERED
    n_pieces = sum(bool(chunk.choices[0].delta.content) for chunk in chunks)
    assert n_pieces == 0 if stopped.request == 0 else n_pieces <= MIN_TOKENS


def test_no_call_comes_out_of_a_stopped_reply(stopped: Monitored, client: openai.OpenAI) -> None:
    tools: list[Any] = [{"type": "function", "function": TOOL}]
    options: dict[str, Any] = {"model": NAME, "messages": ASK, "tools": tools, "tool_choice": "required"}
    (choice,) = client.chat.completions.create(**options).choices
    if stopped.request == 0:
        assert choice.finish_reason == "content_filter" and not choice.message.tool_calls
    else:  # nearly all of this call is forced by its grammar: there are too few states to judge
        assert choice.finish_reason in ("content_filter", "tool_calls")


def test_responses_are_incomplete(stopped: Monitored, client: openai.OpenAI) -> None:
    found = client.responses.create(model=NAME, input="Will it rain?", max_output_tokens=20)
    assert found.status == "incomplete" and found.incomplete_details is not None
    assert (found.incomplete_details.reason, found.output_text) == ("content_filter", "")
    *_, last = client.responses.create(model=NAME, input="Will it rain?", max_output_tokens=20, stream=True)
    assert last.type == "response.incomplete"


def test_messages_end_with_a_refusal(stopped: Monitored) -> None:
    options: dict[str, Any] = {"model": NAME, "messages": ASK, "max_tokens": 20}
    with anthropic.Anthropic(base_url=stopped.server.url, api_key="none", max_retries=0) as claude:
        found = claude.messages.create(**options)
        assert (found.stop_reason, found.content) == ("refusal", [])
        with claude.messages.stream(**options) as stream:
            assert stream.get_final_message().stop_reason == "refusal"


def test_a_prompt_without_a_user_is_judged_by_its_reply_alone(running: Monitored, client: openai.OpenAI) -> None:
    running.request = 0.0
    running.asked.clear()
    assert client.completions.create(model=NAME, prompt="Once", max_tokens=8).choices[0].finish_reason == "length"
    call = {"id": "1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    turns: list[Any] = [
        *ASK,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "noon"},
    ]
    tools: list[Any] = [{"type": "function", "function": TOOL}]
    found = client.chat.completions.create(model=NAME, messages=turns, tools=tools, max_tokens=8)
    assert found.choices[0].finish_reason != "content_filter" and running.asked == [False, False]
    running.request = math.inf


def test_a_reply_that_passes_is_that_of_a_server_without_a_monitor(
    running: Monitored, client: openai.OpenAI, tiny_server: Served
) -> None:
    options: dict[str, Any] = {"model": NAME, "messages": ASK, "max_tokens": 16}
    watched = client.chat.completions.create(**options).choices[0]
    assert watched.finish_reason == "length" and watched.message.refusal is None
    if isinstance(running.server.model.engine, LlamaCppEngine):
        with openai.OpenAI(base_url=f"{tiny_server.url}/v1", api_key="none", max_retries=0) as plain:
            assert plain.chat.completions.create(**options).choices[0].message.content == watched.message.content


def test_a_monitor_of_another_model_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    points = {"fpr_0.5": 1.0, "fpr_0.1": 2.0}
    replace(PROBE, thresholds={REQUEST: points, REPLY: points}).save(tmp_path / "monitor.safetensors")
    for monitor, said in ((str(tmp_path / "monitor.safetensors"), "another model or adapter"), ("giant", "giant")):
        arguments = ["serve", str(tiny_gguf), "--port", "0", "--monitor", monitor]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code != 0 and said in " ".join((result.output + str(result.exception)).split())
