"""Guardrails: verdicts on what goes into a model. Importing this loads no numpy; the first check does."""

from agentkit.guardrails.classifiers import OperatingPoint, SafetyClassifier
from agentkit.guardrails.verdicts import Allow, Block, Verdict

__all__ = ["Allow", "Block", "OperatingPoint", "SafetyClassifier", "Verdict"]
