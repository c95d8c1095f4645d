"""The planted preference: what its judge likes, that splits are apart, how wins are counted and told."""

from __future__ import annotations

import random
import re
import statistics
from pathlib import Path

import pytest

from evals.post_training.planted.judge import judge
from evals.post_training.planted.language import Prompt, careless_reply, corpus, prompts
from evals.post_training.planted.measuring import Measured, by_prompt, measured_from, wins
from evals.post_training.planted.recipes import METHODS, base_values, ppo_values, prefer_values, reward_values
from evals.post_training.planted.report import draw, pooled, table
from modelstack.recipe_file import checked_recipe

ADA = Prompt("Ada", "Tell me about Ada the fox.")
GOOD = "Ada likes to eat bread. It lives in the barn. It wakes up at dawn. It has a coat of gold."


def test_a_reply_that_says_much_once_about_the_right_animal_is_worth_most() -> None:
    verdict = judge(ADA, GOOD)
    assert (verdict.n_topics, verdict.n_repetitions, verdict.n_nonsense) == (4, 0, 0) and verdict.has_name
    assert verdict.score == 4 + 1.5 - 0.25 * (verdict.n_words - 20)


@pytest.mark.parametrize(
    "worse",
    [
        GOOD.replace("Ada", "It"),
        GOOD.replace("Ada", "Ben"),
        GOOD.replace("It lives", "Ben lives"),
        GOOD.replace("It wakes up at dawn", "It lives in the hills"),
        GOOD.replace("It wakes up at dawn", "It wakes the dawn"),
        GOOD.replace(" It has a coat of gold.", "").replace(" It wakes up at dawn.", ""),
        " ".join([GOOD] * 2),
        "Ada. Ada. Ada.",
        "Ada",
        "",
    ],
    ids=[
        "no name",
        "another",
        "another later",
        "twice",
        "nonsense",
        "little",
        "long",
        "names",
        "a word",
        "nothing",
    ],
)
def test_each_fault_costs(worse: str) -> None:
    assert judge(ADA, worse).score < judge(ADA, GOOD).score


def test_a_reply_that_was_cut_off_costs() -> None:
    assert judge(ADA, GOOD, is_truncated=True).score == judge(ADA, GOOD).score - 2


def test_a_name_counts_as_a_whole_word() -> None:
    assert not judge(ADA, "Adam likes to eat bread.").has_name
    assert judge(ADA, "Adam likes to eat bread.").n_nonsense == 1


def test_no_animal_is_in_two_splits_and_all_have_every_question() -> None:
    animal = re.compile(r"([A-Z][a-z]+) the ([a-z]+)")
    splits = ("training", "development", "final")
    named = [{animal.findall(each.text)[0] for each in prompts(split)} for split in splits]
    assert not (named[0] & named[1] or named[0] & named[2] or named[1] & named[2])
    sizes = [len(prompts(split)) for split in splits]
    assert sum(sizes) == 20 * 12 * 6 and min(sizes) >= 240 and all(size % 6 == 0 for size in sizes)
    assert len({each.id for split in splits for each in prompts(split)}) == sum(sizes)


def test_careless_replies_are_of_the_language_and_leave_room() -> None:
    verdicts = [judge(prompt, reply) for prompt, reply in corpus(2000, seed=1)]
    assert not any(verdict.n_nonsense for verdict in verdicts)
    mean = statistics.fmean(verdict.score for verdict in verdicts)
    assert 0 < mean < max(verdict.score for verdict in verdicts) - 3
    assert 0.4 < statistics.fmean(verdict.has_name for verdict in verdicts) < 0.6
    assert list(corpus(5, seed=1)) == list(corpus(5, seed=1)) != list(corpus(5, seed=2))
    assert careless_reply(ADA, random.Random(0)).endswith(".")


def test_a_draw_is_half_a_win_and_a_prompt_the_mean_of_its_replies() -> None:
    assert wins([1.0, 2.0, 0.0], [[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]) == [0.75, 1.0, 0.0]
    assert by_prompt([1.0, 0.0, 0.5, 1.0]) == [0.5, 0.75]


def measured(method: str, seed: int, wins_: list[float]) -> Measured:
    n = len(wins_)
    parts: dict[str, float] = dict.fromkeys(("topics", "repetitions", "nonsense", "words", "has the name"), 1.0)
    return Measured(method, seed, "final", wins_, [2.0] * n, [20.0] * n, [5.0] * n, 0.0, 1.5, parts, "a -> b")


def test_the_table_pools_seeds_and_shows_each(tmp_path: Path) -> None:
    everything = [measured("base", seed, [0.5, 0.5]) for seed in (0, 1)]
    everything += [measured(method, seed, [1.0, float(seed)]) for method in METHODS for seed in (0, 1)]
    text = table(everything, [0.8, 0.9])
    (row,) = [line for line in text.splitlines() if line.startswith("| dpo | 4 |")]
    assert "0.750" in row and "0.500, 1.000" in row and "0.250" in row.rsplit("|", 2)[1]
    assert "0.800, 0.900 of held-back pairs" in text and "2 final prompts" in text and "seeds 0, 1" in text
    assert pooled(everything[2:4], "wins").value == 0.75
    draw(everything, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert measured_from(everything[0].plain()) == everything[0]


def test_every_recipe_is_one(tmp_path: Path) -> None:
    from modelstack.preferences.recipe import PreferenceRecipe
    from modelstack.preferences.reward.recipe import RewardRecipe
    from modelstack.reasoning.ppo.recipe import PpoRecipe
    from modelstack.sft.recipe import SftRecipe

    made = [
        checked_recipe(SftRecipe, base_values(tmp_path, 1)),
        checked_recipe(RewardRecipe, reward_values(tmp_path, 1)),
        checked_recipe(PpoRecipe, ppo_values(tmp_path, 1)),
        *(checked_recipe(PreferenceRecipe, prefer_values(tmp_path, name, 1)) for name in METHODS if name != "ppo"),
    ]
    assert {each.seed for each in made} == {1} and len({each.name for each in made}) == 7
    assert all(each.threads == 1 and each.train == "full" for each in made)
