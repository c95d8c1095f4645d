"""Runs of scripted models whose traces tests export, and the tools that they call."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from agentkit import Agent, AgentRunError, ModelRetry, ToolFailed
from agentkit.messages import ModelResponse
from agentkit.testing import ScriptedModel
from agentkit.testing.models import ScriptItem
from agentkit.tracing.export import ExportReport, RunChoice, export_examples
from modelstack.data.examples import (
    Example,
    check_example,
    read_examples,
)
from modelstack.sft.rendering import render
from modelstack.tokenizer.chat import ChatEncoder
from modelstack.tokenizer.chat_template import chat_encoder
from tests.modelstack.tokenizer.trained import text_tokenizer

ABSTAINED = ModelResponse((), abstained=True)


def double(n: int) -> int:
    """Double a number."""
    return 2 * n


def add(a: int, b: int = 0) -> int:
    """Add numbers."""
    return a + b


def fail() -> str:
    """Fail."""
    raise ToolFailed("no such thing")


def refuse(n: int) -> str:
    """Want something else."""
    raise ModelRetry(f"{n} is odd")


TOOLS = (double, add, fail, refuse)


class Runs:
    """A folder of traces that a test fills and exports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder.parent / "examples.jsonl"

    def run(
        self, *script: ScriptItem, prompt: str = "Go.", name: str = "scripted", tools: Any = TOOLS, **options: Any
    ) -> str:
        """Run a script and return the run's id; the error of a run that fails is dropped."""
        agent = Agent(ScriptedModel(script, name=name), tools=tools, trace=self.folder, **options)
        before = set(self.folder.glob("*"))
        try:
            return agent.run_sync(prompt).run_id
        except AgentRunError:
            (path,) = set(self.folder.glob("*")) - before
            return path.stem

    def edit(self, run_id: str, kind: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change the events of a kind in a trace."""
        path = self.folder / f"{run_id}.jsonl"
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for record in records:
            if record["event_kind"] == kind:
                change(record)
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")

    def write(self, choice: RunChoice | None = None, *, out: Path | None = None, **options: Any) -> ExportReport:
        """Export, by default to `self.out`."""
        return export_examples(
            self.folder, self.out if out is None else out, choice, **{"license_id": "proprietary", **options}
        )

    def export(self, choice: RunChoice | None = None, **options: Any) -> tuple[list[Example], ExportReport]:
        """Export; return the examples as training reads them, each checked and rendered, and the counts."""
        self.out.unlink(missing_ok=True)
        report = self.write(choice, **options)
        examples = list(read_examples(self.out)) if self.out.exists() else []
        assert report.written.total() == len(examples)
        assert report.n_replies == len(examples) + report.replies_left_out.total()
        for example in examples:
            check_example(example)
            assert render(example, toy_encoder()).n_targets
        return examples, report


def toy_encoder() -> ChatEncoder:
    tokenizer = text_tokenizer()
    return chat_encoder(tokenizer)


def targets(examples: Iterable[Example]) -> list[Any]:
    """Return what each example teaches: names and arguments of calls, or the reply."""
    return [[(c.name, c.arguments) for c in example.calls] or example.reply for example in examples]
