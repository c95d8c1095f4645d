"""Rejection sampling: a policy answers tasks several times, and replies that a verifier accepts become examples.

This is the third step of DeepSeek-R1's recipe (2501.12948, section 2.3.3), and before it of STaR (2203.14465)
and RFT (2308.01825). Results of reinforcement learning become data for fine-tuning a fresh base or a smaller
student. Canaries guard the verifier as in training, since examples of wrongly rewarded replies would teach the
error.

A finished task is one line of `replies.jsonl` with every reply, its reward and the rule that dropped it. A
killed run loses only the tasks in progress and resumes after the last complete line. A task's replies depend
only on the weights, the seed and its id, so interruptions do not change the files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from modelstack.data.examples import Example, Message, write_examples
from modelstack.errors import UserError
from modelstack.files import replacing, sha256_of, whole_lines
from modelstack.posttrain.base import Base
from modelstack.posttrain.starting_point import starting_point
from modelstack.reasoning.rejection.recipe import FREE, LAYOUT, SampleRecipe, SampleResolved
from modelstack.reasoning.rejection.rules import complaint
from modelstack.reasoning.sampling.continuing import TorchPolicy
from modelstack.reasoning.sampling.frozen_model import load_frozen
from modelstack.reasoning.sampling.group_sampler import GroupSampler
from modelstack.reasoning.sampling.sampled import Asked, Sampled, completion_of
from modelstack.reasoning.tasks.task import PolicyTask, read_tasks
from modelstack.reasoning.tasks.verifier_choice import verifier_of
from modelstack.reasoning.verifiers.alarms import RewardHacked
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.run_folder import RunFolder, claim
from modelstack.tokenizer.chat import ChatEncoder
from modelstack.train.process import set_up_process
from modelstack.train.run.stopping import stop_asked

Progress = Callable[[str, int, int], object]
REPLIES_FILE, EXAMPLES_FILE, REPORT_FILE = "replies.jsonl", "examples.jsonl", "report.json"
WRONG, TWICE, ENOUGH, EASY, UNSCORABLE = "wrong", "said before", "at_most", "max_pass_rate", "unscorable"
"""Reasons for dropping a reply, in addition to those in `rules`."""


def sample(
    recipe: SampleRecipe,
    path: Path,
    say: Callable[[str], object] = lambda text: None,
    progress: Progress = lambda name, done, total: None,
) -> dict[str, Any] | None:
    """Sample all tasks, or resume; return the report, or None if a stop was requested.

    Args:
        recipe: Sampling recipe.
        path: Output folder.
        say: Receives the lines to show.
        progress: Callback for the name, the finished number and the total of the tasks.

    Raises:
        UserError: A file is damaged, the folder holds another run, or the verifier rewarded a known hack.
    """
    set_up_process(recipe.threads)
    folder = RunFolder(path)
    with folder.held():
        start = starting_point(recipe.model, recipe.weights)
        resolved = SampleResolved(
            recipe=recipe,
            model=start.parent,
            model_sha256=start.sha256,
            tasks_sha256=tuple(sha256_of(file) for file in _there(recipe.tasks)),
        )
        for changed in claim(folder.recipe, resolved, resolved.fingerprint, free=FREE, layout=LAYOUT):
            say(f"{changed} changed since the start of the run: replies agree up to rounding only")
        tasks = _tasks(recipe)
        done = _records(path / REPLIES_FILE)
        reward = GuardedReward(verifier_of(recipe.verifier, recipe.max_tokens))
        if len(done) < len(tasks):
            base = load_frozen(start, precision=recipe.precision, device=recipe.device)
            try:
                is_over = _sample(recipe, base, tasks, reward, path / REPLIES_FILE, set(done), progress)
            except RewardHacked as error:
                raise UserError(f"sampling stopped, since its examples would teach a hack: {error}") from error
            if not is_over:
                n_done = len(_records(path / REPLIES_FILE))
                say(f"stopped after {n_done:,} of {len(tasks):,} tasks; run the same command to resume")
                return None
        return _finish(resolved, tasks, path)


def _sample(
    recipe: SampleRecipe,
    base: Base,
    tasks: Sequence[PolicyTask],
    reward: GuardedReward,
    file: Path,
    done: set[str],
    progress: Progress,
) -> bool:
    """Append the lines of tasks that are not done; return False if a stop was requested before the last one.

    Tasks are grouped as if none were done: log-probabilities depend on the other rows of a batch, by rounding.
    """
    encoder = base.encoder
    end_ids = frozenset(encoder.end_ids)
    sampler = GroupSampler(TorchPolicy(base.model), end_ids, recipe.max_tokens, recipe.temperature)
    # Sorted by length: rows of similar length need little padding; equal ones stay in file order.
    prompts = {task.item.id: tuple(task.prompt_ids(encoder)) for task in tasks}
    ordered = sorted(tasks, key=lambda task: len(prompts[task.item.id]))
    with stop_asked() as stop, file.open("ab") as lines:
        for start in range(0, len(ordered), recipe.tasks_at_once):
            several = ordered[start : start + recipe.tasks_at_once]
            if all(task.item.id in done for task in several):
                continue
            asked = [Asked(task, prompts[task.item.id], _seed_of(recipe.seed, task.item.id)) for task in several]
            sampled = sampler.sample(asked, recipe.replies)
            for task, replies in zip(several, sampled, strict=True):
                if task.item.id not in done:
                    record = _record(task, replies, recipe, reward, encoder)
                    lines.write(json.dumps(record, ensure_ascii=True).encode() + b"\n")
            lines.flush()
            os.fsync(lines.fileno())
            done |= {task.item.id for task in several}
            progress("tasks", len(done), len(tasks))
            if stop.asked and len(done) < len(tasks):
                return False
    return True


def _record(
    task: PolicyTask,
    replies: Sequence[Sampled],
    recipe: SampleRecipe,
    reward: GuardedReward,
    encoder: ChatEncoder,
) -> dict[str, Any]:
    """Return a task's line: each reply with its reward and the rule that it breaks."""
    completions = [completion_of(reply, encoder) for reply in replies]
    rewards = reward.score_batch([(task.item, each) for each in completions])
    judged = [
        {
            "text": said.text,
            "n_tokens": len(said.token_ids),
            "reward": worth.value,
            "answer": worth.answer,
            "log_prob": sum(reply.log_probs),
            "complaint": complaint(task.item, said, recipe.keep),
        }
        for said, worth, reply in zip(completions, rewards, replies, strict=True)
    ]
    return {"id": task.item.id, "replies": judged}


def kept(record: dict[str, Any], recipe: SampleRecipe, dropped: Counter[str]) -> list[tuple[int, str]]:
    """Return the replies of a task to learn from, as (number, text).

    Args:
        record: Line of `replies.jsonl`.
        recipe: Recipe with the rules.
        dropped: Counter by rule, updated with the dropped replies.
    """
    replies = record["replies"]
    is_right = [reply["reward"] is not None and reply["reward"] >= recipe.threshold for reply in replies]
    is_easy = sum(is_right) / len(replies) > recipe.keep.max_pass_rate
    found: list[tuple[int, str]] = []
    said: set[str] = set()
    for number, (reply, right) in enumerate(zip(replies, is_right, strict=True)):
        words = " ".join(reply["text"].split())
        if not right:
            rule = UNSCORABLE if reply["reward"] is None else WRONG
        elif reply["complaint"] or is_easy:
            rule = reply["complaint"] or EASY
        elif words in said or len(found) >= recipe.keep.at_most:
            rule = TWICE if words in said else ENOUGH
        else:
            said.add(words)
            found.append((number, reply["text"]))
            continue
        dropped[rule] += 1
    return found


def _finish(resolved: SampleResolved, tasks: Sequence[PolicyTask], path: Path) -> dict[str, Any]:
    """Write examples and report from the lines; cheap to repeat after an interruption."""
    recipe = resolved.recipe
    records = _records(path / REPLIES_FILE)
    dropped: Counter[str] = Counter()
    examples: list[Example] = []
    pass_rates: list[float] = []
    for task in tasks:
        record = records[task.item.id]
        if task.item.is_canary:
            continue
        judged = [reply["reward"] for reply in record["replies"] if reply["reward"] is not None]
        if judged:
            pass_rates.append(sum(value >= recipe.threshold for value in judged) / len(judged))
        examples += [
            Example(
                id=f"{task.item.id}/{number}",
                source=f"{recipe.name}, replies of {resolved.model.name}",
                license=task.license,
                kind="answer",
                messages=_shown(task.messages, recipe.forget_system),
                reply=text,
            )
            for number, text in kept(record, recipe, dropped)
        ]
    write_examples(path / EXAMPLES_FILE, examples)
    n_asked = sum(not task.item.is_canary for task in tasks)
    report = {
        "model": resolved.model.model_dump(mode="json"),
        "seed": recipe.seed,
        "n_tasks": n_asked,
        "n_replies": n_asked * recipe.replies,
        "n_examples": len(examples),
        "n_tasks_with_examples": len({example.id.rpartition("/")[0] for example in examples}),
        "pass_rate": sum(pass_rates) / len(pass_rates) if pass_rates else None,
        "share_of_tasks_never_solved": _share(pass_rates, 0.0),
        "share_of_tasks_always_solved": _share(pass_rates, 1.0),
        "dropped": dict(dropped.most_common()),
        "examples_sha256": sha256_of(path / EXAMPLES_FILE),
    }
    with replacing(path / REPORT_FILE) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _shown(messages: tuple[Message, ...], forget_system: bool) -> tuple[Message, ...]:
    """Return the messages of an example."""
    return tuple(each for each in messages if not (forget_system and each.role == "system"))


def _share(pass_rates: Sequence[float], value: float) -> float | None:
    return sum(rate == value for rate in pass_rates) / len(pass_rates) if pass_rates else None


def _there(files: Sequence[str]) -> Iterator[str]:
    for file in files:
        if not Path(file).is_file():
            raise UserError(f"tasks: file {file} does not exist")
        yield file


def _tasks(recipe: SampleRecipe) -> list[PolicyTask]:
    found: dict[str, PolicyTask] = {}
    for file in recipe.tasks:
        for task in read_tasks(file):
            if task.tools:
                raise UserError(
                    f"{file}: task {task.item.id!r} has tools, but only text replies become examples here: for "
                    f"calls use `modelstack data tools`"
                )
            if task.item.id in found:
                raise UserError(f"{file}: id {task.item.id!r} occurs twice; ids must be unique across all files")
            try:
                found[task.item.id] = task.judged_by(recipe.verifier.name)
            except UserError as error:
                raise UserError(f"{file}: {error}") from error
    if not found:
        raise UserError(f"no task in {', '.join(recipe.tasks)}: name at least one file with tasks")
    return list(found.values())


def _records(file: Path) -> dict[str, dict[str, Any]]:
    """Return the records of a file by id."""
    try:
        records = [json.loads(line) for line in whole_lines(file)]
        return {record["id"]: record for record in records}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file} is damaged ({error!r}): remove it to sample its tasks again") from error


def _seed_of(seed: int, task_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {task_id}".encode()).digest()[:7], "big")
