"""Reward of a model as it is served: greedy replies by llama.cpp, judged by the tasks' verifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from evals.statistics import Interval, mean_interval
from modelstack.errors import UserError
from modelstack.inference.engine import GenerateRequest, SamplingParams
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.rewards import Completion, Verifier
from modelstack.tokenizer.chat_template import chat_encoder

Asked = Callable[[int], object]
"""Called with the number of finished tasks."""


def served_reward(
    weights: Path,
    tasks: Sequence[PolicyTask],
    verifier: Verifier,
    *,
    adapter: Path | None = None,
    max_tokens: int = 64,
    n_threads: int = 1,
    asked: Asked = lambda n: None,
) -> Interval:
    """Return the mean reward of a GGUF model's greedy replies, with its 95 % interval.

    Raises:
        EngineError: a file cannot be loaded.
        UserError: no reply can be judged.
    """
    values: list[float] = []
    with LlamaCppEngine(weights, lora_path=adapter, n_threads=n_threads, n_threads_prefill=n_threads) as engine:
        encoder = chat_encoder(engine)
        for done, task in enumerate(tasks, 1):
            prompt = task.prompt_ids(encoder)
            request = GenerateRequest(prompt, max_tokens, sampling=SamplingParams(temperature=0.0))
            found = engine.generate(request)
            text = engine.vocabulary.decode(found.ids)
            reward = verifier.score(task.item, Completion(text, tuple(found.ids), found.finish_reason == "length"))
            if reward.value is not None:
                values.append(reward.value)
            asked(done)
    if not values:
        raise UserError(f"none of {len(tasks)} replies can be judged; correct the tasks' golds")
    return mean_interval(values)
