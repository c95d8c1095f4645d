"""Guardrails: checks at four stages of a run. The import does not load numpy; a classifier's first check does."""

from agentkit.guardrails.classifiers import OperatingPoint, SafetyClassifier
from agentkit.guardrails.guardrail import (
    CheckedCall,
    CheckedResult,
    Guardrail,
    GuardrailSource,
    input_guardrail,
    output_guardrail,
    tool_call_guardrail,
    tool_result_guardrail,
)
from agentkit.guardrails.rules import AskWhenUnsure, HiddenCharacters, InjectionWords, TaintRule
from agentkit.guardrails.safety_guard import GuardPoint, SafetyGuard
from agentkit.guardrails.verdicts import Allow, Block, RequireApproval, Rewrite, Verdict

__all__ = [
    "Allow",
    "AskWhenUnsure",
    "Block",
    "CheckedCall",
    "CheckedResult",
    "GuardPoint",
    "Guardrail",
    "GuardrailSource",
    "HiddenCharacters",
    "InjectionWords",
    "OperatingPoint",
    "RequireApproval",
    "Rewrite",
    "SafetyClassifier",
    "SafetyGuard",
    "TaintRule",
    "Verdict",
    "input_guardrail",
    "output_guardrail",
    "tool_call_guardrail",
    "tool_result_guardrail",
]
