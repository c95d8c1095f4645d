"""Both directions: a model of Inspect's under our suites, and a model of ours under anybody's Inspect task."""

from __future__ import annotations

import gc
import json
import warnings
from pathlib import Path

import inspect_ai
import pytest
from inspect_ai import Task
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import Tool, tool

from agentkit.messages import ModelRequest, ModelResponse, TextPart, ToolCallPart, ToolReturnPart, UserPromptPart
from agentkit.models.base import ModelRequestParameters
from agentkit.testing import ScriptedModel, call
from agentkit.tools.definition import ToolDefinition
from evals.harness import inspect_model, inspect_provider
from evals.harness.evaluation import evaluate
from evals.harness.inspect_messages import from_inspect, to_inspect
from evals.harness.specification import Specification

CONVERSATION = (
    ModelRequest((UserPromptPart("How many lines?"),)),
    ModelResponse((TextPart("I look."), ToolCallPart("count", '{"path":"a.txt"}', "call_1"))),
    ModelRequest(
        (ToolReturnPart("count", "call_1", "3"), ToolReturnPart("count", "call_2", "gone", is_error=True))
    ),
    ModelResponse((TextPart("Three."),)),
)


def test_a_conversation_survives_the_way_to_inspect_and_back() -> None:
    back = from_inspect(to_inspect(CONVERSATION))
    assert [type(m) for m in back] == [type(m) for m in CONVERSATION]
    assert [p for m in back if isinstance(m, ModelRequest) for p in m.parts] == [
        p for m in CONVERSATION if isinstance(m, ModelRequest) for p in m.parts
    ]
    (made,) = [c for m in back if isinstance(m, ModelResponse) for c in m.tool_calls]
    assert (made.tool_name, made.arguments_dict(), made.tool_call_id) == ("count", {"path": "a.txt"}, "call_1")


def test_arguments_that_are_no_json_are_shown_in_the_log_as_they_came() -> None:
    (message,) = to_inspect([ModelResponse((ToolCallPart("count", '{"path": ', "call_1"),))])
    assert message.role == "assistant" and message.tool_calls
    assert message.tool_calls[0].arguments == {"raw": '{"path": '}
    assert message.tool_calls[0].parse_error


def test_a_suite_runs_on_a_model_of_inspects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [_counted(ModelOutput.from_content("mockllm/model", str(2 * i))) for i in (0, 1, 2)]
    mock = get_model("mockllm/model", custom_outputs=answers)
    monkeypatch.setattr(inspect_model, "get_model", lambda name: {"mockllm/model": mock}[name])
    specification = Specification("sums", "inspect:mockllm/model", {"n": "4"})
    done = evaluate(specification, tmp_path)
    assert [s.score.value for s in done.scored[:3]] == [1.0, 1.0, 1.0]
    assert done.scored[3].run.status == "failed"  # the mock has no fourth answer, and says so
    assert done.lines[-1].score.value == pytest.approx(3 / 4)


@pytest.mark.anyio
async def test_tools_reach_a_model_of_inspects_and_calls_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    output = _counted(ModelOutput.for_tool_call("mockllm/model", "count", {"path": "a.txt"}))
    mock = get_model("mockllm/model", custom_outputs=[output])
    monkeypatch.setattr(inspect_model, "get_model", lambda name: mock)
    schema = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
    parameters = ModelRequestParameters(tools=(ToolDefinition("count", "Count lines.", schema),))
    response = await inspect_model.InspectModel("mockllm/model").request(CONVERSATION[:1], parameters)
    assert [(c.tool_name, c.arguments_dict()) for c in response.tool_calls] == [("count", {"path": "a.txt"})]


@tool
def double() -> Tool:
    async def execute(number: int) -> str:
        """Double a number.

        Args:
            number: The number.
        """
        return str(2 * number)

    return execute


def test_a_task_of_inspects_runs_on_a_model_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = ScriptedModel([call("double", number=21), "It is 42."])
    monkeypatch.setattr(inspect_provider, "resolve_model", lambda name: {"local": scripted}[name])
    task = Task([Sample("Double 21.", target="42")], solver=[use_tools(double()), generate()], scorer=includes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        (log,) = inspect_ai.eval(task, model="agentkit/local", display="none", log_dir=str(tmp_path))
        gc.collect()  # inspect-ai leaves some streams unclosed
    assert log.status == "success", log.error
    assert log.samples is not None and log.results is not None
    assert [m.role for m in log.samples[0].messages] == ["user", "assistant", "tool", "assistant"]
    assert log.samples[0].messages[2].text == "42"
    assert log.results.scores[0].metrics["accuracy"].value == 1.0


def test_a_suite_is_a_task_for_inspects_own_command_line(tmp_path: Path) -> None:
    task_file = Path(inspect_model.__file__).parents[1] / "tasks.py"
    arguments = {"name": "refusals", "model": "none", "data": str(_requests(tmp_path))}
    with pytest.raises(Exception, match="needs a model"):
        inspect_ai.eval(f"{task_file}@suite", task_args=arguments, model="none", display="none")


def _counted(output: ModelOutput) -> ModelOutput:
    """Give an output its usage; the mock would download a vocabulary to count."""
    output.usage = ModelUsage(input_tokens=7, output_tokens=3, total_tokens=10)
    return output


def _requests(folder: Path) -> Path:
    path = folder / "requests.jsonl"
    path.write_text(json.dumps({"prompt": "Name a colour.", "label": "benign"}) + "\n", encoding="utf-8")
    return path
