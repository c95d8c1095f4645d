"""What a guardrail says of a text, where its weights come from, and what it costs to import."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from agentkit.errors import UserError
from agentkit.guardrails import Allow, Block, SafetyClassifier
from mcp_servers.distribution import install_command
from modelstack.align.guards import assess
from modelstack.align.guards.assess import Assessment
from modelstack.align.guards.weights_file import ClassifierFileError


def assessment(probability: float, *flagged_at: str, n_unread: int = 0) -> Assessment:
    return Assessment("made", probability, flagged_at, "S1" if flagged_at else None, (), (), n_unread)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> dict[str, Assessment]:
    """Assessments by kind of check; a test changes them."""
    found = {name: assessment(0.01) for name in ("assess_request", "assess_jailbreak", "assess_injection")}
    for name in found:
        monkeypatch.setattr(assess, name, lambda text, name=name: found[name])
    return found


def test_importing_guardrails_loads_no_numpy() -> None:
    code = "import sys, agentkit.guardrails; sys.exit('numpy' in sys.modules or 'safetensors' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_a_harmless_text_passes(judged: dict[str, Assessment]) -> None:
    assert SafetyClassifier().check_input("hello") == Allow()
    assert SafetyClassifier().check_tool_result("hello") == Allow()


def test_a_flagged_request_is_blocked_with_hazard_and_probability(judged: dict[str, Assessment]) -> None:
    judged["assess_request"] = assessment(0.97, "fpr_0.5", "fpr_1", "fpr_5")
    verdict = SafetyClassifier().check_input("bad")
    assert isinstance(verdict, Block)
    assert (verdict.hazard, verdict.probability) == ("S1", 0.97)
    assert verdict.reason == "request harm: probability 0.97, flagged at fpr_0.5"


def test_an_operating_point_decides_what_is_blocked(judged: dict[str, Assessment]) -> None:
    judged["assess_request"] = assessment(0.5, "fpr_5")
    assert SafetyClassifier(request_harm="fpr_1").check_input("x") == Allow()
    assert isinstance(SafetyClassifier(request_harm="fpr_5").check_input("x"), Block)


def test_a_jailbreak_is_blocked_where_the_request_is_not(judged: dict[str, Assessment]) -> None:
    judged["assess_jailbreak"] = assessment(0.99, "fpr_0.5", "fpr_1", "fpr_5")
    verdict = SafetyClassifier().check_input("x")
    assert isinstance(verdict, Block) and verdict.reason.startswith("jailbreak:")


def test_an_injection_blocks_a_tool_result_and_no_input(judged: dict[str, Assessment]) -> None:
    judged["assess_injection"] = assessment(0.99, "fpr_1", "fpr_5")
    assert isinstance(SafetyClassifier().check_tool_result("x"), Block)
    assert SafetyClassifier().check_input("x") == Allow()


def test_a_check_set_to_none_is_not_made(judged: dict[str, Assessment]) -> None:
    for name in judged:
        judged[name] = assessment(0.99, "fpr_0.5", "fpr_1", "fpr_5")
    guard = SafetyClassifier(request_harm=None, jailbreak=None, injection=None)
    assert guard.check_input("x") == Allow()
    assert guard.check_tool_result("x") == Allow()


def test_what_nobody_read_is_not_let_through(judged: dict[str, Assessment]) -> None:
    judged["assess_injection"] = assessment(0.01, n_unread=4321)
    verdict = SafetyClassifier().check_tool_result("x")
    assert isinstance(verdict, Block) and "4,321 characters" in verdict.reason


def test_weights_that_cannot_be_used_are_the_callers_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(text: str) -> Assessment:
        raise ClassifierFileError("weights/request-harm.safetensors cannot be read")

    monkeypatch.setattr(assess, "assess_request", missing)
    with pytest.raises(UserError, match="request harm classifier cannot be used"):
        SafetyClassifier().check_input("x")


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(text: str) -> Assessment:
        raise ModuleNotFoundError("No module named 'safetensors'", name="safetensors")

    monkeypatch.setattr(assess, "assess_request", missing)
    with pytest.raises(UserError, match=re.escape(f"need safetensors: {install_command('local')}")):
        SafetyClassifier().check_input("x")
