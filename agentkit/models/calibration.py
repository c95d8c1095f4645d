"""A model with calibrated probabilities that abstains below a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from agentkit.errors import UserError
from agentkit.messages import ModelMessage, ModelResponse
from agentkit.models.base import Model, ModelProfile, ModelRequestParameters, OnDelta
from agentkit.models.confidence import Calibration, decision_confidence
from agentkit.models.held_deltas import HeldDeltas
from agentkit.models.prices import priced_request


class CalibratedModel(Model):
    """A wrapper of a model that calibrates the probabilities of its choices."""

    def __init__(
        self,
        model: Model,
        calibration: Calibration | str | Path | None = None,
        *,
        abstain_below: float | None = None,
    ) -> None:
        """Wrap `model`.

        Args:
            model: The model that is asked.
            calibration: The calibration that `agentkit calibrate` fitted for it, or the path of its file; None
                leaves the probabilities unchanged.
            abstain_below: A reply whose choice is less probable becomes an abstention: none of its calls runs, and
                the run ends as "abstained". Its deltas are held back until that is known. A reply without a
                probability is taken as it is.

        Raises:
            UserError: the file is not a calibration, or `abstain_below` is not a probability.
        """
        if abstain_below is not None and not 0.0 <= abstain_below <= 1.0:
            raise UserError(f"abstain_below={abstain_below!r} is no probability between 0 and 1.")
        self._model = model
        if isinstance(calibration, str | Path):
            calibration = Calibration.load(calibration)
        self._calibration = calibration or Calibration()
        self._abstain_below = abstain_below

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model.name

    @property
    def provider(self) -> str:
        """The model's provider."""
        return self._model.provider

    @property
    def base_url(self) -> str | None:
        """The model's address."""
        return self._model.base_url

    @property
    def is_free(self) -> bool:
        """Whether the model is free."""
        return self._model.is_free

    @property
    def answering_models(self) -> tuple[Model, ...]:
        """The model, or those that it asks."""
        return self._model.answering_models

    @property
    def adapter(self) -> str | None:
        """The model's adapter."""
        return self._model.adapter

    @property
    def profile(self) -> ModelProfile:
        """Capabilities of the model."""
        return self._model.profile

    async def __aenter__(self) -> Self:
        """Enter the model."""
        await self._model.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the model."""
        await self._model.__aexit__(kind, error, trace)

    async def request(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        *,
        on_delta: OnDelta | None = None,
    ) -> ModelResponse:
        """Return the model's reply, or an abstention whose `p_answer` is the probability of the reply's choice.

        Raises:
            ModelError: the model failed.
        """
        deltas = HeldDeltas(on_delta, hold=self._abstain_below is not None)
        tell = None if on_delta is None else deltas.push
        response = await priced_request(self._model, messages, parameters, on_delta=tell)
        response = self._calibration.applied(response)
        confidence = decision_confidence(response)
        if self._abstain_below is None or confidence is None or confidence >= self._abstain_below:
            deltas.release()
            return response
        deltas.release(only_tokens=True)
        return replace(response, parts=(), finish_reason="stop", p_answer=confidence, abstained=True)
