"""Scores the choice of the most probable of several texts, by several definitions of accuracy.

- `acc`: the correct choice has the largest summed log-probability (lm-evaluation-harness).
- `acc_norm`: the same after division by the choice's characters, so that long choices have no disadvantage.
- `acc_token`: the same after division by the tokens; used by llm-foundry and the CORE metric.
- continuations: `acc` is whether greedy decoding would write exactly the correct text; `perplexity` is exp(-mean
  summed log-probability of the continuation), as reported for LAMBADA.

CORE (DataComp-LM): the mean over tasks of (accuracy - chance) / (1 - chance).
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence

from evals.case import Case, Run, Score, failed_score
from evals.harness.suite import Table
from evals.statistics import mean_interval


def score_choice(case: Case, run: Run) -> Score:
    """Score a case of any kind of this suite: choice, continuation, or generated text."""
    if failed := failed_score(run):
        return failed
    kind = case.data["kind"]
    if kind == "generate":
        return _score_generated(case, run)
    if kind == "continuation":
        return _score_continuation(case, run)
    return _score_competition(case, run)


def best(values: Sequence[float]) -> int:
    """Return the index of the largest value, the first one if there are several."""
    return max(range(len(values)), key=values.__getitem__)


def centred(accuracy: float, chance: float) -> float:
    """Return accuracy above chance as a share of the maximum: 0 at chance, 1 if perfect, negative below chance."""
    return (accuracy - chance) / (1 - chance)


def exact_match(answer: str, target: str, *, ignore_case: bool = False, ignore_punctuation: bool = False) -> bool:
    """Compare like lm-evaluation-harness's `exact_match`: all spaces count, also leading and trailing ones."""
    pair = [answer, target]
    if ignore_case:
        pair = [text.lower() for text in pair]
    if ignore_punctuation:
        pair = [text.translate(str.maketrans("", "", string.punctuation)) for text in pair]
    return pair[0] == pair[1]


def choice_tables(scored: Sequence[tuple[Case, Run, Score]]) -> list[Table]:
    """Return one row per task and the CORE-like mean; failed cases count as wrong."""
    tasks: dict[str, list[tuple[Case, Score]]] = {}
    for case, _, score in scored:
        tasks.setdefault(case.group, []).append((case, score))
    rows: list[tuple[str, ...]] = []
    centred_accuracies: list[float] = []
    for name, entries in tasks.items():
        row, centred_accuracy = _task_row(name, entries)
        rows.append(row)
        centred_accuracies.append(centred_accuracy)
    mean = math.fsum(centred_accuracies) / len(centred_accuracies) if rows else math.nan
    rows.append(("mean of tasks", "", "", "", "", "", f"{mean:.3f}", ""))
    columns = ("task", "n", "acc (95 %)", "acc_norm", "acc_token", "chance", "centred", "perplexity")
    return [Table("Tasks: accuracies, and accuracy above chance as in CORE", columns, tuple(rows))]


def _task_row(name: str, entries: Sequence[tuple[Case, Score]]) -> tuple[tuple[str, ...], float]:
    def mean(key: str) -> float:
        return math.fsum(score.numbers.get(key, 0.0) for _, score in entries) / len(entries)

    accuracy = mean_interval([score.value for _, score in entries])
    is_choice = entries[0][0].data["kind"] == "choice"
    chance = math.fsum(case.data["chance"] for case, _ in entries) / len(entries)
    # A schema's endings are the same text, so neither normalisation changes the order.
    counted = mean("acc_token") if is_choice else accuracy.value
    logprobs = [score.numbers["logprob"] for _, score in entries if "logprob" in score.numbers]
    perplexity = _perplexity(logprobs) if logprobs and not is_choice else ""
    row = (
        name,
        str(len(entries)),
        str(accuracy),
        f"{mean('acc_norm'):.3f}" if is_choice else "",
        f"{mean('acc_token'):.3f}" if is_choice else "",
        f"{chance:.3f}",
        f"{centred(counted, chance):.3f}",
        perplexity,
    )
    return row, centred(counted, chance)


def _perplexity(logprobs: Sequence[float]) -> str:
    mean = -math.fsum(logprobs) / len(logprobs)
    return f"{math.exp(mean):.4g}" if mean < 700 else "inf"  # exp(710) is beyond a double


def _score_competition(case: Case, run: Run) -> Score:
    logprobs, lengths = run.observed["logprobs"], case.data["lengths"]
    gold = case.target
    picked = best(logprobs)
    by_length = best([logprob / length for logprob, length in zip(logprobs, lengths, strict=True)])
    by_token = best([logprob / n for logprob, n in zip(logprobs, run.observed["n_tokens"], strict=True)])
    return Score(
        float(picked == gold),
        f"choice {gold} is right, {picked} most probable ({by_length} per character, {by_token} per token)",
        answer=str(picked),
        numbers={
            "acc_norm": float(by_length == gold),
            "acc_token": float(by_token == gold),
            "p_right": _share(logprobs, gold),
        },
    )


def _share(logprobs: Sequence[float], gold: int) -> float:
    """Return the correct choice's share of the total probability of all choices."""
    top = max(logprobs)
    weights = [math.exp(logprob - top) for logprob in logprobs]
    return weights[gold] / math.fsum(weights)


def _score_continuation(case: Case, run: Run) -> Score:
    logprob, is_greedy = run.observed["logprobs"][0], run.observed["is_greedy"][0]
    words = "would be written" if is_greedy else "would not be written"
    return Score(float(is_greedy), f"{case.target!r} {words} greedily", numbers={"logprob": logprob})


def _score_generated(case: Case, run: Run) -> Score:
    answer = str(run.output or "")
    rules: Mapping[str, bool] = case.data.get("exact_match", {})
    right = any(exact_match(answer, target, **rules) for target in case.target)
    return Score(float(right), f"wanted {case.target!r}, got {answer!r:.200}", answer=answer)
