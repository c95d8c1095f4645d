"""Several replies to one request, and their combination to one answer: best of n, self-consistency.

Best of n takes the reply with the highest value from a judge: a verifier, a reward model, or the model's own mean
log-probability. Self-consistency (Wang et al., arXiv 2203.11171) needs no judge: the most frequent answer wins,
with one vote or a weight per reply. `curves_at_k` computes the results of k of n replies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from modelstack.inference.engine import Engine, GenerateRequest
from modelstack.inference.thinking import ThinkingBudget, ThoughtMarks, think, with_seed


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply among several."""

    text: str
    """Text including the marks of a thought, without the end token."""
    ids: tuple[int, ...]
    mean_logprob: float
    """Mean over the tokens that the model chose, in nats at temperature 1; -inf if it chose none."""
    n_thinking: int
    """Number of thinking tokens; 0 without a budget."""
    is_truncated: bool


@dataclass(frozen=True, slots=True)
class Vote:
    """The result of a vote among replies."""

    answer: str | None
    """The winning answer; None if no reply had one."""
    share: float
    """Share of the winner in the weight of all replies, including those without an answer."""
    weights: Mapping[str, float]
    """Weight of each answer, in the order of their first replies."""


def sample_replies(
    engine: Engine,
    request: GenerateRequest,
    n: int,
    *,
    budget: ThinkingBudget | None = None,
    marks: ThoughtMarks | None = None,
) -> list[Reply]:
    """Return n replies, each with its own random numbers; the prompt is evaluated once.

    Args:
        engine: Any engine.
        request: With a temperature above 0 if n is more than 1, and without a grammar, which would have to
            restart.
        n: Number of replies, at least 1.
        budget: Budget of the thoughts; None: no thinking dial.
        marks: Marks of the thoughts.

    Raises:
        ValueError: n is below 1, all replies would be equal, or the request has a grammar.
        EngineError: the engine failed.
    """
    if n < 1 or (n > 1 and request.sampling.temperature == 0):
        raise ValueError(
            f"n is {n} at temperature {request.sampling.temperature}; n must be at least 1, and 1 at temperature 0"
        )
    if request.grammar is not None:
        raise ValueError("the request has a grammar, which is the state of one reply; sample without a grammar")
    return [_sampled(engine, request, number, budget, marks) for number in range(n)]


def _sampled(
    engine: Engine,
    request: GenerateRequest,
    number: int,
    budget: ThinkingBudget | None,
    marks: ThoughtMarks | None,
) -> Reply:
    request = replace(request, sampling=with_seed(request.sampling, number))
    if budget is not None:
        reply = think(engine, request, budget, marks)
        is_truncated = reply.answer.finish_reason == "length"
        text = reply.text(engine.vocabulary)
        return Reply(text, tuple(reply.ids), reply.mean_logprob, reply.n_thinking, is_truncated)
    generation = engine.generate(request)
    text = engine.vocabulary.decode(generation.ids)
    mean = math.fsum(generation.logprobs) / len(generation.ids) if generation.ids else -math.inf
    return Reply(text, tuple(generation.ids), mean, 0, generation.finish_reason == "length")


def best_of_n(values: Sequence[float | None]) -> int | None:
    """Return the index of the best reply, the first of equals; None if none could be judged.

    Args:
        values: Value of each reply from any judge; None if the judge could not decide.
    """
    judged = [(value, -number) for number, value in enumerate(values) if value is not None]
    return -max(judged)[1] if judged else None


def self_consistency(answers: Sequence[str | None], weights: Sequence[float] | None = None) -> Vote:
    """Return the winner of a vote among replies; of equals, the answer that came first.

    Args:
        answers: Answer of each reply, with equal spelling for equal answers; None for a reply without an answer.
        weights: Weight of each reply, at least 0, such as exp of its mean log-probability or a reward; None: all
            1.

    Raises:
        ValueError: the numbers of weights and answers differ, or a weight is negative or not finite.
    """
    weights = [1.0] * len(answers) if weights is None else weights
    if len(weights) != len(answers) or not all(math.isfinite(w) and w >= 0 for w in weights):
        raise ValueError(
            f"{len(weights)} weights for {len(answers)} replies; each needs one, finite and at least 0"
        )
    of_answer: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            of_answer[answer] = of_answer.get(answer, 0.0) + weight
    total = math.fsum(weights)
    if not of_answer or total == 0:
        return Vote(None, 0.0, of_answer)
    winner = max(of_answer, key=lambda answer: of_answer[answer])
    return Vote(winner, of_answer[winner] / total, of_answer)
