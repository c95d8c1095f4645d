"""A suite of sums that `find_suite` knows during a test."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from agentkit.messages import ModelMessage, ModelResponse, TextPart, UserPromptPart
from agentkit.models.base import ModelRequestParameters
from agentkit.testing import FunctionModel
from evals.harness import suite


@pytest.fixture(autouse=True)
def sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(suite.SUITES, "sums", "harness_suites:SUMS")


@pytest.fixture
def adder() -> FunctionModel:
    """A model that adds, and gets one sum wrong."""

    def add(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        prompt = next(p.text for m in messages for p in m.parts if isinstance(p, UserPromptPart))
        a, b = map(int, re.findall(r"\d+", prompt))
        return ModelResponse((TextPart(str(a + b if a != 3 else 0)),))

    return FunctionModel(add)
