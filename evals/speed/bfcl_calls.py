"""Gold tool calls of BFCL's `simple_python` and `multiple` for the benchmarks.

The files come from a folder given by the user, or from the bfcl-eval wheel (`evals.tool_use.bfcl.data`); this
repository contains none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.tool_use.bfcl.data import Question, data_folder, load_questions
from evals.tool_use.bfcl.renderings import terse_rendering
from modelstack.toolcalls.convention import ToolSpec, render_calls
from modelstack.toolcalls.grammar.dialects import bfcl_tool

CATEGORIES = ("simple_python", "multiple")


@dataclass(frozen=True, slots=True)
class GoldCall:
    """A question with its tools and the correct call in compact form."""

    case_id: str
    question: str
    tools: tuple[ToolSpec, ...]
    name: str
    arguments: dict[str, Any]

    @property
    def text(self) -> str:
        """The reply that makes the correct call."""
        return render_calls([(self.name, self.arguments)], self.tools)


def load(folder: Path | None) -> list[GoldCall]:
    """Return the gold calls of both categories, from `folder` or from the wheel.

    Raises:
        UserError: the folder lacks a file, or the wheel cannot be fetched; the message states the fix.
    """
    found = data_folder(folder)
    return [_gold(question) for category in CATEGORIES for question in load_questions(found, category)]


def _gold(question: Question) -> GoldCall:
    ((name, arguments),) = terse_rendering(question)[0].items()
    tools = tuple(bfcl_tool(function) for function in question.functions)
    return GoldCall(question.id, question.messages[-1]["content"], tools, name, arguments)
