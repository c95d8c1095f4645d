"""Share of correct replies of a model as it is served: greedy, and sampled as in training.

llama.cpp runs the quantised base with the adapter as a GGUF file, exactly the files that would be shipped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evals.statistics import Interval, mean_interval
from modelstack.errors import UserError
from modelstack.files import replacing
from modelstack.inference.engine import GenerateRequest, SamplingParams
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.rewards import Completion, Verifier
from modelstack.tokenizer.chat_template import chat_encoder


@dataclass(frozen=True, slots=True)
class Asking:
    """Sampling settings of the measurement."""

    max_tokens: int
    temperature: float
    """Temperature of the sampled replies."""
    n_samples: int = 4
    """Number of sampled replies per task besides the greedy reply; 0 disables sampling."""
    seed: int = 0
    n_threads: int = 1


@dataclass(frozen=True, slots=True)
class Rates:
    """Shares of correct replies."""

    greedy: Interval
    sampled: Interval | None
    """Mean over the tasks' shares of correct samples; the interval is over tasks."""
    informative: float | None
    """Share of the tasks whose samples are neither all correct nor all wrong."""


def rates(
    weights: Path,
    adapter: Path | None,
    tasks: Sequence[PolicyTask],
    verifier: Verifier[Any],
    asking: Asking,
    told: Callable[[int], object] = lambda n_done: None,
) -> tuple[Rates, list[dict[str, Any]]]:
    """Return the shares, and the greedy replies with their rewards.

    Raises:
        EngineError: a file cannot be loaded.
        UserError: a task cannot be judged.
    """
    greedy: list[float] = []
    shares: list[float] = []
    replies: list[dict[str, Any]] = []
    threads = asking.n_threads
    with LlamaCppEngine(weights, lora_path=adapter, n_threads=threads, n_threads_prefill=threads) as engine:
        encoder = chat_encoder(engine)

        def answered(task: PolicyTask, sampling: SamplingParams) -> tuple[str, float, str]:
            found = engine.generate(
                GenerateRequest(task.prompt_ids(encoder), asking.max_tokens, sampling=sampling)
            )
            text = engine.vocabulary.decode(found.ids)
            is_cut = found.finish_reason == "length"
            reward = verifier.score(task.item, Completion(text, tuple(found.ids), is_cut))
            if reward.value is None:
                raise UserError(f"task {task.item.id!r} cannot be judged ({reward.reason}): correct its gold")
            return text, reward.value, reward.reason

        for n_done, task in enumerate(tasks, 1):
            text, value, reason = answered(task, SamplingParams(temperature=0.0))
            greedy.append(value)
            replies.append({"id": task.item.id, "reply": text, "reward": value, "reason": reason})
            seeds = [_seed(asking.seed, task.item.id, n) for n in range(asking.n_samples)]
            drawn = [
                answered(task, SamplingParams(temperature=asking.temperature, seed=seed))[1] for seed in seeds
            ]
            if drawn:
                shares.append(sum(drawn) / len(drawn))
            told(n_done)
    is_mixed = [0 < share < 1 for share in shares]
    return Rates(
        mean_interval(greedy),
        mean_interval(shares) if shares else None,
        sum(is_mixed) / len(is_mixed) if is_mixed else None,
    ), replies


def kept_rates(file: Path, made: Callable[[], tuple[Rates, list[dict[str, Any]]]]) -> Rates:
    """Read shares from a file, or measure and store them; `NAME.replies.jsonl` is stored beside it."""
    if not file.is_file():
        found, replies = made()
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file.with_suffix(".replies.jsonl")) as temporary:
            temporary.write_text("".join(json.dumps(reply) + "\n" for reply in replies), encoding="utf-8")
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(asdict(found)) + "\n", encoding="utf-8")
    read = json.loads(file.read_text(encoding="utf-8"))
    sampled = None if read["sampled"] is None else Interval(**read["sampled"])
    return Rates(Interval(**read["greedy"]), sampled, read["informative"])


def _seed(seed: int, task: str, number: int) -> int:
    digest = hashlib.sha256(f"{seed} {task} {number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
