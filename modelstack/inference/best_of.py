"""Several replies to one request, and how one answer is made of them: best of n, self-consistency.

Best of n takes the reply that a judge values most: a verifier, a reward model, or the model's own mean
log-probability. Self-consistency (Wang et al., arXiv 2203.11171) takes no judge: the answer that most replies come
to wins, each with one vote or with a weight. What k of n replies would have given is `curves_at_k`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from modelstack.inference.engine import Engine, GenerateRequest
from modelstack.inference.thinking import ThinkingBudget, ThoughtMarks, think, with_seed


@dataclass(frozen=True, slots=True)
class Reply:
    """One of several."""

    text: str
    """Marks of a thought included, the token that ended it not."""
    ids: tuple[int, ...]
    mean_logprob: float
    """Of the tokens that the model chose, in nats at temperature 1; -inf where it chose none."""
    n_thinking: int
    """0 without a budget."""
    is_truncated: bool


@dataclass(frozen=True, slots=True)
class Vote:
    """What replies agreed on."""

    answer: str | None
    """None: no reply had one."""
    share: float
    """Of the weight of all replies, those without an answer included: how sure the vote is."""
    weights: Mapping[str, float]
    """Of each answer, in the order of their first replies."""


def sample_replies(
    engine: Engine,
    request: GenerateRequest,
    n: int,
    *,
    budget: ThinkingBudget | None = None,
    marks: ThoughtMarks | None = None,
) -> list[Reply]:
    """Return n replies, each with random numbers of its own; the prompt is evaluated once.

    Args:
        engine: Any.
        request: With a temperature above 0 if n is more than 1; its grammar, if any, would have to begin anew, so
            there must be none.
        n: At least 1.
        budget: Of the thoughts; None: the model writes as it likes.
        marks: Of the thoughts.

    Raises:
        ValueError: n is below 1, all replies would be the same, or the request has a grammar.
        EngineError: The engine failed.
    """
    if n < 1 or (n > 1 and request.sampling.temperature == 0):
        raise ValueError(f"{n} replies at temperature {request.sampling.temperature}: n from 1, several above 0")
    if request.grammar is not None:
        raise ValueError("a grammar is the state of one reply: sample each of several with one of its own")
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
    """Return the number of the reply that is worth most, the first of equals; None: none could be judged.

    Args:
        values: Of each reply, by any judge; None where it could not tell.
    """
    judged = [(value, -number) for number, value in enumerate(values) if value is not None]
    return -max(judged)[1] if judged else None


def self_consistency(answers: Sequence[str | None], weights: Sequence[float] | None = None) -> Vote:
    """Return what most replies come to; of equals, the answer that came first.

    Args:
        answers: Of each reply, in one spelling for equal ones; None where it has none.
        weights: Of each reply, at least 0, such as exp of its mean log-probability or a reward; None: all 1.

    Raises:
        ValueError: There are not as many weights as answers, or one is negative or no number.
    """
    weights = [1.0] * len(answers) if weights is None else weights
    if len(weights) != len(answers) or not all(math.isfinite(w) and w >= 0 for w in weights):
        raise ValueError(f"{len(weights)} weights of {len(answers)} replies; each has one, finite and at least 0")
    of_answer: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            of_answer[answer] = of_answer.get(answer, 0.0) + weight
    total = math.fsum(weights)
    if not of_answer or total == 0:
        return Vote(None, 0.0, of_answer)
    winner = max(of_answer, key=lambda answer: of_answer[answer])
    return Vote(winner, of_answer[winner] / total, of_answer)
