"""Made data of the golden files: traces with fixed times, tokens and probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from agentkit.approvals.pending import PendingCall
from agentkit.events import (
    AgentEvent,
    ApprovalRequestedEvent,
    GuardrailEvent,
    ModelRequestEvent,
    ModelResponseEvent,
    RunFailedEvent,
    RunFinishedEvent,
    RunStartedEvent,
    ToolCallEvent,
    ToolResultEvent,
)
from agentkit.messages import DecodingStats, ModelRequest, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from agentkit.tracing import jsonl
from agentkit.tracing.jsonl import JsonlTrace
from agentkit.usage import RequestUsage, RunUsage

MARCH = 1_772_353_800.0
"""2026-03-01 08:30 UTC."""
MODEL, ADAPTER = "local:qwen2.5-coder-1.5b", "tools-medium-6 5d1c0f2ab34e"
LONG_NOTE = "Milk, flour, 12 eggs and two kilograms of sugar; the oven must be cleaned before Monday. " * 3
"""Longer than a line, with words that must stay whole."""
TOOLS = ("list_directory", "read_text_file", "write_file", "search_text")
DECODING = DecodingStats(reused_tokens=1310, prefilled_tokens=212, sampled_tokens=19, forced_tokens=31)


def finished_run() -> list[AgentEvent]:
    """A run of a local model with an adapter: two calls, the second of which fails, and an answer."""
    usage = RequestUsage(input_tokens=1522, cache_read_tokens=1310, output_tokens=50)
    first = ToolCallPart("read_text_file", '{"path":"todo.md"}', "1", 0.97, (("search_text", 0.02),))
    second = ToolCallPart(
        "search_text", '{"text":"oven","path":"archive"}', "2", 0.61, (("list_directory", 0.31), ("tree", 0.05))
    )
    reply = ModelResponse((TextPart("Clean the oven."),), usage, MODEL, decoding=DECODING, p_answer=0.93)
    return [
        RunStartedEvent("run_00000000000000a1", None, MODEL, TOOLS, 0, "agentkit", ADAPTER),
        ModelRequestEvent(
            1,
            (ModelRequest((UserPromptPart("What must be done before Monday? It is in todo.md."),)),),
            TOOLS,
            instructions="You help in a bakery. Use the tools: the notes are files.",
        ),
        ModelResponseEvent(1, ModelResponse((first,), usage, MODEL, decoding=DECODING), 1.25),
        ToolCallEvent("read_text_file", "1", '{"path":"todo.md"}', 0.97),
        ToolResultEvent("read_text_file", "1", LONG_NOTE, "success", 0.012),
        ModelResponseEvent(2, ModelResponse((second,), usage, MODEL, decoding=DECODING), 0.75),
        ToolCallEvent("search_text", "2", '{"text":"oven","path":"archive"}', 0.61),
        ToolResultEvent("search_text", "2", "There is no folder archive.", "failed", 0.004),
        GuardrailEvent("output", "no-secrets", "allow", "", 0.001),
        ModelResponseEvent(3, reply, 0.5),
        RunFinishedEvent(
            "run_00000000000000a1", "completed", "Clean the oven.", RunUsage(3, 2, 4566, 3930, 150), 0.61, 2.6
        ),
    ]


def waiting_run() -> list[AgentEvent]:
    """A run that waits for an approval."""
    arguments = f'{{"path":"todo.md","content":"{LONG_NOTE.strip()}"}}'
    made = ToolCallPart("write_file", arguments, "1", 0.88)
    waiting = PendingCall("write_file", "1", arguments, "0" * 64, "the tool does not say that it only reads")
    return [
        RunStartedEvent("run_00000000000000b2", None, "openai:gpt-5.2", TOOLS),
        ModelRequestEvent(1, (ModelRequest((UserPromptPart("Write the list to todo.md."),)),), TOOLS),
        ModelResponseEvent(1, ModelResponse((made,), RequestUsage(812, 0, 64), "gpt-5.2"), 3.5),
        GuardrailEvent(
            "tool_call", "taint", "require_approval", "the text comes from the web", 0.001, "write_file"
        ),
        ApprovalRequestedEvent(waiting),
        RunFinishedEvent("run_00000000000000b2", "needs_approval", None, RunUsage(1, 0, 812, 0, 64), 0.88, 3.6),
    ]


def failed_run() -> list[AgentEvent]:
    """A run whose model could not be reached."""
    return [
        RunStartedEvent("run_00000000000000c3", None, "openai:gpt-5.2", ()),
        ModelRequestEvent(1, (ModelRequest((UserPromptPart("How are you?"),)),), ()),
        RunFailedEvent("run_00000000000000c3", "ModelError", "the server answered 503 twice", RunUsage()),
    ]


def write_traces(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the three runs, an hour apart."""
    runs: Sequence[list[AgentEvent]] = (finished_run(), waiting_run(), failed_run())
    for hour, events in enumerate(runs):
        trace = JsonlTrace(folder)
        with monkeypatch.context() as patch:
            patch.setattr(jsonl.time, "time", lambda hour=hour: MARCH + 3600 * hour)
            for event in events:
                trace(event)
