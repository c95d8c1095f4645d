"""The stages, each created by the user's modelstack command; finished stages are reused."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from evals.post_training.r1 import running_sums as sums
from evals.post_training.r1.plan import R1Plan, Shape
from modelstack.files import replacing, replacing_folder
from modelstack.posttrain.stages.stage import MODEL
from modelstack.reasoning.distil.recipe import DistilRecipe
from modelstack.reasoning.distil.run import distil
from modelstack.reasoning.policy.recipe import PolicyRecipe
from modelstack.reasoning.policy.run import reinforce
from modelstack.reasoning.rejection.recipe import SampleRecipe
from modelstack.reasoning.rejection.run import EXAMPLES_FILE, sample
from modelstack.recipe_file import checked_recipe
from modelstack.sft.recipe import SftRecipe
from modelstack.sft.run import fine_tune
from modelstack.tokenizer.special_tokens import SpecialTokens
from modelstack.tokenizer.tokenizer_folder import save_tokenizer
from modelstack.tokenizer.training import TokenizerConfig, train_tokenizer
from modelstack.train.run.launch import launch
from modelstack.train.run.recipe import RunRecipe, resolve

BASE, COLD, RL, FRESH = "base", "cold-start", "rl", "fresh-sft"
STUDENT, STUDENT_SFT, STUDENT_LONGER = "student-base", "student-sft", "student-sft-longer"
STUDENT_LOGITS, STUDENT_ON_POLICY = "student-logits", "student-on-policy"
VERIFIER = {"name": "math", "gate": "think"}
"""Correct answers are rewarded, but only after one thinking block."""
MARKS_READ = 100
"""Number of empty thoughts for training the tokenizer."""


class Stopped(Exception):
    """Raised when a stage was asked to stop; the same command resumes it."""


@dataclass(frozen=True, slots=True)
class Work:
    """Folder and plan of a run."""

    plan: R1Plan
    folder: Path
    console: Console

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the plan."""
        return hashlib.sha256(self.plan.model_dump_json().encode()).hexdigest()

    def stage(self, name: str) -> Path:
        """Return a stage's folder."""
        return self.folder / name

    def model(self, name: str) -> Path:
        """Return a stage's checkpoint."""
        return self.folder / name / MODEL

    def data(self, name: str) -> str:
        """Return the path of a data file."""
        return str(self.folder / "data" / name)

    def held_back(self) -> list[sums.Problem]:
        """Return the held-back problems for measuring."""
        return sums.problems(random.Random(f"{self.plan.seed} held back"), self.plan.n_held_back, set())


def make_all(work: Work) -> None:
    """Create every stage that does not exist yet.

    Raises:
        Stopped: a stage was asked to stop.
        UserError: the folder holds a run of another plan.
    """
    write_data(work)
    _base(work, BASE, work.plan.teacher, work.plan.base_steps)
    _fine_tuned(work, COLD, work.model(BASE), work.data("cold.jsonl"), work.plan.cold_steps)
    _reinforced(work)
    kept = _sampled(work)
    _fine_tuned(work, FRESH, work.model(BASE), kept, work.plan.sft_steps)
    _base(work, STUDENT, work.plan.student, work.plan.student_base_steps)
    plan = work.plan
    _fine_tuned(work, STUDENT_SFT, work.model(STUDENT), kept, plan.sft_steps)
    _fine_tuned(work, STUDENT_LONGER, work.model(STUDENT), kept, plan.sft_steps + plan.distil_steps)
    _distilled(work, STUDENT_LOGITS, work.model(STUDENT), kept, plan.sft_steps, on_policy=False)
    _distilled(work, STUDENT_ON_POLICY, work.stage(STUDENT_SFT), kept, plan.distil_steps, on_policy=True)


def write_data(work: Work) -> None:
    """Write documents, examples, tasks and the tokenizer unless they exist."""
    folder = work.folder / "data"
    if folder.exists() and (work.folder / "tokenizer").exists():
        return
    plan = work.plan
    held_back = set(work.held_back())
    taken = set(held_back)
    cold = sums.problems(random.Random(f"{plan.seed} cold"), plan.n_cold, taken)
    tasks = sums.problems(random.Random(f"{plan.seed} tasks"), plan.n_tasks, taken)
    texts = list(sums.documents(random.Random(f"{plan.seed} documents"), plan.n_documents, held_back))
    replies = sums.imperfect_replies(random.Random(f"{plan.seed} replies"), cold)
    with replacing_folder(folder) as temporary:
        _write_lines(temporary / "documents.jsonl", ({"text": text} for text in texts))
        pairs = enumerate(zip(cold, replies, strict=True))
        _write_lines(temporary / "cold.jsonl", (sums.example(n, one, text, "cold") for n, (one, text) in pairs))
        _write_lines(temporary / "tasks.jsonl", (sums.task(n, one, "task") for n, one in enumerate(tasks)))
        chosen = enumerate(tasks[: plan.n_sampled_tasks])
        _write_lines(temporary / "sampled-tasks.jsonl", (sums.task(n, one, "task") for n, one in chosen))
    with replacing_folder(work.folder / "tokenizer") as temporary:
        # Trained only on the marks of a thought: these become few tokens, every other character is one token.
        special = SpecialTokens(tool_call=None, tool_response=None, think=None, n_reserved=0)
        config = TokenizerConfig(vocab_size=300, digits="1", pad_to_multiple_of=32, special_tokens=special)
        save_tokenizer(train_tokenizer([sums.reply([], "")] * MARKS_READ, config), temporary)


def _write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _base(work: Work, name: str, shape: Shape, steps: int) -> None:
    plan = work.plan
    if work.model(name).exists():
        return
    values = {
        "name": name,
        "seed": plan.seed,
        "steps": steps,
        "rows": plan.base_rows,
        "threads": 1,
        "device": "cpu",
        "data": {"text": [work.data("documents.jsonl")], "held_out": 0.02, "row_tokens": plan.row_tokens},
        "tokenizer": {"path": str(work.folder / "tokenizer")},
        "model": {
            "preset": "nano-2m",
            "config": {
                "hidden_size": shape.width,
                "intermediate_size": shape.feed_forward,
                "num_hidden_layers": shape.layers,
                "num_attention_heads": shape.heads,
                "num_key_value_heads": max(1, shape.heads // 2),
                "head_dim": shape.width // shape.heads,
                "initializer_range": plan.initializer_range,
                "max_position_embeddings": 256,
            },
        },
        "optimizer": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.0},
        "schedule": {"warmup_steps": min(30, steps // 4), "decay_steps": steps // 3},
        # Addition is learned suddenly, with gradient norms that a guard for large runs would treat as a spike.
        "guard": {"min_norm_rise": 1000},
        "checkpoints": {"every": 200},
        "evaluation": {"every": steps, "max_megabytes": 0.02, "baselines": False},
        "samples": {"prompts": []},
    }
    resolved = resolve(checked_recipe(RunRecipe, values))
    if not launch(resolved, work.stage(name), None, work.console):
        raise Stopped(name)


def _tuning(work: Work, name: str, base: Path, steps: int, lr: float) -> dict[str, Any]:
    return {
        "name": name,
        "base": str(base),
        "seed": work.plan.seed,
        "train": "full",
        "precision": "fp32",
        "device": "cpu",
        "threads": 1,
        "steps": steps,
        "optimizer": {"lr": lr},
        "guard": {"min_norm_rise": 1000},
        "checkpoints": {"every": 50},
    }


def _fine_tuned(work: Work, name: str, base: Path, examples: str, steps: int) -> None:
    values = _tuning(work, name, base, steps, 1e-3) | {
        "rows": work.plan.rows,
        "micro_batches": 1,
        "data": {"training": [examples], "row_tokens": 128, "layout": "padded"},
    }
    _done(work, name, lambda: fine_tune(checked_recipe(SftRecipe, values), work.stage(name), work.console))


def _reinforced(work: Work) -> None:
    plan = work.plan
    values = _tuning(work, RL, work.stage(COLD), plan.rl_steps, 3e-4) | {
        "rows": plan.rl_prompts,
        "micro_batches": plan.rl_prompts,
        "data": {"training": [work.data("tasks.jsonl")], "verifier": VERIFIER},
        "algorithm": "dapo",
        "sampling": {"group": plan.group, "max_tokens": plan.max_tokens},
        "schedule": {"kind": "constant"},
        "watch_kl": False,
    }
    _done(work, RL, lambda: reinforce(checked_recipe(PolicyRecipe, values), work.stage(RL), work.console))


def _sampled(work: Work) -> str:
    plan, folder = work.plan, work.stage("sampled")
    values = {
        "name": "sampled",
        "model": str(work.stage(RL)),
        "tasks": [work.data("sampled-tasks.jsonl")],
        "verifier": VERIFIER,
        "seed": plan.seed,
        "replies": plan.replies_per_task,
        "max_tokens": plan.max_tokens,
        "keep": {"at_most": 2, "thinking": True},
        "tasks_at_once": 64,
        "threads": 1,
        "device": "cpu",
    }
    if not (folder / EXAMPLES_FILE).exists() and sample(checked_recipe(SampleRecipe, values), folder) is None:
        raise Stopped("sampled")
    return str(folder / EXAMPLES_FILE)


def _distilled(work: Work, name: str, base: Path, examples: str, steps: int, *, on_policy: bool) -> None:
    plan = work.plan
    values = _tuning(work, name, base, steps, 1e-3) | {
        "rows": plan.rows,
        "micro_batches": 1,
        "teacher": str(work.stage(FRESH)),
        "teacher_precision": "fp32",
        "data": {"training": [examples], "row_tokens": 128},
        # On policy: the mode-seeking divergence; off policy: the one that covers the teacher's whole distribution.
        "loss": {"name": "generalised_jsd", "beta": 1.0 if on_policy else 0.0},
    }
    if on_policy:
        values["on_policy"] = {"share": 1.0, "max_tokens": plan.max_tokens}
    _done(work, name, lambda: distil(checked_recipe(DistilRecipe, values), work.stage(name), work.console))


def _done(work: Work, name: str, run: Callable[[], object]) -> None:
    if run() is None:
        raise Stopped(name)
