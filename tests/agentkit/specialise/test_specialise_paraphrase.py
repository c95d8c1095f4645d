from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from agentkit.messages import ModelResponse, TextPart
from agentkit.specialise.paraphrase import is_faithful, paraphrased, tidied
from agentkit.testing import FunctionModel
from modelstack.data.examples import Call, Example, Message, Tool

TOOL = Tool(name="read", parameters={"type": "object", "properties": {"path": {"type": "string"}}})


def _example(text: str, path: str = "notes/todo.md", name: str = "1") -> Example:
    return Example(
        id=name, source="toy", license="MIT", kind="call", tools=(TOOL,),
        messages=(Message(role="user", content=text),), calls=(Call(name="read", arguments={"path": path}),),
    )  # fmt: skip


OLD = "Read the file notes/todo.md, its last 10 lines."


@pytest.mark.parametrize(
    ("new", "is_kept"),
    [
        ("Show me the last 10 lines of notes/todo.md, please.", True),
        ("Show me the last ten lines of notes/todo.md, please.", False),
        ("Show me the last 10 lines of notes/todo.txt, please.", False),
        ("Show me the last 10 lines of notes/todo.md and of readme.md, please.", False),
        ("Show me the last 10 lines of notes/todo.md for Maria, please.", False),
        ("Sure.", False),
        (OLD.lower(), False),
    ],
)
def test_a_text_is_kept_only_where_its_values_are_the_old_ones(new: str, is_kept: bool) -> None:
    assert is_faithful(OLD, new, _example(OLD)) is is_kept


def test_a_models_quotes_and_further_lines_are_dropped() -> None:
    assert tidied('\n"Open it."\nI hope this helps!') == "Open it."
    assert tidied("") == ""


def test_a_request_is_asked_for_once_and_remembered(tmp_path: Path) -> None:
    asked: list[str] = []

    def rewrite(messages: object, parameters: object) -> ModelResponse:
        asked.append("one")
        return ModelResponse(parts=(TextPart("Please show me what notes/todo.md says, 10 last lines."),))

    example = _example(OLD)

    async def run() -> tuple[list[Example], int]:
        return await paraphrased([example], FunctionModel(rewrite), 1.0, tmp_path / "kept", lambda text: None)

    first, n_asked = anyio.run(run)
    assert n_asked == 1
    assert first[0].messages[0].content.startswith("Please show me")
    assert first[0].calls == example.calls
    kept = tmp_path / "kept"
    kept.write_text(kept.read_text() + '["cut o')  # a kill in the middle of a line
    again, _ = anyio.run(run)
    assert again == first
    assert len(asked) == 1
