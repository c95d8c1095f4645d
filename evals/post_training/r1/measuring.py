"""Measures a stage: greedy replies without a limit, at each thinking budget, and several sampled replies.

Greedy and sampled replies come from torch in batches. The thinking budget is measured with llama.cpp on the
exported weights, as a user would run them. All stages get the same held-back problems. A base, which knows no chat
format, gets them in the form of its documents.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from evals.post_training.r1.running_sums import Problem, task
from evals.post_training.r1.stages import Work
from modelstack.architecture.gguf.export import export_gguf
from modelstack.files import replacing
from modelstack.inference.curves_at_k import Judged
from modelstack.inference.engine import GenerateRequest
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.inference.thinking import ThinkingBudget, think
from modelstack.posttrain.base import Base, load_base
from modelstack.reasoning.sampling.continuing import TorchPolicy
from modelstack.reasoning.sampling.group_sampler import GroupSampler
from modelstack.reasoning.sampling.sampled import Asked, Sampled, completion_of
from modelstack.reasoning.tasks.task import PolicyTask, read_tasks
from modelstack.reasoning.verifiers.formats import ThinkFormat
from modelstack.reasoning.verifiers.mathematics import MathVerifier
from modelstack.reasoning.verifiers.rewards import END_OF_THOUGHT, THINK, Completion
from modelstack.tokenizer.chat_template import chat_encoder
from modelstack.tokenizer.gguf_tokenizer import gguf_fields

_CORRECTNESS, _FORM = MathVerifier(lenient=True), ThinkFormat()
ANSWER_TOKENS = 4
"""Maximum tokens of an answer after a thought: one digit, and room for a wrong answer."""


class AtBudget(BaseModel, frozen=True):
    """Greedy replies within one thinking budget, in the order of the problems."""

    budget: int
    is_right: tuple[bool, ...]
    n_thinking: tuple[int, ...]
    """Number of thinking tokens of each reply."""


class Measured(BaseModel, frozen=True):
    """Measurements of one stage."""

    name: str
    plan: str
    """Fingerprint of the plan."""
    n_parameters: int
    is_right: tuple[bool, ...]
    """Whether each greedy reply without a budget is correct."""
    is_formed: tuple[bool, ...]
    """Whether each of them consists of one thought and an answer."""
    n_tokens: tuple[int, ...]
    dial: tuple[AtBudget, ...] = ()
    replies: tuple[Judged, ...] = ()
    """Sampled replies."""


def measure(work: Work, name: str, *, thinks: bool) -> Measured:
    """Measure a stage, or read stored measurements.

    Args:
        work: The run that contains the stage.
        name: Name of the stage.
        thinks: False for a base, for which only greedy completions are measured.
    """
    file = work.folder / "measured" / f"{name}.json"
    plan = work.fingerprint
    if file.exists():
        known = Measured.model_validate_json(file.read_bytes())
        if known.plan == plan:
            return known
    file.parent.mkdir(exist_ok=True)
    base = load_base(work.model(name))
    tasks = _tasks(file.parent / "held-back.jsonl", work.held_back())
    found = _greedy(work, name, base, tasks, thinks=thinks)
    if thinks:
        update = {
            "dial": _dial(work, base, tasks, file.with_suffix(".gguf")),
            "replies": _replies(work, base, tasks),
        }
        found = found.model_copy(update=update)
    with replacing(file) as temporary:
        temporary.write_text(found.model_dump_json() + "\n", encoding="utf-8")
    return found


def _tasks(file: Path, held_back: Sequence[Problem]) -> list[PolicyTask]:
    with replacing(file) as temporary:
        lines = [json.dumps(task(n, one, "held-back")) + "\n" for n, one in enumerate(held_back)]
        temporary.write_text("".join(lines), encoding="utf-8")
    return list(read_tasks(file))


def _greedy(work: Work, name: str, base: Base, tasks: Sequence[PolicyTask], *, thinks: bool) -> Measured:
    if thinks:
        prompts = [tuple(each.prompt_ids(base.encoder)) for each in tasks]
        n_most = work.plan.max_tokens
    else:  # the form of question and answer in its documents
        start = [] if base.tokenizer.vocabulary.bos_id is None else [base.tokenizer.vocabulary.bos_id]
        prompts = [(*start, *base.tokenizer.vocabulary.encode(f"{each.item.prompt} ")) for each in tasks]
        n_most = 1
    sampled = _sample(base, tasks, prompts, 1, n_most, 0.0)
    completions = [completion_of(each, base.encoder) for (each,) in sampled]
    return Measured(
        name=name,
        plan=work.fingerprint,
        n_parameters=sum(parameter.numel() for parameter in base.model.parameters()),
        is_right=tuple(_judged(one, said)[0] for one, said in zip(tasks, completions, strict=True)),
        is_formed=tuple(
            _FORM.score(one.item, said).value == 1.0 for one, said in zip(tasks, completions, strict=True)
        ),
        n_tokens=tuple(len(said.token_ids) for said in completions),
    )


def _dial(work: Work, base: Base, tasks: Sequence[PolicyTask], file: Path) -> tuple[AtBudget, ...]:
    """Ask llama.cpp each problem at each thinking budget."""
    export_gguf(base.config, base.model.state_dict(), gguf_fields(base.tokenizer), file, type_name="f32")
    found: list[AtBudget] = []
    is_settled = [False] * len(tasks)
    with LlamaCppEngine(file, n_threads=1, n_threads_prefill=1) as engine:
        encoder = chat_encoder(engine)
        for budget in sorted(work.plan.budgets):
            right, thought = [], []
            for n, one in enumerate(tasks):
                if is_settled[n]:  # a greedy thought that has ended is the same within any larger budget
                    right.append(found[-1].is_right[n])
                    thought.append(found[-1].n_thinking[n])
                    continue
                request = GenerateRequest(one.prompt_ids(encoder), ANSWER_TOKENS, conversation=str(n % 4))
                reply = think(engine, request, ThinkingBudget(max_tokens=budget))
                is_settled[n] = reply.closed_by == "model"
                right.append(_judged(one, Completion(reply.text(engine.vocabulary)))[0])
                thought.append(reply.n_thinking)
            found.append(AtBudget(budget=budget, is_right=tuple(right), n_thinking=tuple(thought)))
    file.unlink()
    return tuple(found)


def _replies(work: Work, base: Base, tasks: Sequence[PolicyTask]) -> tuple[Judged, ...]:
    plan = work.plan
    prompts = [tuple(each.prompt_ids(base.encoder)) for each in tasks]
    sampled = _sample(base, tasks, prompts, plan.n_replies, plan.max_tokens, plan.temperature)
    found: list[Judged] = []
    for one, several in zip(tasks, sampled, strict=True):
        judged = [_judged(one, completion_of(each, base.encoder)) for each in several]
        found.append(
            Judged(
                answers=tuple(answer for _, answer in judged),
                is_right=tuple(right for right, _ in judged),
                values=tuple(statistics.fmean(each.log_probs) for each in several),
            )
        )
    return tuple(found)


def _sample(
    base: Base,
    tasks: Sequence[PolicyTask],
    prompts: Sequence[tuple[int, ...]],
    n_replies: int,
    max_tokens: int,
    temperature: float,
) -> list[list[Sampled]]:
    sampler = GroupSampler(TorchPolicy(base.model), frozenset(base.encoder.end_ids), max_tokens, temperature)
    pairs = zip(tasks, prompts, strict=True)
    return sampler.sample([Asked(one, prompt, n) for n, (one, prompt) in enumerate(pairs)], n_replies)


def _judged(one: PolicyTask, said: Completion) -> tuple[bool, str | None]:
    """Return whether a completion is correct, and its answer; None for an unclosed thought."""
    if THINK in said.text and END_OF_THOUGHT not in said.text:
        return False, None
    reward = _CORRECTNESS.score(one.item, said)
    return reward.value == 1.0, reward.answer
