"""What the model was told of its tools is in the trace: once, and again where it has changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentkit import Agent
from agentkit.events import AgentEvent, ModelRequestEvent, RunStartedEvent
from agentkit.testing import ScriptedModel, call
from agentkit.tools.definition import ToolDefinition
from agentkit.tools.function import FunctionToolset
from agentkit.tracing.reading import read_events, summarise
from agentkit.tracing.replies import read_run


def double(n: int) -> int:
    """Double a number."""
    return 2 * n


def halve(n: int) -> float:
    """Halve a number."""
    return n / 2


def told(events: list[AgentEvent]) -> list[list[str] | None]:
    """Return the names of the tools that each request told of, None where it told of none."""
    requests = [event for event in events if isinstance(event, ModelRequestEvent)]
    return [None if r.tools is None else [tool.name for tool in r.tools] for r in requests]


def test_the_first_request_tells_of_the_tools_and_later_ones_of_nothing() -> None:
    events: list[AgentEvent] = []
    model = ScriptedModel([call("double", n=1), call("double", n=2), "Four."])
    Agent(model, tools=[double], on_event=events.append).run_sync("x")
    assert told(events) == [["double"], None, None]
    first = next(event for event in events if isinstance(event, ModelRequestEvent))
    assert first.tools == model.calls[0].parameters.tools


def test_an_agent_without_tools_says_so() -> None:
    events: list[AgentEvent] = []
    Agent(ScriptedModel(["Hello."]), on_event=events.append).run_sync("x")
    assert told(events) == [[]]


def test_a_list_that_changed_is_told_again_and_one_that_was_only_asked_for_again_is_not() -> None:
    toolset = FunctionToolset([double])

    def learn() -> str:
        """Get another tool."""
        toolset.remove("learn")
        toolset.add(halve)
        return "done"

    def touch() -> str:
        """Leave the list as it was."""
        toolset.remove("touch")
        toolset.add(touch)
        return "done"

    toolset.add(learn)
    toolset.add(touch)
    events: list[AgentEvent] = []
    model = ScriptedModel([call("touch"), call("learn"), call("halve", n=4), "Two."])
    Agent(model, toolsets=[toolset], on_event=events.append).run_sync("x")
    assert told(events) == [["double", "learn", "touch"], None, ["double", "touch", "halve"], None]


def test_definitions_come_back_as_they_were(tmp_path: Path) -> None:
    run_id = Agent(ScriptedModel(["Hello."]), tools=[double], trace=tmp_path).run_sync("x").run_id
    (reply,) = read_run(tmp_path / f"{run_id}.jsonl").replies
    assert reply.tools is not None
    (tool,) = reply.tools
    assert isinstance(tool, ToolDefinition)
    assert (tool.name, tool.description) == ("double", "Double a number.")
    assert tool.parameters_json_schema["properties"]["n"]["type"] == "integer"


def test_a_run_tells_how_many_messages_came_from_earlier_ones() -> None:
    events: list[AgentEvent] = []
    agent = Agent(ScriptedModel(["Hello.", "Again."]), on_event=events.append)
    agent.run_sync("x", message_history=agent.run_sync("x").messages)
    assert [event.n_history for event in events if isinstance(event, RunStartedEvent)] == [0, 2]


@pytest.mark.parametrize("unknown", [{}, {"n_history_2": 1, "tools_2": []}], ids=["older", "newer"])
def test_traces_of_other_releases_are_read_as_before(tmp_path: Path, unknown: dict[str, Any]) -> None:
    model = ScriptedModel([call("double", n=4), "Eight."])
    run_id = Agent(model, tools=[double], trace=tmp_path).run_sync("x").run_id
    path = tmp_path / f"{run_id}.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for record in records:
        if record["event_kind"] in ("model_request", "run_started"):
            record.pop("n_history", None)
            if record["event_kind"] == "model_request":
                del record["tools"]
            record.update(unknown)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    assert summarise(path).n_tool_calls == 1
    assert told([event for _, event in read_events(path)]) == [None, None]
