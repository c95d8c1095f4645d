"""Rule-based guardrails: a taint rule, removal of hidden characters, a word list, and a confidence threshold.

The taint rule is the reliable guardrail, because it does not depend on the text. Once the conversation contains
untrusted content, destructive and open-world calls require approval, however well an attack is disguised
(capabilities instead of detection, as in CaMeL, arXiv 2503.18813). A function declares its effects in its
annotations. An MCP tool without annotations counts as destructive and open-world, as MCP specifies, unless its
toolset was created with `assume_harmless=True`. The word list is a baseline for comparing classifiers, and easy to
circumvent.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from agentkit.basics.hidden import strip_data
from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.guardrails.guardrail import CheckedCall, CheckedResult, Guardrail
from agentkit.guardrails.verdicts import Allow, Block, RequireApproval, Rewrite, Verdict

_INJECTION = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b[^.\n]{0,40}\b(?:previous|prior|above|earlier|all|your|the system)\b"
    r"[^.\n]{0,40}\b(?:instructions?|prompts?|rules?|directives?|guidelines?)\b"
    r"|\b(?:new|updated|real|actual) (?:system )?instructions?\s*:"
    r"|\b(?:important|attention|urgent)\b[^.\n]{0,40}\b(?:assistant|ai|language model|llm|agent)\b"
    r"|<\|?(?:im_start|im_end|system|endoftext|eot_id|start_header_id)\|?>|\[/?INST\]|<</?SYS>>"
    r"|\bdo not (?:tell|inform|mention|reveal|let)\b[^.\n]{0,40}\buser\b"
    r"|\byou are now\b|\bdeveloper mode\b|\bsystem (?:prompt|message|override)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class TaintRule:
    """Requires approval for consequential tools after untrusted content, unless they are allow-listed."""

    allow: Collection[str] = ()
    """Names of tools that may run without approval."""

    def guardrails(self) -> Sequence[Guardrail]:
        """Return the check."""
        return (Guardrail("tool_call", "TaintRule", self.check),)

    def check(self, call: CheckedCall, context: RunContext[Any]) -> Verdict:
        """Return the verdict on a call."""
        if not context.tainted or not call.tool.is_consequential or call.tool.name in self.allow:
            return Allow()
        return RequireApproval(
            "untrusted content is in the conversation, and this tool can change or reach things"
        )


@dataclass(frozen=True, slots=True)
class HiddenCharacters:
    """Removes zero-width, bidirectional, tag and control characters from prompts and tool results."""

    def guardrails(self) -> Sequence[Guardrail]:
        """Return the checks of prompts and of tool results."""
        return (
            Guardrail("input", "HiddenCharacters", lambda text, context: self.check(text)),
            Guardrail("tool_result", "HiddenCharacters", lambda result, context: self.check(result.text)),
        )

    def check(self, text: str) -> Verdict:
        """Return the verdict on a text."""
        stripped, n_hidden = strip_data(text)
        return Rewrite(stripped, f"{n_hidden} hidden characters removed") if n_hidden else Allow()


@dataclass(frozen=True, slots=True)
class InjectionWords:
    """Withholds tool results with phrases that are common in injections; a baseline, not a defence by itself."""

    def guardrails(self) -> Sequence[Guardrail]:
        """Return the check."""
        return (Guardrail("tool_result", "InjectionWords", self._check),)

    def check(self, text: str) -> Verdict:
        """Return the verdict on a text; hidden characters between its letters are ignored."""
        found = _INJECTION.search(strip_data(text)[0])
        return Block(f"it reads like instructions to a model: {found[0][:60]!r}", "A1") if found else Allow()

    def _check(self, result: CheckedResult, context: RunContext[Any]) -> Verdict:
        return self.check(result.text)


@dataclass(frozen=True, slots=True)
class AskWhenUnsure:
    """Requires approval for calls with a low probability; `agentkit calibrate` calibrates the probabilities."""

    below: float
    """Probability of the tool below which a call requires approval."""
    consequential_only: bool = False
    """Apply the rule only to destructive and open-world tools."""

    def __post_init__(self) -> None:
        """Reject an invalid probability.

        Raises:
            UserError: `below` is not between 0 and 1.
        """
        if not 0.0 <= self.below <= 1.0:
            raise UserError(f"AskWhenUnsure(below={self.below!r}) is no probability between 0 and 1.")

    def guardrails(self) -> Sequence[Guardrail]:
        """Return the check."""
        return (Guardrail("tool_call", "AskWhenUnsure", self.check),)

    def check(self, call: CheckedCall, context: RunContext[Any]) -> Verdict:
        """Return the verdict on a call; one without a probability is allowed."""
        if call.probability is None or call.probability >= self.below:
            return Allow()
        if self.consequential_only and not call.tool.is_consequential:
            return Allow()
        return RequireApproval(f"the model was sure of this tool to {call.probability:.0%} only")
