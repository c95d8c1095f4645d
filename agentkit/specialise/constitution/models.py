"""Any agentkit model as a writer and, if it runs in this process, as a chooser with log-probabilities.

A model behind an API gives no log-probability of a text answer, so it has no chooser here: it is asked several
times and its answers are counted (`modelstack.preferences.constitution.asking.SampledChooser`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from agentkit.errors import ContextWindowExceeded, UserError
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    UserPromptPart,
)
from agentkit.models.base import Model, ModelRequestParameters, ModelSettings
from agentkit.models.local.model import LocalModel
from modelstack.preferences.constitution.asking import Turn, Unanswered

if TYPE_CHECKING:
    from modelstack.inference.scoring import ScoringEngine
    from modelstack.preferences.constitution.engine_asking import EngineModel

_SHOWN = 12
"""Digits of the weights' hash in a name."""


class ModelWriter:
    """A model that writes the next turn of a conversation."""

    def __init__(self, model: Model, spec: str) -> None:
        """Wrap a model.

        Args:
            model: The model, already entered by the caller.
            spec: Specification of the model: `local:x?lora=a` and `local:x?lora=b` have the same model name.
        """
        self._model = model
        self._spec = spec
        self._name: str | None = None

    @property
    def name(self) -> str:
        """Specification, with a hash of the weights if the model runs in this process."""
        if self._name is None:
            self._name = self._spec
            if isinstance(self._model, LocalModel):
                self._name += f" {self._model.load().fingerprint[:_SHOWN]}"
        return self._name

    async def write(self, turns: Sequence[Turn], *, seed: int, max_tokens: int, temperature: float) -> str:
        """Return the model's text answer.

        Raises:
            Unanswered: The conversation is too long for the model, or its provider filtered the answer.
            ModelError: The request failed.
        """
        settings = ModelSettings(temperature=temperature, seed=seed, max_tokens=max_tokens)
        parameters = ModelRequestParameters(tool_choice="none", settings=settings)
        try:
            response = await self._model.request(messages_of(turns), parameters)
        except ContextWindowExceeded as error:
            raise Unanswered(str(error)) from error
        if response.finish_reason == "content_filter":
            raise Unanswered("the provider filtered the answer")
        return response.text


def chooser_of(model: Model) -> EngineModel | None:
    """Return a chooser by log-probabilities; None if the model does not provide them.

    Raises:
        UserError: It is a local model with an engine that cannot score.
    """
    if not isinstance(model, LocalModel):
        return None
    from modelstack.preferences.constitution.engine_asking import EngineModel

    engine = model.load()
    if not hasattr(engine, "score_tokens"):
        raise UserError(f"the engine of {model.name!r} cannot score given tokens; use the llama.cpp engine.")
    return EngineModel(cast("ScoringEngine", engine))


def messages_of(turns: Sequence[Turn]) -> tuple[ModelMessage, ...]:
    """Return turns as a conversation; consecutive turns without a reply become parts of one request."""
    messages: list[ModelMessage] = []
    asked: list[ModelRequestPart] = []
    for turn in turns:
        if turn.role == "assistant":
            if asked:
                messages.append(ModelRequest(tuple(asked)))
                asked = []
            messages.append(ModelResponse((TextPart(turn.content),)))
        else:
            part = SystemPromptPart(turn.content) if turn.role == "system" else UserPromptPart(turn.content)
            asked.append(part)
    if asked:
        messages.append(ModelRequest(tuple(asked)))
    return tuple(messages)
