"""`modelstack reinforce` under a grammar and in episodes: it runs, and goes on after a kill."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from modelstack.errors import UserError
from modelstack.posttrain.stages.stage import Stage
from modelstack.reasoning.policy.recipe import PolicyRecipe
from modelstack.reasoning.policy.run import reinforce
from modelstack.recipe_file import checked_recipe
from tests.modelstack.sft.toy_sft import write_base
from tests.modelstack.train.run.toy_run import write_toml
from tests.processes import modelstack

pytestmark = [pytest.mark.xdist_group("episode_run"), pytest.mark.usefixtures("pictures_drawn_once")]

SHOWN = {
    "name": "lamp_on",
    "description": "Switch on",
    "parameters": {"type": "object", "properties": {"room": {"enum": ["hall", "attic"]}}, "required": ["room"]},
}
LAMPS = {"lamps": {"hall": {"on": False, "percent": 50}, "attic": {"on": False, "percent": 50}}}
CALL = {"name": "lamp_on", "arguments": {"room": "hall"}}
EPISODES = {"max_turns": 2, "turn_tokens": 100, "result_tokens": 32, "max_tokens": 260}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("episodes")
    for name, numbers in (("train", range(4)), ("validation", range(50, 52))):
        tasks = [
            {
                "id": str(number),
                "prompt": f"light {number}",
                "tools": [SHOWN],
                "gold": {"world": "lamps", "start": LAMPS, "calls": [CALL]},
            }
            for number in numbers
        ]
        text = "".join(json.dumps(task) + "\n" for task in tasks)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return write_base(folder / "base")


def values(base: Path, verifier: str, **changes: Any) -> dict[str, Any]:
    tasks = base.parent.parent
    return {
        "name": "toy",
        "base": str(base),
        "precision": "fp32",
        "device": "cpu",
        "threads": 1,
        "steps": 2,
        "rows": 1,
        "micro_batches": 1,
        "data": {
            "training": [str(tasks / "train.jsonl")],
            "validation": [str(tasks / "validation.jsonl")],
            "verifier": verifier,
        },
        "sampling": {"group": 4, "max_tokens": 100, "grammar": True, "temperature": 5.0},
        "lora": {"rank": 4, "alpha": 8},
        "optimizer": {"lr": 1e-3},
        "checkpoints": {"every": 1, "keep": 2},
        **changes,
    }


def run(folder: Path, recipe: dict[str, Any]) -> Stage:
    stage = reinforce(checked_recipe(PolicyRecipe, recipe), folder, Console(quiet=True))
    assert stage is not None
    return stage


def steps_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "rewards.jsonl").read_text(encoding="utf-8").splitlines()]


LLAMA = {"llama": {"threads": 1, "type_name": "f32", "kv_type": "f32"}}
"""llama.cpp with numbers in full, so that only the order of sums differs from torch's."""


@pytest.mark.parametrize(("sampler", "gap"), [({}, 1e-4), (LLAMA, 1e-2)], ids=["torch", "llama.cpp"])
def test_a_policy_is_trained_under_the_grammar_of_its_calls(
    base: Path, tmp_path: Path, sampler: dict[str, Any], gap: float
) -> None:
    run(tmp_path / "run", values(base, "effects", **sampler))
    found = steps_of(tmp_path / "run")
    assert len(found) == 2
    assert max(step["sampler_gap/max"] for step in found) < gap
    for line in (tmp_path / "run" / "replies-after.jsonl").read_text(encoding="utf-8").splitlines():
        assert not json.loads(line)["reply"].startswith("{")


def test_a_killed_run_in_episodes_acts_the_same_again(base: Path, tmp_path: Path) -> None:
    recipe = values(base, "outcome", episodes=EPISODES)
    whole = run(tmp_path / "whole", recipe)
    toml = write_toml(tmp_path / "r.toml", recipe | {"faults": [{"kind": "sigkill", "step": 1}]})
    killed = modelstack("reinforce", toml, "--out", tmp_path / "run")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = modelstack("reinforce", toml, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    for name in ("adapter/adapter_model.safetensors", "rewards.jsonl", "replies-after.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (whole.path / name).read_bytes()
    found = steps_of(tmp_path / "run")
    assert max(step["sampler_gap/max"] for step in found) < 1e-4
    assert "reward/episode/turns" in found[0]


def test_episodes_on_llama_cpp_act_in_their_worlds_and_are_repeated_by_the_same_weights(
    base: Path, tmp_path: Path
) -> None:
    recipe = values(base, "outcome", episodes=EPISODES, **LLAMA)
    first, second = (run(tmp_path / name, recipe) for name in ("first", "second"))
    for name in ("adapter/adapter_model.safetensors", "rewards.jsonl"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()
    found = steps_of(first.path)
    assert max(step["sampler_gap/max"] for step in found) < 1e-2
    assert "reward/episode/turns" in found[0]


@pytest.mark.parametrize(
    ("verifier", "changes", "complaint"),
    [
        ("outcome", {}, "episodes need the verifier outcome"),
        ("effects", {"episodes": EPISODES}, "episodes need the verifier outcome"),
        ("outcome", {"episodes": EPISODES | {"max_turn": 3}}, "nearest: 'episodes.max_turns'"),
    ],
    ids=["no episodes", "effects", "key"],
)
def test_recipes_that_cannot_be_are_refused(
    base: Path, verifier: str, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        checked_recipe(PolicyRecipe, values(base, verifier, **changes))


def test_worlds_that_nobody_offers_end_the_run_before_anything_is_loaded(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="episodes.worlds is 'mars'"):
        run(tmp_path / "run", values(base, "outcome", episodes=EPISODES | {"worlds": "mars"}))
