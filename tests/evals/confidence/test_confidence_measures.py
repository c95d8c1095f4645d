"""`agentkit calibrate`: from an evaluation's folder to a temperature, judged on cases that had no part in it."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentkit.cli.main import app
from agentkit.errors import UserError
from agentkit.messages import ModelMessage, ModelRequest, ModelResponse, ToolCallPart, UserPromptPart
from agentkit.models.base import ModelRequestParameters
from agentkit.models.confidence import Calibration, Decision
from agentkit.testing import FunctionModel
from evals.confidence.measures import coverage, fit, read_decisions, risk_curve
from evals.harness import evaluation
from modelstack.data.examples import Call, Example, Message, Tool, write_examples


def decisions(n: int, seed: int = 0) -> list[tuple[str, Decision]]:
    """Return choices that say 0.95 and are right in three of four."""
    rng = random.Random(seed)
    return [(f"case-{k}", Decision(rng.choice((0.9, 0.97)), (), rng.random() < 0.75)) for k in range(n)]


def test_an_overconfident_model_is_told_to_be_less_sure() -> None:
    found = fit(decisions(400), model="local")
    assert found.calibration.temperature > 1.5
    assert found.calibration.n == 400
    before = sum(found.probabilities(calibrated=False)) / 400
    after = sum(found.probabilities(calibrated=True)) / 400
    share = sum(found.outcomes) / 400
    assert abs(after - share) < 0.05 < abs(before - share)


def test_no_case_is_judged_by_a_temperature_that_saw_it() -> None:
    given = decisions(100)
    first = {each.case_id: each.calibrated for each in fit(given, model=None).judged}
    case_id, decision = given[7]
    changed = [*given]
    changed[7] = (case_id, Decision(decision.probability, (), not decision.is_right))
    second = {each.case_id: each.calibrated for each in fit(changed, model=None).judged}
    assert second[case_id] == first[case_id]
    assert sum(first[each] != second[each] for each in first) >= 60


def test_too_few_decisions_are_refused() -> None:
    with pytest.raises(UserError, match=r"12 decisions .*3 runs have none"):
        fit(decisions(12), model=None, n_unknown=3)


def test_coverage_counts_what_is_at_or_above_the_threshold() -> None:
    found = fit(decisions(100), model=None)
    share, right = coverage(found, 0.0)
    assert (share, right.n, right.value) == (1.0, 100, sum(found.outcomes) / 100)
    assert coverage(found, 1.0)[0] == 0.0


def test_equal_probabilities_are_taken_together() -> None:
    assert risk_curve([0.9, 0.9, 0.5], [True, False, True]) == ([2 / 3, 1.0], [0.5, 1 / 3])


def test_from_a_file_of_examples_to_a_file_of_confidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_examples(tmp_path / "own.jsonl", [example(k) for k in range(60)])

    def reply(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        last = messages[-1]
        assert isinstance(last, ModelRequest) and isinstance(last.parts[-1], UserPromptPart)
        number = int(last.parts[-1].text.split()[-1])
        assert [tool.name for tool in parameters.tools] == ["ring", "knock"]
        name = "knock" if number % 5 == 0 else "ring"  # wrong in every fifth
        call = ToolCallPart(name, json.dumps({"door": number}), f"call_{number}", 0.95, (("(no tool)", 0.05),))
        return ModelResponse((call,))

    monkeypatch.setattr(evaluation, "find_model", lambda name, suite: FunctionModel(reply))
    run, out = tmp_path / "run", tmp_path / "confidence.json"
    done = CliRunner().invoke(
        app, ["eval", "examples", "-o", f"file={tmp_path / 'own.jsonl'}", "--log-dir", str(run)]
    )
    assert done.exit_code == 0, done.output
    read, n_unknown = read_decisions(run)
    assert (len(read), n_unknown, sum(each.is_right for _, each in read)) == (60, 0, 48)
    done = CliRunner().invoke(app, ["calibrate", str(run), "--out", str(out)], env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    calibration = Calibration.load(out)
    assert calibration.probability(Decision(0.95, (), True)) == pytest.approx(0.8, abs=0.01)
    assert (tmp_path / "confidence.png").read_bytes().startswith(b"\x89PNG")
    assert "0.950" in done.stdout and "0.800" in done.stdout


def test_a_test_set_is_not_fitted_on(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({"identity": {"suite": "bfcl", "model": "local"}}))
    (tmp_path / "scores.jsonl").write_text(json.dumps({"case_id": "a", "epoch": 1, "value": 1.0}) + "\n")
    done = CliRunner().invoke(app, ["calibrate", str(tmp_path), "--out", str(tmp_path / "c.json")])
    assert done.exit_code != 0
    assert "nothing may be fitted" in done.stderr


def example(number: int) -> Example:
    schema = {"type": "object", "properties": {"door": {"type": "integer"}}, "required": ["door"]}
    return Example(
        id=f"door-{number}",
        source="own",
        license="Apache-2.0",
        kind="call",
        tools=(Tool(name="ring", parameters=schema), Tool(name="knock", parameters=schema)),
        messages=(
            Message(role="user", content="ring at door 0"),
            Message(role="assistant", calls=(Call(name="ring", arguments={"door": 0}),)),
            Message(role="tool", content="rang"),
            Message(role="user", content=f"and at door {number}"),
        ),
        calls=(Call(name="ring", arguments={"door": number}),),
    )
