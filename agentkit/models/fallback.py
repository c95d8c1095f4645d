"""Models tried in order: the next one takes over when one fails, or when its confidence is too low.

A reply is never restarted with another model after deltas were delivered: the listener would receive two
replies as one. With `min_confidence` the deltas of all but the last model are held back until their reply is
accepted, since confidence is known only at its end; without it they are passed on as they come.

The hand-over by confidence is that of model cascades (FrugalGPT, arXiv 2305.05176): a small local model decides
what it is sure of, a larger one the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from agentkit.errors import ContextWindowExceeded, ModelError, UnexpectedModelBehavior, UserError
from agentkit.messages import ModelMessage, ModelResponse
from agentkit.models.base import Model, ModelProfile, ModelRequestParameters, OnDelta
from agentkit.models.confidence import decision_confidence
from agentkit.models.held_deltas import HeldDeltas
from agentkit.models.prices import priced_request
from agentkit.usage import NO_COST, RequestUsage

if TYPE_CHECKING:
    from agentkit.files import FileKind

HandOver = Callable[[ModelError], bool]


def may_succeed_elsewhere(error: ModelError) -> bool:
    """Return True for errors that are transient or specific to the model; not for a wrong key or request."""
    return error.retryable or isinstance(error, ContextWindowExceeded | UnexpectedModelBehavior)


class AllModelsFailed(ModelError):
    """Every model of a `FallbackModel` failed, or was below `min_confidence`."""

    def __init__(self, message: str, errors: tuple[ModelError, ...]) -> None:
        """Keep the errors in the order of the models; retryable if one of them is."""
        super().__init__(message)
        self.errors = errors
        self.retryable = any(error.retryable for error in errors)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the errors."""
        return type(self), (str(self), self.errors)


class ModelUnsure(ModelError):
    """A model's call was less probable than `min_confidence`; the call was not run."""

    def __init__(self, message: str, confidence: float) -> None:
        """Keep the probability beside the message."""
        super().__init__(message)
        self.confidence = confidence

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the probability."""
        return type(self), (str(self), self.confidence)


class FallbackModel(Model):
    """Several models as one."""

    def __init__(
        self,
        first: Model,
        *others: Model,
        on: HandOver | type[ModelError] | tuple[type[ModelError], ...] = may_succeed_elsewhere,
        min_confidence: float | None = None,
    ) -> None:
        """Try `first`, then `others` in order.

        Args:
            first: The model that is asked first.
            others: The models that take over.
            on: Which errors are handed over: their types, or a predicate. Any other is raised at once.
            min_confidence: Hand over, before anything is run, a reply whose tool call has a lower probability,
                or an answer with a lower `p_answer`. The last model's reply, and one that gives no
                probability, are taken as they are.

        Raises:
            UserError: there is no model to fall back to, or `min_confidence` is not a probability.
        """
        if not others:
            raise UserError("FallbackModel needs at least two models: there is nothing to fall back to.")
        if min_confidence is not None and not 0.0 <= min_confidence <= 1.0:
            raise UserError(f"min_confidence={min_confidence!r} is no probability between 0 and 1.")
        self._models: tuple[Model, ...] = (first, *others)
        self._hands_over = _predicate(on)
        self._min_confidence = min_confidence

    @property
    def name(self) -> str:
        """The models' names in order."""
        return f"fallback({', '.join(model.name for model in self._models)})"

    @property
    def provider(self) -> str:
        """Provider of the first model, which every request tries first."""
        return self._models[0].provider

    @property
    def adapter(self) -> str | None:
        """Adapter of the first model."""
        return self._models[0].adapter

    @property
    def is_free(self) -> bool:
        """True if all models are free."""
        return all(model.is_free for model in self._models)

    @property
    def answering_models(self) -> tuple[Model, ...]:
        """All models, and those that they ask."""
        return tuple(each for model in self._models for each in model.answering_models)

    @property
    def profile(self) -> ModelProfile:
        """Capabilities that all models share; files are taken if one of them reads them."""
        return common_profile([model.profile for model in self._models])

    async def __aenter__(self) -> Self:
        """Enter all models; if one fails, the others are exited again."""
        async with AsyncExitStack() as stack:
            for model in self._models:
                await stack.enter_async_context(model)
            stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Exit all models, even if exiting one fails."""
        async with AsyncExitStack() as stack:
            for model in self._models:
                stack.push_async_exit(model)

    async def request(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        *,
        on_delta: OnDelta | None = None,
    ) -> ModelResponse:
        """Return the first accepted reply; its usage and cost include those of rejected replies.

        Raises:
            AllModelsFailed: every model failed or was unsure; names each.
            ContextWindowExceeded: the conversation is too long for every model.
            ModelError: an error that is not handed over, or came after deltas had been delivered.
        """
        errors: list[ModelError] = []
        usage = RequestUsage(cost=NO_COST)
        for n_before, model in enumerate(self._models):
            is_last = n_before == len(self._models) - 1
            deltas = HeldDeltas(on_delta, hold=self._min_confidence is not None and not is_last)
            try:
                tell = deltas.push if on_delta else None
                response = await priced_request(model, messages, parameters, on_delta=tell)
            except ModelError as error:
                _refuse_second_start(error, deltas, errors)
                if not self._hands_over(error):
                    raise
                errors.append(error)
                continue
            usage = usage.plus(response.usage)
            unsure = None if is_last else self._unsure(model, response)
            if unsure is None:
                deltas.release()
                # Return the same object if possible: its model recognises an evaluated reply by identity.
                return replace(response, usage=usage) if errors else response
            errors.append(unsure)
        raise _all_failed(self._models, errors)

    def _unsure(self, model: Model, response: ModelResponse) -> ModelUnsure | None:
        confidence = decision_confidence(response)
        if self._min_confidence is None or confidence is None or confidence >= self._min_confidence:
            return None
        return ModelUnsure(
            f"{model.name!r} decided with probability {confidence:.3f}, below {self._min_confidence:g}.",
            confidence,
        )


def common_profile(profiles: Sequence[ModelProfile]) -> ModelProfile:
    """Return the capabilities that all of `profiles` share; the window is the smallest known one."""
    windows = [p.context_window for p in profiles if p.context_window is not None]
    return ModelProfile(
        grammar=all(p.grammar for p in profiles),
        logprobs=all(p.logprobs for p in profiles),
        prefix_cache=all(p.prefix_cache for p in profiles),
        context_window=min(windows, default=None),
        parallel_tool_calls=all(p.parallel_tool_calls for p in profiles),
        native_output=all(p.native_output for p in profiles),
        inputs=_inputs_of_any(profiles),
    )


def _inputs_of_any(profiles: Sequence[ModelProfile]) -> frozenset[FileKind] | None:
    """Return the kinds of files that one of the models reads; the others are told of a file in words."""
    read: set[FileKind] = set()
    for profile in profiles:
        if profile.inputs is None:
            return None
        read |= profile.inputs
    return frozenset(read)


def _refuse_second_start(error: ModelError, deltas: HeldDeltas, earlier: list[ModelError]) -> None:
    """Raise `error` if part of its reply was delivered."""
    if not deltas.delivered:
        return
    error.add_note("Not handed over to another model: a part of the reply had been delivered.")
    for failure in earlier:
        error.add_note(f"Before that: {failure}")
    raise error


def _all_failed(models: Sequence[Model], errors: Sequence[ModelError]) -> ModelError:
    listed = "\n".join(
        f"- {model.name}: {type(error).__name__}: {error}" for model, error in zip(models, errors, strict=True)
    )
    if all(isinstance(error, ContextWindowExceeded) for error in errors):
        return ContextWindowExceeded(f"the conversation is too long for each of {len(errors)} models:\n{listed}")
    return AllModelsFailed(f"none of {len(errors)} models gave a reply:\n{listed}", tuple(errors))


def _predicate(on: HandOver | type[ModelError] | tuple[type[ModelError], ...]) -> HandOver:
    if isinstance(on, tuple):
        return lambda error: isinstance(error, on)
    if isinstance(on, type):
        return lambda error: isinstance(error, on)
    return on
