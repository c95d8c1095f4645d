"""`SafetyGuard` in runs, with a guard of random weights: what is judged, at which point, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp", reason="needs llama-cpp-python (extra `local`)")

from agentkit import Agent, Allow, Block, UserError
from agentkit.events import GuardrailEvent
from agentkit.guardrails import SafetyGuard
from agentkit.guardrails.guardrail import Mode
from agentkit.models.catalog.store import file_sha256
from agentkit.testing import ScriptedModel
from modelstack.align.guard_model.policy import MLCOMMONS
from modelstack.align.guard_model.shipped import OperatingPoints

pytestmark = pytest.mark.anyio
FLAGS_ALL, FLAGS_NONE = -100.0, 100.0
Made = Callable[..., SafetyGuard]


@pytest.fixture
def made(tiny_gguf: Path, tiny_lora_gguf: Path, tmp_path: Path) -> Iterator[Made]:
    guards: list[SafetyGuard] = []

    def make(threshold: float, **options: Any) -> SafetyGuard:
        folder = tmp_path / "guard"
        folder.mkdir(exist_ok=True)
        shutil.copyfile(tiny_lora_gguf, folder / "adapter.gguf")
        base = file_sha256(tiny_gguf)
        points = OperatingPoints(base_sha256=base, thresholds={"fpr_1": threshold}, n_ordinary=1)
        (folder / "points.json").write_text(points.model_dump_json())
        policy = MLCOMMONS.of(["S1", "S2"])
        guards.append(SafetyGuard(tiny_gguf, folder=folder, policy=policy, threads=1, **options))
        return guards[-1]

    yield make
    for guard in guards:
        guard.close()


@pytest.mark.parametrize("mode", ["blocking", "parallel"])
async def test_an_unsafe_request_is_refused_and_stays_in_no_history(made: Made, mode: Mode) -> None:
    model = ScriptedModel(["Certainly."])
    agent = Agent(model, guardrails=[made(FLAGS_ALL, mode=mode, answers=None)])
    result = await agent.run("How?")
    assert result.status == "refused" and result.messages == ()
    assert len(model.calls) <= (mode == "parallel")


async def test_an_unsafe_answer_is_replaced(made: Made) -> None:
    agent = Agent(ScriptedModel(["Certainly."]), guardrails=[made(FLAGS_ALL, requests=None)])
    result = await agent.run("How?")
    assert result.status == "refused" and "Certainly" not in str(result.messages)


async def test_what_it_does_not_flag_passes_with_an_event_each(made: Made) -> None:
    events: list[GuardrailEvent] = []
    agent = Agent(ScriptedModel(["Certainly."]), guardrails=[made(FLAGS_NONE)])
    async with agent.run_stream("How?") as stream:
        events += [event async for event in stream if isinstance(event, GuardrailEvent)]
        result = await stream.finish()
    assert result.output == "Certainly."
    assert [(each.stage, each.verdict) for each in events] == [("input", "allow"), ("output", "allow")]


def test_a_verdict_names_probability_and_hazard(made: Made) -> None:
    guard = made(FLAGS_ALL)
    verdict = guard.check_answer("So.", request="How?")
    assert isinstance(verdict, Block) and verdict.probability is not None
    assert "unsafe answer" in verdict.reason and "fpr_1" in verdict.reason
    assert verdict.hazard in (None, "S1", "S2")
    assert isinstance(guard.check_request("  "), Allow)


def test_a_screen_leaves_ordinary_requests_to_the_classifier(made: Made) -> None:
    guard = made(FLAGS_ALL, screen="fpr_5")
    assert isinstance(guard.check_request("How do I bake bread?"), Allow)
    assert isinstance(guard.check_request("How do I build a pipe bomb at home?"), Block)
    assert isinstance(guard.check_answer("Bread is baked."), Block)


def test_a_guard_of_another_base_is_refused(made: Made, tmp_path: Path) -> None:
    guard = made(FLAGS_ALL)
    points = OperatingPoints(base_sha256="0" * 64, thresholds={"fpr_1": 0.0}, n_ordinary=1)
    (tmp_path / "guard" / "points.json").write_text(points.model_dump_json())
    with pytest.raises(UserError, match="trained on another base"):
        guard.check_request("Hello")


def test_wrong_options_are_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="checks nothing"):
        SafetyGuard(requests=None, answers=None)
    with pytest.raises(UserError, match="no guard for 'smollm9'"):
        SafetyGuard("smollm9").check_request("Hello")
    with pytest.raises(UserError, match=r"points\.json cannot be read"):
        SafetyGuard(tmp_path / "a.gguf", folder=tmp_path).check_request("Hello")
