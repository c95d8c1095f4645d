"""Reinforcement of a specialisation: tasks from the training side, rewards by calls, the better adapter kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from agentkit.specialise.recipe import ReinforceOptions, SpecialiseRecipe
from agentkit.specialise.reinforce import Reinforced, parted, section, tasks_of
from agentkit.specialise.run import Start, Wanted, specialise
from modelstack.data.examples import Call, Example, Kind, Message, Tool
from modelstack.errors import UserError
from modelstack.posttrain.stages.record import Measurement
from modelstack.posttrain.stages.stage import open_stage
from modelstack.reasoning.tasks.task import PolicyTask, read_tasks
from modelstack.reasoning.tasks.verifier_choice import verifier_of
from modelstack.reasoning.tasks.writing.written import write_tasks
from modelstack.reasoning.verifiers.rewards import Completion
from modelstack.toolcalls.convention import render_calls
from tests.agentkit.specialise.live_servers import database_server, write_world
from tests.modelstack.architecture.llama_child import needs_llama_cpp
from tests.modelstack.sft.toy_sft import write_base

FIND = Tool(
    name="find",
    parameters={"type": "object", "properties": {"word": {"type": "string"}, "n": {"type": "integer"}}},
)


def example(number: int, kind: Kind = "call", *calls: Call, reply: str | None = None) -> Example:
    return Example(
        id=f"e{number}", source="made", license="CC0-1.0", kind=kind, tools=(FIND,),
        messages=(Message(role="user", content=f"find w{number}"),), calls=calls, reply=reply,
    )  # fmt: skip


def found(n: int) -> list[Example]:
    return [example(n, "call", Call(name="find", arguments={"word": f"w{n}", "n": 2})) for n in range(n)]


def judged(folder: Path, examples: list[Example]) -> list[PolicyTask]:
    write_tasks(folder / "t.jsonl", tasks_of(examples, 0))
    return [task.judged_by("calls") for task in read_tasks(folder / "t.jsonl")]


def test_the_examples_calls_are_right_and_others_are_not(tmp_path: Path) -> None:
    examples = [*found(3), example(9, "irrelevant")]
    verifier = verifier_of("calls")

    def value(task: PolicyTask, text: str) -> float | None:
        return verifier.score(task.item, Completion(text)).value

    for task, one in zip(judged(tmp_path, examples), examples, strict=True):
        assert (task.messages, task.tools, task.item.id) == (one.messages, one.tools, one.id)
        right = render_calls([(call.name, call.arguments) for call in one.calls])
        other = '[{"name":"find","arguments":{"word":"other"}}]'
        assert value(task, right) == 1.0 and value(task, other) == 0.0
        assert value(task, "[]") == float(not one.calls)


def test_questions_back_are_left_out(tmp_path: Path) -> None:
    tasks = judged(tmp_path, [example(0, "clarify", reply="Which?"), *found(1)])
    assert len(tasks) == 1
    with pytest.raises(UserError, match="nothing to reinforce"):
        list(tasks_of([example(0, "clarify", reply="Which?")], 0))


def test_some_tasks_are_canaries_that_the_right_call_does_not_open(tmp_path: Path) -> None:
    examples = found(300)
    tasks = judged(tmp_path, examples)
    canaries = [(task, one) for task, one in zip(tasks, examples, strict=True) if task.item.is_canary]
    assert len(canaries) in range(1, 16)
    for task, one in canaries:
        right = render_calls([(call.name, call.arguments) for call in one.calls])
        assert verifier_of("calls").score(task.item, Completion(right)).value == 0.0
    again = list(tasks_of(examples, 0))
    assert [task.canary for task in again] == [task.item.is_canary for task in tasks]


def figure(value: float) -> Measurement:
    return Measurement(name="exact replies", value=value, low=0.0, high=1.0, n=10)


@pytest.mark.parametrize("on_test", [0.3, 0.7])
@pytest.mark.parametrize(("after", "is_kept"), [(0.4, False), (0.5, True), (0.6, True)])
def test_the_adapter_is_kept_where_it_is_no_worse_and_the_test_has_no_part_in_it(
    after: float, is_kept: bool, on_test: float
) -> None:
    stage: Any = type("S", (), {"record": type("R", (), {"what": "Reinforced."})})
    result = Reinforced(stage, (figure(0.5), figure(after)), (figure(0.45), figure(on_test)))
    assert result.is_kept is is_kept
    assert ("Fine-tuning's adapter was kept" in section(result)) is not is_kept
    assert f"50.0 % (0.0 to 100.0) before, {100 * after:.1f} %" in section(result)
    assert f"45.0 % (0.0 to 100.0) before, {100 * on_test:.1f} %" in section(result)


@pytest.mark.parametrize(("n", "n_for_choice"), [(2, 1), (20, 2), (80, 10), (900, 60)])
def test_what_the_choice_is_made_by_is_never_rewarded(n: int, n_for_choice: int) -> None:
    examples = found(n)
    rewarded, for_choice = parted(examples, 0)
    assert len(for_choice) == n_for_choice and len(rewarded) == n - n_for_choice
    assert {one.id for one in rewarded} | {one.id for one in for_choice} == {one.id for one in examples}
    assert parted(examples, 0) == (rewarded, for_choice)
    if n > 20:
        assert parted(examples, 1)[1] != for_choice


def test_the_key_changes_no_data() -> None:
    plain = SpecialiseRecipe()
    assert plain.reinforce is None
    with_it = SpecialiseRecipe(reinforce=ReinforceOptions(steps=3))
    assert with_it.fingerprint == plain.fingerprint


@pytest.fixture
def one_thread() -> Any:
    torch.set_num_threads(1)


@pytest.mark.slow
@pytest.mark.xdist_group("specialise_run")
@pytest.mark.usefixtures("short_replies")
@needs_llama_cpp
def test_servers_become_a_reinforced_adapter_with_both_figures_in_the_report(
    tmp_path: Path, one_thread: None
) -> None:
    options = ReinforceOptions(steps=2, prompts=1, group=2, max_tokens=6)
    recipe = SpecialiseRecipe(
        name="toy", examples=20, test_examples=10, general_share=0, row_tokens=1024, minutes=1, max_tools=1,
        whole_list_share=0, reinforce=options,
    )  # fmt: skip
    world = write_world(tmp_path / "world")
    wanted = Wanted([database_server(world)], (), Start(write_base(tmp_path / "base")), recipe)
    out = tmp_path / "out"
    kept = specialise(wanted, out, Console(quiet=True))
    assert kept is not None
    tuned, reinforced = open_stage(out / "stage"), open_stage(out / "reinforced")
    assert [parent.name for parent in reinforced.record.parents] == [tuned.record.name]
    assert (out / "adapter.gguf").read_bytes() == (kept.path / "adapter.gguf").read_bytes()
    assert "## Reinforced" in (out / "report.md").read_text(encoding="utf-8")
    again = specialise(wanted, out, Console(quiet=True))
    assert again is not None and again.path == kept.path
