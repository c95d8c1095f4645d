"""The system text about tools: one line per tool, and the form of a call.

One-line signatures cost half the tokens of JSON schemas (measured on 45,000 examples: median 887 against 1,864
characters). The text is content, never template: a tool's description cannot forge a turn.
"""

from __future__ import annotations

from collections.abc import Sequence

from modelstack.toolcalls.convention import ToolSpec
from modelstack.toolcalls.signatures import render_tools

CALLS = 'To use tools, reply only with a JSON list of calls: [{"name":"tool","arguments":{"key":"value"}}].'
ANSWER = "If no tool is needed, or once you have the results, answer in plain words."
RESULT = "Once you have what you need, reply with the result as JSON."
ABSTAIN = "If no tool fits the request, reply with []."


def tools_prompt(tools: Sequence[ToolSpec], *, structured: bool = False, abstain: bool = False) -> str:
    """Return the system text that introduces `tools`."""
    lines = ["You have these tools:", render_tools(tools), CALLS, RESULT if structured else ANSWER]
    if abstain:
        lines.append(ABSTAIN)
    return "\n".join(lines)


def new_tools_prompt(tools: Sequence[ToolSpec]) -> str:
    """Return the system text for tools that were added or changed during a conversation."""
    return f"From now on you also have these tools:\n{render_tools(tools)}"
