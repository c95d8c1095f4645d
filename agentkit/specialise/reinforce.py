"""Reinforcement after fine-tuning, on the same requests: the policy's own calls, rewarded if right.

Imitation teaches each token of the right reply. Here the whole reply counts, so the model learns from its own
tries, about one in three of which is still wrong. Rewards compare calls (`verifiers.calls`), and no server is
called: calls of read-only tools were tested when the data were built (`build`). Clarifying questions are left out,
since this reward would value an abstention as much as a question.

Only the training side is used: the test's words and values are never seen. The new adapter is kept if it is at
least as good on training-side requests that gave no reward, decoded as in serving; otherwise fine-tuning's adapter
stays. The test does not influence the choice, so its figures stay unbiased.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from agentkit.specialise.build import TEST, TRAINING
from agentkit.specialise.recipe import SpecialiseRecipe
from modelstack.data.examples import Example, read_examples
from modelstack.errors import UserError
from modelstack.files import replacing
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.posttrain.stages.record import Measurement
from modelstack.posttrain.stages.stage import ADAPTER_GGUF, Stage
from modelstack.reasoning.policy.recipe import PolicyRecipe
from modelstack.reasoning.policy.run import reinforce
from modelstack.reasoning.tasks.task import TaskLine
from modelstack.reasoning.tasks.writing.written import CANARY_SHARE, write_tasks
from modelstack.recipe_file import checked_recipe
from modelstack.sft.prior.exact_calls import EXACT, Question, ask, lines, measured
from modelstack.sft.rendering import render
from modelstack.tokenizer.chat_template import chat_encoder

TASKS = "tasks-rewarded.jsonl"
FOR_CHOICE, MOST_FOR_CHOICE = 1 / 8, 60
"""Share, and maximum number, of the training requests reserved for the choice between the adapters."""
_NOT_JUDGED = frozenset({"clarify", "answer"})
"""Kinds of examples for which the right reply is text."""


@dataclass(frozen=True, slots=True)
class Reinforced:
    """Result of reinforcement."""

    stage: Stage
    choice: tuple[Measurement, Measurement]
    """Exact replies to the requests reserved for the choice: of fine-tuning's adapter, and of this one."""
    test: tuple[Measurement, Measurement]
    """Exact replies to the held-out requests, in the same order."""

    @property
    def is_kept(self) -> bool:
        """Return whether the new adapter is at least as good."""
        before, after = self.choice
        return after.value >= before.value


def reinforced(
    recipe: SpecialiseRecipe, tuned: Stage, weights: Path, data: Path, out: Path, console: Console
) -> Reinforced | None:
    """Reinforce a fine-tuned adapter, or resume; None if a stop was requested.

    Args:
        recipe: Recipe of the specialisation; requires `reinforce`.
        tuned: The stage of fine-tuning.
        weights: The base's GGUF file.
        data: Folder of the specialisation's data.
        out: Folder of this stage.
        console: Console for progress.

    Raises:
        UserError: The recipe has no `reinforce`, no example can be judged, or the reward was hacked.
    """
    if recipe.reinforce is None:
        raise UserError("the recipe has no table 'reinforce': give one")
    rewarded, for_choice = parted(list(read_examples(data / TRAINING)), recipe.seed)
    tasks = data / TASKS
    if not tasks.is_file():
        write_tasks(tasks, iter(list(tasks_of(rewarded, recipe.seed))))
    stage = reinforce(policy_recipe(recipe, tuned, weights, tasks), out, console)
    if stage is None:
        return None
    (before,) = [each for each in tuned.record.evaluation.after if each.name == EXACT]
    return Reinforced(
        stage,
        choice=(
            _exact(tuned, weights, for_choice, out / "choice-before"),
            _exact(stage, weights, for_choice, out / "choice-after"),
        ),
        test=(before, _exact(stage, weights, list(read_examples(data / TEST)), out / "test-after")),
    )


def parted(examples: Sequence[Example], seed: int) -> tuple[list[Example], list[Example]]:
    """Split examples into those for rewards and those for the choice, both in order."""
    n = min(MOST_FOR_CHOICE, max(1, round(FOR_CHOICE * len(examples))))
    chosen = set(random.Random(f"choice {seed}").sample(range(len(examples)), n))
    return (
        [one for at, one in enumerate(examples) if at not in chosen],
        [one for at, one in enumerate(examples) if at in chosen],
    )


def tasks_of(examples: Iterable[Example], seed: int) -> Iterator[TaskLine]:
    """Yield tasks from examples with a right call or none, canaries included.

    A canary's gold has values that cannot be known; a reward for one reveals a flaw of the verifier.

    Raises:
        UserError: No example can be judged.
    """
    chance = random.Random(f"canaries {seed}")
    n_given = 0
    for example in examples:
        if example.kind in _NOT_JUDGED:
            continue
        gold: list[dict[str, Any]] = [{"name": c.name, "arguments": c.arguments} for c in example.calls]
        unknowable = [_unknowable(call, chance) for call in gold]
        is_canary = unknowable != gold and chance.random() < CANARY_SHARE
        n_given += 1
        yield TaskLine(
            id=example.id,
            messages=example.messages,
            tools=example.tools,
            gold=unknowable if is_canary else gold,
            canary=is_canary,
            license=example.license,
            source=example.source,
        )
    if not n_given:
        raise UserError("no example has a call that could be judged: there is nothing to reinforce")


def policy_recipe(recipe: SpecialiseRecipe, tuned: Stage, weights: Path, tasks: Path) -> PolicyRecipe:
    """Return the recipe of the reinforcement."""
    wanted = recipe.reinforce
    assert wanted is not None  # checked by the caller
    return checked_recipe(
        PolicyRecipe,
        {
            "name": f"{recipe.name}-reinforced",
            "base": str(tuned.path),
            "weights": str(weights),
            "seed": recipe.seed,
            "steps": wanted.steps,
            "rows": wanted.prompts,
            "micro_batches": wanted.prompts,
            "data": {"training": [str(tasks)], "verifier": "calls"},
            "sampling": {"group": wanted.group, "max_tokens": wanted.max_tokens, "refill": 2},
            "optimizer": {"lr": wanted.lr},
            "schedule": {"kind": "constant"},
            "checkpoints": {"every": 10, "keep": 2},
        },
    )


def section(result: Reinforced) -> str:
    """Return the report's section on reinforcement."""
    kept = "Its adapter is the one beside this page." if result.is_kept else "Fine-tuning's adapter was kept."
    choice, test = result.choice, result.test
    return (
        f"## Reinforced\n\n{result.stage.record.what} Exact replies to {choice[0].n} training requests that no "
        f"reward was given for: {_shown(choice[0])} before, {_shown(choice[1])} after; the choice is made by "
        f"them. {kept} Exact replies to the {test[0].n} held-back requests: {_shown(test[0])} before, "
        f"{_shown(test[1])} after.\n"
    )


def _unknowable(call: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """Return a call with random texts that no request contains; a call without texts is returned unchanged."""
    arguments = {
        key: f"{chance.getrandbits(64):016x}" if isinstance(value, str) else value
        for key, value in call["arguments"].items()
    }
    return {"name": call["name"], "arguments": arguments}


def _exact(stage: Stage, weights: Path, examples: Sequence[Example], path: Path) -> Measurement:
    """Return the share of exact replies, measured once; `path` with suffixes stores the figure and the replies."""
    file = path.with_suffix(".json")
    if not file.is_file():
        with LlamaCppEngine(weights, lora_path=stage.path / ADAPTER_GGUF) as engine:
            encoder = chat_encoder(engine)
            questions = [Question.of(one, render(one, encoder)) for one in examples]
            answered = ask(engine, questions)
        with replacing(path.with_suffix(".jsonl")) as temporary:
            temporary.write_text("".join(lines(answered)), encoding="utf-8")
        with replacing(file) as temporary:
            temporary.write_text(measured(answered)[0].model_dump_json() + "\n", encoding="utf-8")
    return Measurement.model_validate_json(file.read_bytes())


def _shown(figure: Measurement) -> str:
    low, high = figure.low or 0.0, 1.0 if figure.high is None else figure.high
    return f"{100 * figure.value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
