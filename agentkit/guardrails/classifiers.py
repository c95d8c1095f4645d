"""Guardrail with the shipped classifiers: harm and jailbreaks in user messages, injections in tool results.

Each check has its own operating point, named after the false-positive rate on ordinary text: a lower rate blocks
less and misses more. A classifier is one layer; it does not replace approvals, restricted toolsets, or rules on
the consequences of a tool result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.guardrails.guardrail import CheckedResult, Guardrail
from agentkit.guardrails.verdicts import Allow, Block, Verdict
from mcp_servers.distribution import install_command

if TYPE_CHECKING:
    from modelstack.align.guards.assess import Assessment

OperatingPoint = Literal["fpr_0.5", "fpr_1", "fpr_5"]
_Check = Literal["request harm", "jailbreak", "injection"]


@dataclass(frozen=True, slots=True)
class SafetyClassifier:
    """Judges texts with the package's linear classifiers (numpy, about a millisecond for a short prompt)."""

    request_harm: OperatingPoint | None = "fpr_0.5"
    """Operating point for harmful requests; None disables the check."""
    jailbreak: OperatingPoint | None = "fpr_0.5"
    """Operating point for jailbreak attempts; None disables the check."""
    injection: OperatingPoint | None = "fpr_1"
    """Operating point for injected instructions in tool results; None disables the check."""

    def guardrails(self) -> Sequence[Guardrail]:
        """Return the checks of prompts and of tool results; each runs in a worker thread."""
        from anyio.to_thread import run_sync

        async def check_input(text: str, context: RunContext[Any]) -> Verdict:
            return await run_sync(self.check_input, text)

        async def check_tool_result(result: CheckedResult, context: RunContext[Any]) -> Verdict:
            return await run_sync(self.check_tool_result, result.text)

        return (
            Guardrail("input", "SafetyClassifier", check_input),
            Guardrail("tool_result", "SafetyClassifier", check_tool_result),
        )

    def check_input(self, text: str) -> Verdict:
        """Return the verdict on a user's message.

        Raises:
            UserError: numpy, safetensors or the weights are missing.
        """
        checks: tuple[tuple[_Check, OperatingPoint | None], ...] = (
            ("request harm", self.request_harm),
            ("jailbreak", self.jailbreak),
        )
        for check, point in checks:
            if point is not None:
                verdict = _verdict(check, point, text)
                if isinstance(verdict, Block):
                    return verdict
        return Allow()

    def check_tool_result(self, text: str) -> Verdict:
        """Return the verdict on a tool result or document that the model is about to read.

        Raises:
            UserError: numpy, safetensors or the weights are missing.
        """
        return Allow() if self.injection is None else _verdict("injection", self.injection, text)


def _verdict(check: _Check, point: OperatingPoint, text: str) -> Verdict:
    assessment = _assess(check, text)
    if point in assessment.flagged_at:
        return Block(
            f"{check}: probability {assessment.probability:.2f}, flagged at {point}",
            hazard=assessment.hazard,
            probability=assessment.probability,
        )
    if assessment.n_unread_characters:
        # Unread text is untrusted.
        return Block(f"{check}: {assessment.n_unread_characters:,} characters are too many to be checked")
    return Allow()


def _assess(check: _Check, text: str) -> Assessment:
    try:
        from modelstack.align.guards import assess
        from modelstack.align.guards.weights_file import ClassifierFileError
    except ImportError as error:
        raise UserError(f"guardrails need {error.name}: {install_command('local')}.") from error
    judge = {
        "request harm": assess.assess_request,
        "jailbreak": assess.assess_jailbreak,
        "injection": assess.assess_injection,
    }[check]
    try:
        return judge(text)
    except ImportError as error:  # safetensors, on the first load
        raise UserError(f"guardrails need {error.name}: {install_command('local')}.") from error
    except ClassifierFileError as error:
        raise UserError(f"the weights of the {check} classifier cannot be used: {error}") from error
