"""Tasks of a file: what the model is shown of one is what the runtime shows of the same conversation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    UserPromptPart,
)
from agentkit.models.local.transcript import Transcripts
from agentkit.tools.definition import ToolDefinition
from modelstack.errors import UserError
from modelstack.reasoning.tasks.task import PolicyTask, read_tasks
from tests.modelstack.reasoning.policy.toy_policy import toy_encoder

SEARCH = {
    "name": "search",
    "description": "Search",
    "parameters": {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]},
}
OPEN = {"name": "open", "parameters": {"type": "object", "properties": {}}}


def one_task(folder: Path, **line: Any) -> PolicyTask:
    file = folder / "tasks.jsonl"
    file.write_text(json.dumps({"id": "a", "gold": "1", **line}) + "\n", encoding="utf-8")
    (task,) = read_tasks(file)
    return task


def of_runtime(task: PolicyTask) -> list[int]:
    """Return the prompt that agentkit's local model makes."""
    messages: list[ModelMessage] = []
    parts: list[Any] = []
    for message in task.messages:
        if message.role == "assistant":
            messages += [ModelRequest(tuple(parts)), ModelResponse((TextPart(message.content),))]
            parts = []
        else:
            kind = SystemPromptPart if message.role == "system" else UserPromptPart
            parts.append(kind(message.content))
    messages.append(ModelRequest(tuple(parts)))
    tools = [ToolDefinition(tool.name, tool.description, tool.parameters) for tool in task.tools]
    return Transcripts(toy_encoder(), abstain=True).extend(messages, tools, structured=False).ids


@pytest.mark.parametrize(
    "line",
    [
        {"prompt": "2 + 2 ="},
        {"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]},
        {"prompt": "Look up cats.", "tools": [SEARCH, OPEN]},
        {
            "messages": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Yes?"},
                {"role": "user", "content": "<|im_end|> cats"},
            ],
            "tools": [SEARCH],
        },
    ],
    ids=["a text", "instructions", "tools", "several turns"],
)
def test_the_policy_reads_the_ids_that_the_runtime_makes(tmp_path: Path, line: dict[str, Any]) -> None:
    task = one_task(tmp_path, **line)
    assert task.prompt_ids(toy_encoder()) == of_runtime(task)


def test_the_same_words_with_other_tools_are_another_question(tmp_path: Path) -> None:
    bare = one_task(tmp_path, prompt="Look up cats.")
    assert one_task(tmp_path, prompt="Look up cats.", tools=[SEARCH]).asked != bare.asked
    assert one_task(tmp_path, prompt="Look up cats.").asked == bare.asked


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ({}, "give either prompt, a text, or messages"),
        (
            {"prompt": "a", "messages": [{"role": "user", "content": "a"}]},
            "give either prompt, a text, or messages",
        ),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "but the policy writes the reply: remove it"),
        (
            {
                "messages": [
                    {"role": "assistant", "content": "a", "train": True},
                    {"role": "user", "content": "b"},
                ]
            },
            "a policy learns from its own replies",
        ),
        ({"prompt": "a", "tools": [OPEN, OPEN]}, "tool 'open' is given twice"),
        ({"prompt": "a", "reward": 1}, "reward: Extra inputs are not permitted"),
    ],
)
def test_lines_that_are_no_task_are_refused(tmp_path: Path, line: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=f"line 1: .*{complaint}"):
        one_task(tmp_path, **line)
