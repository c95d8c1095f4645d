"""`agentkit trace` on Inspect logs: runs of ours, samples of a task that knows nothing of us, and broken files."""

from __future__ import annotations

import json
import random
import re
import shutil
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("inspect_ai", reason="needs inspect-ai (extra `evals`)")

import inspect_ai
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import Generate, Solver, TaskState, generate, solver, use_tools
from inspect_ai.tool import Tool, tool
from typer.testing import CliRunner, Result

from agentkit.cli.main import app
from agentkit.errors import ModelError, UserError
from agentkit.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from agentkit.models.base import ModelRequestParameters
from agentkit.testing import FunctionModel
from agentkit.tracing import sources
from agentkit.tracing.sources import trace_source
from evals.harness import suite
from evals.harness.evaluation import evaluate
from evals.harness.inspect_log import InspectLog
from evals.harness.inspect_task import RUN_KEY
from evals.harness.specification import Specification
from mcp_servers.distribution import install_command


def trace(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["trace", *arguments])


def doubling(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
    prompt = messages[0].parts[-1]
    assert isinstance(prompt, UserPromptPart)
    if prompt.content == "3+3":
        raise ModelError("the server is on fire")
    if len(messages) == 1:
        return ModelResponse((ToolCallPart("double", '{"n":2}', "call_1", 0.75),), model_name="doubler")
    return ModelResponse((TextPart("4"),), model_name="doubler")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of an agent with a tool on four cases, in two epochs; the last case fails with an error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(suite.SUITES, "doubles", "harness_suites:DOUBLES")
        specification = Specification("doubles", "function", {"n": "4"}, epochs=2)
        return evaluate(specification, tmp_path_factory.mktemp("ours"), model=FunctionModel(doubling)).log


@tool
def lookup() -> Tool:
    async def execute(word: str) -> str:
        """Look a word up.

        Args:
            word: The word.
        """
        return f"{word} means 42"

    return execute


@solver
def breaking() -> Solver:
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        if state.sample_id == "broken":
            raise OSError("no dictionary")
        return state

    return solve


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of a task with its own solver, tool and scorer: one right, one wrong, one with an error."""
    outputs = [
        ModelOutput.for_tool_call("mockllm/model", "lookup", {"word": "answer"}),
        ModelOutput.from_content("mockllm/model", "It is 42."),
        ModelOutput.from_content("mockllm/model", "No idea."),
    ]
    for output in outputs:
        output.usage = ModelUsage(input_tokens=20, output_tokens=5, total_tokens=25)  # else tokens are counted
    samples = [Sample(id=7, input="What does answer mean?", target="42"),
               Sample(id="wrong", input="What does question mean?", target="6 x 9"),
               Sample(id="broken", input="What does nothing mean?", target="nothing")]  # fmt: skip
    task = inspect_ai.Task(
        dataset=MemoryDataset(samples), solver=[breaking(), use_tools(lookup()), generate()], scorer=includes(),
        name="words", fail_on_error=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("foreign")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # inspect-ai leaves streams unclosed
        (log,) = inspect_ai.eval(
            task, model=get_model("mockllm/model", custom_outputs=outputs), log_dir=str(folder), display="none",
            log_format="eval", log_realtime=False, max_samples=1,
        )  # fmt: skip
    assert log.status == "success"
    (path,) = folder.glob("*.eval")
    return path


def rows(listed: str) -> dict[str, list[str]]:
    """Return status, steps, calls, model and prompt by the run's id."""
    cells = [line.split("\t") for line in listed.splitlines()[1:]]
    return {run_id: facts for run_id, _, *facts in cells}


def test_our_runs_are_listed_with_score_steps_and_calls(ours: Path) -> None:
    listed = trace("list", "--trace-dir", str(ours))
    assert listed.exit_code == 0
    lines = rows(listed.stdout)
    assert sorted(lines) == [f"sum_{i}{epoch}" for i in range(4) for epoch in ("", "@2")]
    assert lines["sum_2"] == ["score 1", "2", "1", "doubler", "2+2"] and lines["sum_1@2"][0] == "score 0"
    assert lines["sum_3"] == ["failed", "0", "0", "function", "3+3"]
    assert trace("list", "--trace-dir", str(ours), "--limit", "2").output.count("sum_") == 2


def test_a_run_of_ours_is_shown_with_what_only_our_trace_knows(ours: Path) -> None:
    shown = trace("show", "sum_2", "--trace-dir", str(ours))
    assert shown.exit_code == 0, shown.output
    for expected in (
        "sum_2\nmodel: doubler\ntools: double\n",
        "2+2",
        '● double {"n":2}  p 0.75',
        "double: success",
        "doubles 1: expected 4",
        "completed · 2 model requests · 1 tool call ·",
    ):
        assert expected in shown.output


def test_a_failed_run_of_ours_says_why(ours: Path) -> None:
    shown = trace("show", "sum_3", "--trace-dir", str(ours)).output
    assert "failed · ModelError: the server is on fire" in shown
    assert "score: failed" in shown


def test_the_beginning_of_an_id_is_enough_where_one_sample_has_it(ours: Path) -> None:
    assert "sum_1@2\nmodel: doubler" in trace("show", "sum_1@", "--trace-dir", str(ours)).output
    ambiguous = trace("show", "sum", "--trace-dir", str(ours))
    assert ambiguous.exit_code == 1
    assert "'sum' matches 8 samples" in " ".join(ambiguous.output.split())


def test_samples_of_another_task_are_listed_and_shown_from_their_messages(foreign: Path) -> None:
    lines = rows(trace("list", "--trace-dir", str(foreign)).stdout)
    assert lines["7"] == ["score C", "2", "1", "mockllm/model", "What does answer mean?"]
    assert lines["wrong"][:3] == ["score I", "1", "0"]
    assert lines["broken"][0] == "failed"
    shown = trace("show", "7", "--trace-dir", str(foreign)).output
    for expected in (
        "tools: lookup",
        '● lookup {"word": "answer"}',
        "lookup: success",
        "answer means 42",
        "It is 42.",
        "score: success",
        "includes C",
        "completed · 2 model requests",
    ):
        assert expected in shown
    assert "score: failed" in trace("show", "wrong", "--trace-dir", str(foreign)).output
    assert "failed: OSError('no dictionary')" in trace("show", "broken", "--trace-dir", str(foreign)).output


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.eval", b"", "cannot be read as an Inspect log"),
        ("text.eval", b"hello", "cannot be read as an Inspect log"),
        ("run.txt", b"hello", "or from files that end in: .eval"),
    ],
)
def test_a_file_that_is_no_log_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    for arguments in (("list",), ("show", "sum_0")):
        result = trace(*arguments, "--trace-dir", str(tmp_path / name))
        said = " ".join(result.output.split())
        assert result.exit_code == 1
        assert message in said and name in said


def test_a_missing_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.eval: there is no such file"):
        trace_source(tmp_path / "gone.eval")


def test_a_reader_that_is_not_installed_is_an_error_with_the_fix(
    ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Point:
        name = "eval"
        extras = ()

        def load(self) -> None:
            raise ModuleNotFoundError("No module named 'inspect_ai'")

    monkeypatch.setattr(sources, "entry_points", lambda group: [Point()])
    with pytest.raises(UserError, match=rf"No module named 'inspect_ai'.*{re.escape(install_command('evals'))}"):
        trace_source(ours)


def rewritten(log: Path, target: Path, change: dict[str, Any]) -> Path:
    """Copy a log; the store of its sample sum_1 in epoch 1 gets `change`."""
    with zipfile.ZipFile(log) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "samples/sum_1_epoch_1.json":
                sample = json.loads(content)
                sample["store"].update(change)
                content = json.dumps(sample).encode()
            new.writestr(name, content)
    return target


def test_a_run_that_cannot_be_read_does_not_hide_the_others(ours: Path, tmp_path: Path) -> None:
    log = rewritten(ours, tmp_path / "changed.eval", {RUN_KEY: '{"case_id": 3}'})
    listed = trace("list", "--trace-dir", str(log))
    assert listed.exit_code == 0
    assert "sample 'sum_1' holds a run that cannot be read" in " ".join(listed.output.split())
    assert listed.output.count("doubler") == 5
    shown = trace("show", "sum_1", "--trace-dir", str(log))
    assert shown.exit_code == 1 and "cannot be read" in " ".join(shown.output.split())


def test_damage_anywhere_in_a_log_is_an_error_that_names_it_and_never_a_crash(ours: Path, tmp_path: Path) -> None:
    whole = ours.read_bytes()
    path = tmp_path / "damaged.eval"
    rng = random.Random(7)
    n_errors = 0
    for _ in range(60):
        damaged = bytearray(whole)
        start = rng.randrange(len(whole))
        damaged[start : start + 8] = rng.randbytes(8)
        path.write_bytes(damaged[: rng.choice([len(whole), start])])
        try:
            runs = list(InspectLog(path).summaries(20))
        except UserError as error:
            assert str(path) in str(error)
            n_errors += 1
        else:
            n_errors += sum(isinstance(run, UserError) for run in runs)
    assert n_errors > 30


def test_a_folder_of_traces_is_still_read(ours: Path, tmp_path: Path) -> None:
    shutil.copy(ours, tmp_path / ours.name)
    assert list(trace_source(tmp_path).summaries(5)) == []
