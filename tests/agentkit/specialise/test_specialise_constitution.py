from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
import typer
from typer.testing import CliRunner

from agentkit.errors import ContextWindowExceeded, ModelError, UserError
from agentkit.messages import ModelMessage, ModelRequest, ModelResponse, SystemPromptPart, TextPart, UserPromptPart
from agentkit.models import resolve
from agentkit.models.base import ModelRequestParameters
from agentkit.models.local.model import LocalModel
from agentkit.specialise.constitution.cli import register
from agentkit.specialise.constitution.models import ModelWriter, chooser_of, messages_of
from agentkit.testing import FunctionModel, ScriptedModel
from modelstack.data.examples import read_examples
from modelstack.preferences.constitution.asking import Turn, Unanswered
from modelstack.preferences.constitution.quoting import unfenced
from modelstack.preferences.constitution.schema import read_constitution
from modelstack.preferences.examples import read_preferences


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)
    register(app)
    return app


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    lines = [{"prompt": f"Question {number}?"} for number in range(3)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def _run(app: typer.Typer, *arguments: object) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=True)


def test_turns_become_requests_and_responses() -> None:
    turns = [
        Turn("system", "s"),
        Turn("user", "u"),
        Turn("assistant", "a"),
        Turn("user", "<|im_end|>"),
        Turn("user", "w"),
    ]
    assert messages_of(turns) == (
        ModelRequest((SystemPromptPart("s"), UserPromptPart("u"))),
        ModelResponse((TextPart("a"),)),
        ModelRequest((UserPromptPart("<|im_end|>"), UserPromptPart("w"))),
    )


def test_a_writer_passes_its_settings_on_and_allows_no_tools() -> None:
    model = ScriptedModel(["yes"])
    writer = ModelWriter(model, "openai:x")
    assert anyio.run(lambda: writer.write([Turn("user", "?")], seed=3, max_tokens=5, temperature=0.2)) == "yes"
    (call,) = model.calls
    settings = call.parameters.settings
    assert (settings.seed, settings.max_tokens, settings.temperature) == (3, 5, 0.2)
    assert call.parameters.tool_choice == "none"
    assert writer.name == "openai:x"


def test_what_a_model_cannot_answer_is_told_apart_from_a_failed_request() -> None:
    filtered = ModelResponse((TextPart("half"),), finish_reason="content_filter")
    model = ScriptedModel([ContextWindowExceeded("too long"), filtered, ModelError("down")])

    async def write() -> str:
        return await ModelWriter(model, "m").write([Turn("user", "?")], seed=0, max_tokens=5, temperature=0.0)

    for error, told in ((Unanswered, "too long"), (Unanswered, "filtered"), (ModelError, "down")):
        with pytest.raises(error, match=told):
            anyio.run(write)


def test_a_local_model_chooses_by_its_own_probabilities_and_others_are_counted(tiny_gguf: Path) -> None:
    assert chooser_of(ScriptedModel([])) is None
    model = LocalModel(tiny_gguf, n_threads=1, n_threads_prefill=1)
    try:
        chooser = chooser_of(model)
        assert chooser is not None
        chosen = anyio.run(lambda: chooser.choose([Turn("user", "Which?")], ("A", "B"), seed=0))
        assert sum(chosen) == pytest.approx(1)
        assert 0 < chosen[0] < 1
        assert ModelWriter(model, "local:x").name.startswith("local:x ")
    finally:
        model.close()


class Answering:
    """A model that revises, and prefers the longer of two replies; it can be killed."""

    def __init__(self) -> None:
        self.n_asked = 0
        self.dies_at: int | None = None

    def __call__(self, messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        self.n_asked += 1
        if self.dies_at is not None and self.n_asked > self.dies_at:
            raise ModelError("the server is down")
        return ModelResponse((TextPart(self._answer(messages, parameters)),))

    def _answer(self, messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> str:
        last = messages[-1].parts[-1]
        assert isinstance(last, UserPromptPart)
        texts = dict(unfenced(last.text))
        if texts:
            return "A" if len(texts["reply A"]) > len(texts["reply B"]) else "(B)"
        constitution = read_constitution()
        if last.content in {each.critique for each in constitution.revising}:
            return "It says too little."
        if last.content in {each.revision for each in constitution.revising}:
            return f"Revised reply: In full, behind {len(messages)} messages."
        return "Short." if (parameters.settings.seed or 0) % 2 else "A longer reply."


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Answering:
    answering = Answering()
    model = FunctionModel(answering)
    monkeypatch.setattr(resolve, "resolve_model", lambda spec: model)
    return answering


def test_revise_leaves_examples_that_sft_reads(
    app: typer.Typer, prompts: Path, answering: Answering, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = _run(app, "constitution", "revise", "default", "revision.rounds=2", "-p", prompts, "-m", "m", "-o", out)
    assert done.exit_code == 0, done.output
    assert "3 examples from 3 prompts" in done.output
    examples = list(read_examples(out / "examples.jsonl"))
    assert all((each.reply or "").startswith("In full, behind") for each in examples)
    assert answering.n_asked == 3 * 5


def test_compare_leaves_pairs_that_prefer_reads(
    app: typer.Typer, prompts: Path, answering: Answering, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = _run(app, "constitution", "compare", "default", "n_samples=2", "-p", prompts, "-m", "m", "-o", out)
    assert done.exit_code == 0, done.output
    pairs = list(read_preferences(out / "pairs.jsonl"))
    assert [pair.chosen.reply for pair in pairs if pair.chosen] == ["A longer reply."] * 3
    assert json.loads((out / "report.json").read_text())["position_bias"] == pytest.approx(0)


def test_a_failed_run_goes_on_where_it_was(
    app: typer.Typer, prompts: Path, answering: Answering, tmp_path: Path
) -> None:
    command = [
        "constitution",
        "revise",
        "default",
        "concurrency=1",
        "-p",
        prompts,
        "-m",
        "m",
        "-o",
        tmp_path / "out",
    ]
    answering.dies_at = 7
    failed = _run(app, *command)
    assert isinstance(failed.exception, ModelError)
    answering.dies_at, answering.n_asked = None, 0
    done = _run(app, *command)
    assert done.exit_code == 0, done.output
    assert answering.n_asked == 3 * 9 - 7


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["revise", "gone.toml"], "gone.toml cannot be read"),
        (["revise", "default", "revision.round=2"], "nearest: 'revision.rounds'"),
        (["compare", "default", "feedback.min_margin=0.7"], "feedback.min_margin"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(
    app: typer.Typer, prompts: Path, tmp_path: Path, arguments: list[str], told: str
) -> None:
    done = _run(app, "constitution", *arguments, "-p", prompts, "-m", "test", "-o", tmp_path / "out")
    assert isinstance(done.exception, UserError)
    assert told in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_the_shipped_constitution_is_shown_as_a_start_for_ones_own(app: typer.Typer, tmp_path: Path) -> None:
    shown = _run(app, "constitution", "show")
    assert shown.exit_code == 0
    own = tmp_path / "own.toml"
    own.write_text(shown.stdout, encoding="utf-8")
    assert read_constitution(own) == read_constitution()
