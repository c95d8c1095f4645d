"""Calibrated confidence: what is fitted, what it changes in replies, and what happens where it is too low."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from agentkit import Agent, FallbackModel, ModelResponse, UserError
from agentkit.guardrails import AskWhenUnsure
from agentkit.messages import TextPart, ToolCallPart
from agentkit.models.base import ModelDelta, ModelRequestParameters
from agentkit.models.calibration import CalibratedModel
from agentkit.models.confidence import Calibration, Decision, decision_confidence, log_loss
from agentkit.testing import ScriptedModel
from agentkit.tools.function import tool
from agentkit.usage import RequestUsage

pytestmark = pytest.mark.anyio


def overconfident(n: int, temperature: float, seed: int = 0) -> list[Decision]:
    """Return choices among four, drawn from softmax(logits) and reported as softmax(temperature * logits)."""
    rng, decisions = random.Random(seed), list[Decision]()
    for _ in range(n):
        logits = [rng.gauss(0, 1.5) for _ in range(4)]
        true, reported = softmax(logits), softmax([temperature * logit for logit in logits])
        best = max(range(4), key=reported.__getitem__)
        right = rng.choices(range(4), true)[0]
        others = tuple(p for k, p in enumerate(reported) if k != best)
        decisions.append(Decision(reported[best], others, right == best))
    return decisions


def softmax(logits: list[float]) -> list[float]:
    weights = [math.exp(logit - max(logits)) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def unsure(probability: float = 0.6) -> ModelResponse:
    rest = 1 - probability
    call = ToolCallPart("wipe", "{}", "call_1", probability, (("list", rest * 0.75), ("(no tool)", rest * 0.25)))
    return ModelResponse((call,))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_of_made_up_choices_is_found(temperature: float) -> None:
    assert Calibration.fit(overconfident(4_000, temperature)).temperature == pytest.approx(temperature, rel=0.05)


def test_no_other_temperature_has_less_loss() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    decisions = overconfident(500, 3.0, seed=1)
    found = optimize.minimize_scalar(lambda t: log_loss(decisions, t), bounds=(0.05, 20), method="bounded")
    assert Calibration.fit(decisions).temperature == pytest.approx(found.x, rel=1e-3)


def test_probabilities_stay_a_distribution_in_the_same_order() -> None:
    (part,) = Calibration(2.0).applied(unsure(0.9)).tool_calls
    assert part.probability is not None and 0.5 < part.probability < 0.9
    masses = [part.probability, *(mass for _, mass in part.alternatives)]
    assert sum(masses) == pytest.approx(1)
    assert masses == sorted(masses, reverse=True)
    assert [name for name, _ in part.alternatives] == ["list", "(no tool)"]


def test_the_probability_of_an_answer_moves_against_everything_else() -> None:
    applied = Calibration(2.0).applied(ModelResponse((TextPart("hello"),), p_answer=0.9))
    assert applied.p_answer == pytest.approx(0.75)  # odds 9 become odds 3


def test_a_temperature_of_one_leaves_the_very_object() -> None:
    response = unsure()
    assert Calibration().applied(response) is response


def test_what_has_no_probability_is_left_alone() -> None:
    response = ModelResponse((ToolCallPart("wipe", "{}"),))
    assert decision_confidence(Calibration(2.0).applied(response)) is None
    assert Decision.of(response, True) is None
    assert Decision.of(ModelResponse((TextPart("hello"),)), True) is None


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_certainty_stays_finite(p: float) -> None:
    assert math.isfinite(log_loss([Decision(p, (), True), Decision(p, (), False)], 0.05))


def test_choices_of_one_kind_give_no_temperature() -> None:
    with pytest.raises(UserError, match="3 of 3 decisions are right"):
        Calibration.fit([Decision(0.9, (), True)] * 3)
    with pytest.raises(UserError, match="0 of 0"):
        Calibration.fit([])


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    calibration = Calibration(1.75, 307, "local")
    calibration.save(tmp_path / "confidence.json")
    assert Calibration.load(tmp_path / "confidence.json") == calibration


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "no json",
        '{"version": 2, "temperature": 1.5, "n": 3, "model": null}',
        '{"version": 1, "temperature": 1.5, "n": 3, "model": null, "class": "os.system"}',
        '{"version": 1, "temperature": "1.5", "n": 3, "model": null}',
        '{"version": 1, "temperature": 0.0, "n": 3, "model": null}',
        '{"version": 1, "temperature": NaN, "n": 3, "model": null}',
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "confidence.json"
    path.write_text(text)
    with pytest.raises(UserError):
        Calibration.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json cannot be read"):
        CalibratedModel(ScriptedModel(["hello"]), tmp_path / "none.json")


async def test_below_the_threshold_the_run_abstains_and_nothing_runs() -> None:
    ran: list[str] = []

    @tool
    def wipe() -> str:
        """Wipe the disk."""
        ran.append("wipe")
        return "done"

    model = CalibratedModel(ScriptedModel([unsure(0.6), "done"]), abstain_below=0.7)
    result = await Agent(model, tools=[wipe]).run("tidy up")
    assert (result.status, result.output_or_none, ran) == ("abstained", None, [])
    assert result.confidence == 0.6
    model = CalibratedModel(ScriptedModel([unsure(0.6), "done"]), abstain_below=0.6)
    assert (await Agent(model, tools=[wipe]).run("tidy up")).output == "done"
    assert ran == ["wipe"]


async def test_an_abstention_by_threshold_shows_nothing_of_the_reply() -> None:
    heard: list[ModelDelta] = []
    reply = ModelResponse((TextPart("I have wiped it."),), p_answer=0.4)
    model = CalibratedModel(ScriptedModel([reply, reply]), abstain_below=0.5)
    response = await model.request([], ModelRequestParameters(), on_delta=heard.append)
    assert response.abstained and heard == []
    surer = CalibratedModel(ScriptedModel([reply]), abstain_below=0.3)
    await surer.request([], ModelRequestParameters(), on_delta=heard.append)
    assert heard


async def test_a_calibrated_confidence_hands_over() -> None:
    first = CalibratedModel(ScriptedModel([unsure(0.9)]), Calibration(3.0))
    model = FallbackModel(first, ScriptedModel([ModelResponse((TextPart("larger"),))]), min_confidence=0.8)
    assert (await model.request([], ModelRequestParameters())).text == "larger"
    model = FallbackModel(
        ScriptedModel([unsure(0.9)]), ScriptedModel([ModelResponse((TextPart("larger"),))]), min_confidence=0.8
    )
    assert (await model.request([], ModelRequestParameters())).tool_calls


async def test_a_reply_that_was_taken_at_once_stays_the_very_object() -> None:
    """A local model knows by that what it has evaluated; its replies say that they cost nothing."""
    response = replace(unsure(), usage=RequestUsage(cost=Decimal(0)))
    model = FallbackModel(
        ScriptedModel([response]), ScriptedModel([ModelResponse((TextPart("larger"),))]), min_confidence=0.1
    )
    assert await model.request([], ModelRequestParameters()) is response


async def test_an_unsure_call_asks_and_runs_once_allowed() -> None:
    ran: list[str] = []

    @tool
    def wipe() -> str:
        """Wipe the disk."""
        ran.append("wipe")
        return "done"

    agent = Agent(ScriptedModel([unsure(0.6), "done"]), tools=[wipe], guardrails=[AskWhenUnsure(below=0.8)])
    result = await agent.run("tidy up")
    assert result.status == "needs_approval" and ran == []
    assert "60% only" in result.pending[0].reason
    resumed = await agent.resume(result.state, [result.pending[0].approve()])
    assert (resumed.output, ran) == ("done", ["wipe"])


async def test_only_consequential_tools_ask_where_that_is_said() -> None:
    @tool
    def wipe() -> str:
        """Wipe the disk."""
        return "done"

    rule = AskWhenUnsure(below=0.8, consequential_only=True)
    result = await Agent(ScriptedModel([unsure(0.6), "done"]), tools=[wipe], guardrails=[rule]).run("tidy up")
    assert result.output == "done"


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_thresholds_are_probabilities(wrong: float) -> None:
    with pytest.raises(UserError, match="no probability"):
        AskWhenUnsure(below=wrong)
    with pytest.raises(UserError, match="no probability"):
        CalibratedModel(ScriptedModel(["hello"]), abstain_below=wrong)
