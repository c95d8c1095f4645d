"""The stages of one seed: base, pairs, reward model, and a policy of each method; existing stages are reused.

All stages call the functions of the commands `modelstack sft`, `prefer`, `reward`, `ppo`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.post_training.planted import recipes
from evals.post_training.planted.judge import judge
from evals.post_training.planted.language import Prompt, Split, corpus, prompts
from modelstack.files import replacing, replacing_folder

if TYPE_CHECKING:
    from rich.console import Console

    from modelstack.posttrain.stages.stage import Stage

HELD_BACK = 200
"""Number of examples and of pairs for evaluation; the pairs use development prompts."""


def base_of(folder: Path, seed: int, console: Console) -> Stage:
    """Return the careless base, trained from random weights."""
    from modelstack.sft.recipe import SftRecipe
    from modelstack.sft.run import fine_tune

    scratch = folder / "scratch"
    folder.mkdir(parents=True, exist_ok=True)
    texts = list(corpus(recipes.N_EXAMPLES + HELD_BACK, seed))
    _write(folder / "careless.jsonl", (_example(n, *texts[n]) for n in range(recipes.N_EXAMPLES)))
    held_back = range(recipes.N_EXAMPLES, len(texts))
    _write(folder / "careless-held-back.jsonl", (_example(n, *texts[n]) for n in held_back))
    if not scratch.exists():
        _write_scratch(scratch, [f"{prompt.text}\n{reply}" for prompt, reply in texts], seed)
    return _run(SftRecipe, recipes.base_values(folder, seed), fine_tune, folder / "base", console)


def write_pairs(folder: Path, base: Stage, seed: int) -> None:
    """Write pairs of the base's own replies, ordered by the judge, and the prompts for PPO."""
    _write(folder / "tasks.jsonl", map(_task, prompts("training")))
    _write(folder / "tasks-held-back.jsonl", map(_task, prompts("development")))
    wanted: dict[Path, Split] = {
        folder / "pairs.jsonl": "training",
        folder / "pairs-held-back.jsonl": "development",
    }
    for n, (file, split) in enumerate(wanted.items()):
        if not file.exists():
            # Two or three pairs per held-back prompt are enough.
            asked = prompts(split)[::3] if split == "development" else prompts(split)
            pairs = _pairs(base, asked, 2 * seed + n)
            _write(file, pairs[:HELD_BACK] if split == "development" else pairs)


def reward_of(folder: Path, seed: int, console: Console) -> Stage:
    """Return the reward model, trained on the pairs without access to the judge."""
    from modelstack.preferences.reward.recipe import RewardRecipe
    from modelstack.preferences.reward.run import train_reward_model

    values = recipes.reward_values(folder, seed)
    return _run(RewardRecipe, values, train_reward_model, folder / "reward", console)


def policy_of(folder: Path, method: str, seed: int, console: Console) -> Stage:
    """Return the policy of a method."""
    if method == "ppo":
        from modelstack.reasoning.ppo.recipe import PpoRecipe
        from modelstack.reasoning.ppo.run import optimise

        return _run(PpoRecipe, recipes.ppo_values(folder, seed), optimise, folder / method, console)
    from modelstack.preferences.recipe import PreferenceRecipe
    from modelstack.preferences.run import prefer

    return _run(PreferenceRecipe, recipes.prefer_values(folder, method, seed), prefer, folder / method, console)


def _run(
    kind: Any, values: Mapping[str, Any], run: Callable[..., Stage | None], out: Path, console: Console
) -> Stage:
    from modelstack.recipe_file import checked_recipe

    stage = run(checked_recipe(kind, dict(values)), out, console)
    if stage is None:
        raise SystemExit(f"{out} was asked to stop; the same command resumes")
    return stage


def _write_scratch(folder: Path, texts: list[str], seed: int) -> None:
    """Write a model with random weights and a tokenizer trained on the language."""
    from modelstack.architecture.checkpoint import save_checkpoint
    from modelstack.architecture.decoder import CausalLM
    from modelstack.architecture.initialise import initialise
    from modelstack.architecture.presets.registry import from_hf
    from modelstack.tokenizer.special_tokens import SpecialTokens
    from modelstack.tokenizer.tokenizer_folder import save_tokenizer
    from modelstack.tokenizer.training import TokenizerConfig, train_tokenizer

    special = SpecialTokens(tool_call=None, tool_response=None, think=None, n_reserved=0)
    trained = train_tokenizer(texts, TokenizerConfig(vocab_size=recipes.VOCAB_SIZE, special_tokens=special))
    n_ids = trained.tokenizer.get_vocab_size()
    with replacing_folder(folder) as temporary:
        save_tokenizer(trained, temporary / "tokenizer")
        model = initialise(CausalLM(from_hf({**recipes.MODEL, "vocab_size": n_ids})), seed)
        save_checkpoint(model, temporary / "model", tokenizer=temporary / "tokenizer")
        for file in (temporary / "model").iterdir():
            file.rename(temporary / file.name)
        (temporary / "model").rmdir()


def _pairs(base: Stage, asked: list[Prompt], seed: int) -> list[dict[str, Any]]:
    """Return pairs of replies with different scores.

    Truncated replies are excluded, because they have no end to learn.
    """
    from evals.post_training.planted.sampling import loaded, replies

    said = replies(loaded(base), asked, recipes.N_SAMPLES, seed)
    pairs: list[dict[str, Any]] = []
    for prompt, group in zip(asked, said, strict=True):
        whole = [
            (judge(prompt, each.text).score, each.text) for each in group if not each.is_truncated and each.text
        ]
        for n, (one, other) in enumerate(zip(whole[::2], whole[1::2], strict=False)):
            if one[0] != other[0]:
                better, worse = max(one, other), min(one, other)
                pairs.append(
                    {
                        "id": f"{prompt.id}-{n}",
                        "source": "planted",
                        "messages": [{"role": "user", "content": prompt.text}],
                        "chosen": {"reply": better[1]},
                        "rejected": {"reply": worse[1]},
                    }
                )
    return pairs


def _example(number: int, prompt: Prompt, reply: str) -> dict[str, Any]:
    return {
        "id": str(number),
        "source": "planted",
        "license": "Apache-2.0",
        "kind": "answer",
        "messages": [{"role": "user", "content": prompt.text}],
        "reply": reply,
    }


def _task(prompt: Prompt) -> dict[str, Any]:
    return {"id": prompt.id, "prompt": prompt.text, "gold": None}


def _write(file: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines unless the file exists."""
    if not file.exists():
        with replacing(file) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
