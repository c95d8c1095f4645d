"""Our own models and toolsets against the kits that are meant for others', and broken ones that they find out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentkit import FunctionToolset, LocalModel, RunContext, Tool, ToolDefinition
from agentkit.mcp import MCPToolset
from agentkit.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from agentkit.models.base import Model, ModelProfile, ModelRequestParameters, OnDelta, TextDelta
from agentkit.models.fallback import FallbackModel
from agentkit.testing import FunctionModel, TestModel, check_model, check_toolset
from agentkit.tools.toolset import Toolset

pytestmark = pytest.mark.anyio
SERVER = """
import json, sys

for line in sys.stdin:
    message = json.loads(line)
    method, id = message["method"], message.get("id")
    result = None
    if method == "initialize":
        info = {"name": "one", "version": "1"}
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
    elif method == "tools/list":
        result = {"tools": [{"name": "ping", "inputSchema": {"type": "object"}}]}
    if result is not None:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": id, "result": result}) + "\\n")
        sys.stdout.flush()
"""


def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@pytest.mark.parametrize(
    "make",
    [
        TestModel,
        lambda: FallbackModel(TestModel(), TestModel()),
        lambda: FunctionModel(lambda messages, parameters: ModelResponse((TextPart("hello"),))),
    ],
    ids=["test", "fallback", "function"],
)
async def test_models_keep_their_promises(make: Callable[[], Model]) -> None:
    await check_model(make)


async def test_the_local_model_keeps_its_promises(tiny_gguf: Path) -> None:
    model = LocalModel(tiny_gguf, context_window=512)
    await check_model(lambda: model)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FunctionToolset([add]),
        lambda: FunctionToolset([add]).prefixed("x").requiring_approval(),
        lambda: MCPToolset.stdio("python", "-c", SERVER, mode="legacy", pins=None),
    ],
    ids=["functions", "view", "mcp"],
)
async def test_toolsets_keep_their_promises(make: Callable[[], Toolset]) -> None:
    await check_toolset(make)


class Broken(Model):
    """Says one thing and gives another, or calls what it may not."""

    def __init__(self, response: ModelResponse, *told: str, grammar: bool = False) -> None:
        self.response, self.told, self.grammar = response, told, grammar

    @property
    def name(self) -> str:
        return "broken"

    @property
    def profile(self) -> ModelProfile:
        return ModelProfile(grammar=self.grammar)

    async def request(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        *,
        on_delta: OnDelta | None = None,
    ) -> ModelResponse:
        for text in self.told if on_delta is not None else ():
            assert on_delta is not None
            on_delta(TextDelta(text))
        if self.response.tool_calls and not parameters.tools:
            return ModelResponse((TextPart("fine"),))
        return self.response


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (Broken(ModelResponse(())), "has parts"),
        (Broken(ModelResponse((TextPart("yes"),)), "no"), "the deltas say"),
        (Broken(ModelResponse((ToolCallPart("hidden", "{}"),)), grammar=True), "only what is allowed"),
        (Broken(ModelResponse((ToolCallPart("look", "{}", "1"), ToolCallPart("look", "{}", "1")))), "its own"),
    ],
)
async def test_a_broken_model_is_found_out(model: Model, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        await check_model(lambda: model)


class Lax(Toolset):
    """Takes any arguments, and has its tool twice, if told so."""

    def __init__(self, n_times: int) -> None:
        self.n_times = n_times

    async def list_tools(self, context: RunContext[Any]) -> Sequence[Tool]:
        async def call(arguments: dict[str, Any], context: RunContext[Any]) -> str:
            return ""

        return [Tool(ToolDefinition("lax", "Anything goes."), call, lambda text: {})] * self.n_times


@pytest.mark.parametrize(("n_times", "complaint"), [(0, "has a tool"), (1, "took the arguments"), (2, "one name")])
async def test_a_broken_toolset_is_found_out(n_times: int, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        await check_toolset(lambda: Lax(n_times))
