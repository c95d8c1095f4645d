"""A guardrail from the shipped classifiers: harm and jailbreaks in what a user writes, injections in tool results.

Each check has an operating point of its own, named after the share of ordinary texts that it flags wrongly: a
stricter one blocks less and misses more. A classifier is one layer; it does not replace approvals, limits of a
toolset, or rules on what a tool result may cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.guardrails.guardrail import CheckedResult, Guardrail
from agentkit.guardrails.verdicts import Allow, Block, Verdict

if TYPE_CHECKING:
    from modelstack.align.classifiers import Assessment

OperatingPoint = Literal["fpr_0.5", "fpr_1", "fpr_5"]
_Check = Literal["request harm", "jailbreak", "injection"]


@dataclass(frozen=True, slots=True)
class SafetyClassifier:
    """Judges texts with the package's linear classifiers (numpy, about a millisecond for a short prompt)."""

    request_harm: OperatingPoint | None = "fpr_0.5"
    """Where a request counts as harmful; None does not check it."""
    jailbreak: OperatingPoint | None = "fpr_0.5"
    """Where a message counts as an attempt to unlock the model; None does not check it."""
    injection: OperatingPoint | None = "fpr_1"
    """Where a tool result counts as carrying instructions; None does not check it."""

    def guardrails(self) -> Sequence[Guardrail]:
        """Return the checks of prompts and of tool results; each reads its text in a worker thread."""
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
            UserError: numpy or safetensors is missing, or the weights are.
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
            UserError: numpy or safetensors is missing, or the weights are.
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
        # What nobody read may hold anything.
        return Block(f"{check}: {assessment.n_unread_characters:,} characters are too many to be checked")
    return Allow()


def _assess(check: _Check, text: str) -> Assessment:
    try:
        from modelstack.align import classifiers
        from modelstack.align.weights_file import ClassifierFileError
    except ImportError as error:
        raise UserError(f"guardrails need {error.name}: pip install 'agentkit[local]'.") from error
    judge = {
        "request harm": classifiers.assess_request,
        "jailbreak": classifiers.assess_jailbreak,
        "injection": classifiers.assess_injection,
    }[check]
    try:
        return judge(text)
    except ImportError as error:  # safetensors, on the first load
        raise UserError(f"guardrails need {error.name}: pip install 'agentkit[local]'.") from error
    except ClassifierFileError as error:
        raise UserError(f"the weights of the {check} classifier cannot be used: {error}") from error
