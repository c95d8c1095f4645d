"""Text that is not UTF-8, such as Python names foreign files: a run goes on, is stored, traced and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit import Agent, ModelResponse, ModelRetry, ToolFailed
from agentkit.basics.well_formed import well_formed_data
from agentkit.errors import ToolExecutionError
from agentkit.messages import TextPart, ToolCallPart, messages_from_json, messages_to_json
from agentkit.testing import FunctionModel
from agentkit.tools.tool import ToolOutput

pytestmark = pytest.mark.anyio
NAME = "caf\udce9.txt"
"""What os.listdir says of a name in Latin-1."""
SHOWN = "caf\ufffd.txt"


@dataclass
class File:
    """A tool's own type."""

    name: str


def retry() -> str:
    raise ModelRetry(f"there is no {NAME}")


def failing() -> str:
    raise ToolFailed(f"{NAME} cannot be read")


RETURNED: dict[str, Any] = {
    "text": NAME,
    "list": [NAME, 1],
    "keys": {NAME: {"size": 3}},
    "dataclass": File(NAME),
    "tool output": ToolOutput(NAME, {"names": [NAME]}),
}


def agent_with(tool: Callable[[], Any], **options: Any) -> Agent[None, str]:
    def model(messages: Any, parameters: Any) -> ModelResponse:
        if len(messages) < 2:
            return ModelResponse((ToolCallPart("look", "{}"),))
        return ModelResponse((TextPart("done"),))

    def look() -> Any:
        """Look."""
        return tool()

    return Agent(FunctionModel(model), tools=[look], **options)


@pytest.mark.parametrize("what", [*RETURNED, "retry", "failed"])
async def test_what_a_tool_says_is_stored_traced_and_sent_on(tmp_path: Path, what: str) -> None:
    tools: dict[str, Callable[[], Any]] = {"retry": retry, "failed": failing}
    tool = tools.get(what) or (lambda: RETURNED[what])
    agent = agent_with(tool, checkpointer=tmp_path / "runs.db", trace=tmp_path)
    result = await agent.run(f"look at {NAME}")
    assert result.output == "done"
    stored = messages_to_json(result.messages)
    assert SHOWN in json.dumps(json.loads(stored), ensure_ascii=False)
    assert messages_from_json(stored) == result.messages
    lines = (tmp_path / f"{result.state.run_id}.jsonl").read_text(encoding="utf-8").splitlines()
    assert any(SHOWN in line for line in lines)
    assert (await agent.resume(result.state.run_id)).output == "done"


async def test_an_error_keeps_its_kind_in_a_trace(tmp_path: Path) -> None:
    def broken() -> Any:
        raise OSError(f"no such file: {NAME}")

    with pytest.raises(ToolExecutionError, match="no such file"):
        await agent_with(broken, trace=tmp_path, on_tool_error="raise").run("look")
    (trace,) = tmp_path.glob("run_*.jsonl")
    last = json.loads(trace.read_text(encoding="utf-8").splitlines()[-1])
    assert last["error_type"] == "ToolExecutionError" and SHOWN in last["error"]


@given(st.recursive(st.text(st.characters(codec=None)) | st.integers(), lambda inner: st.lists(inner, max_size=3)))
def test_cleaned_data_can_be_written_and_clean_data_stay(data: Any) -> None:
    cleaned = well_formed_data(data)
    json.dumps(cleaned, ensure_ascii=False).encode()
    assert well_formed_data(cleaned) == cleaned
