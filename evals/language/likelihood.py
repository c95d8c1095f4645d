"""Access to the model's engine: log-likelihoods and raw continuations without a chat format.

Benchmarks of this kind compare the probabilities of given texts, which no chat interface offers. They therefore
run only on models in this process (`LocalModel`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio.to_thread

from agentkit.errors import UserError
from agentkit.models.base import Model, ModelSettings
from agentkit.models.local.model import LocalModel
from agentkit.usage import RunUsage

if TYPE_CHECKING:
    from modelstack.inference.scoring import ContinuationScore, ScoringEngine

DEFAULT_MAX_TOKENS = 256
T = TypeVar("T")
Cancelled = Callable[[], bool]


async def with_engine(model: Model, work: Callable[[ScoringEngine, Cancelled], T]) -> T:
    """Run `work` on the model's engine in a worker thread; after a cancellation its second argument returns True.

    Raises:
        UserError: the model is not local, or its engine cannot score.
    """
    if not isinstance(model, LocalModel):
        raise UserError(
            f"model {model.name!r} gives no log-likelihoods of given text: this suite needs a model in this "
            f"process, such as local or local:PATH.gguf."
        )
    stop = threading.Event()
    try:
        return await anyio.to_thread.run_sync(partial(_work, model, work, stop.is_set), abandon_on_cancel=True)
    finally:
        stop.set()


def score_requests(
    requests: Sequence[Sequence[str]], conversation: str, engine: ScoringEngine, cancelled: Cancelled
) -> dict[str, Any]:
    """Score (context, continuation) pairs; common prefixes are evaluated once. Returns lists for JSON."""
    from modelstack.inference.scoring import continuation_logprob, encode_pair

    scores: list[ContinuationScore] = []
    n_context_tokens = 0
    for context, continuation in requests:
        ids, rest = encode_pair(engine.vocabulary, context, continuation)
        n_context_tokens += len(ids)
        scores.append(continuation_logprob(engine, ids, rest, conversation=conversation, cancelled=cancelled))
    return {
        "logprobs": [score.logprob for score in scores],
        "is_greedy": [score.is_greedy for score in scores],
        "n_tokens": [score.n_tokens for score in scores],
        "n_context_tokens": n_context_tokens,
    }


def scored_usage(observed: dict[str, Any]) -> RunUsage:
    """Return the usage of scoring: all tokens are input, and each continuation is a request."""
    n_tokens = observed["n_context_tokens"] + sum(observed["n_tokens"])
    return RunUsage(requests=len(observed["n_tokens"]), input_tokens=n_tokens)


def continue_text(
    prompt: str,
    until: Sequence[str],
    settings: ModelSettings,
    conversation: str,
    engine: ScoringEngine,
    cancelled: Cancelled,
) -> tuple[str, RunUsage]:
    """Continue raw text up to one of the strings in `until`, which is cut off; greedy by default.

    Raises:
        ContextWindowError: the prompt does not fit.
    """
    from modelstack.inference.engine import GenerateRequest, SamplingParams
    from modelstack.inference.scoring import document_start

    vocabulary = engine.vocabulary
    ids = vocabulary.encode(prompt)
    if vocabulary.bos_id is not None or not ids:
        ids = [document_start(vocabulary), *ids]
    written: list[int] = []

    def has_stopped() -> bool:
        return cancelled() or _first_stop(vocabulary.decode(written), until) is not None

    sampling = SamplingParams(
        temperature=settings.temperature or 0.0,
        top_k=settings.top_k or 0,
        top_p=1.0 if settings.top_p is None else settings.top_p,
        min_p=settings.min_p or 0.0,
        seed=settings.seed,
    )
    max_tokens = settings.max_tokens or DEFAULT_MAX_TOKENS
    generation = engine.generate(
        GenerateRequest(ids, max_tokens, conversation=conversation, sampling=sampling),
        on_tokens=written.extend,
        cancelled=has_stopped,
    )
    text = vocabulary.decode(generation.ids)
    usage = RunUsage(requests=1, input_tokens=len(ids), output_tokens=len(generation.ids))
    return text[: _first_stop(text, until)], usage


def _first_stop(text: str, until: Sequence[str]) -> int | None:
    places = [place for stop in until if stop and (place := text.find(stop)) >= 0]
    return min(places) if places else None


def _work(model: LocalModel, work: Callable[[ScoringEngine, Cancelled], T], cancelled: Cancelled) -> T:
    engine = model.load()
    if not hasattr(engine, "score_tokens"):
        raise UserError(f"the engine of {model.name!r} cannot score given tokens; use the llama.cpp engine.")
    return work(cast("ScoringEngine", engine), cancelled)
