"""The sampler's gap: its measures, the start that makes it visible, the tables of the outcome."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console

from evals.post_training.sampler_gap.arms import (
    ARMS,
    CORRECTED,
    TORCH,
    UNCORRECTED,
    Experiment,
    GapPlan,
    Outcome,
    run,
)
from evals.post_training.sampler_gap.gap import Gap, effective_share
from evals.post_training.sampler_gap.report import write_report
from evals.post_training.sampler_gap.start import BASE, HELD_BACK, TRAINING, StartPlan, make_start, spread_channels
from modelstack.architecture.gguf.load import load_gguf
from modelstack.errors import UserError
from modelstack.posttrain.values_hook import REWARDS_FILE

PLAN = StartPlan(n_digits=2, base_steps=2, n_training=10, n_held_back=5, spread=0.0)
GAP = Gap(n_tokens=9, n_replies=3, mean=0.1, largest=0.5, kl=0.01, token_sample_size=0.9, reply_sample_size=0.8)


def test_effective_sample_size_is_one_where_all_weights_agree_and_falls_to_one_sample() -> None:
    assert effective_share(torch.full((8,), -3.0)) == pytest.approx(1)
    assert effective_share(torch.tensor([0.0, -100.0, -100.0, -100.0])) == pytest.approx(1 / 4)
    # Weights 1 and 3: (1 + 3)^2 / (2 (1 + 9)).
    assert effective_share(torch.tensor([0.0, math.log(3)])) == pytest.approx(0.8)


def test_the_start_is_made_once_and_nothing_held_back_is_trained_on(tmp_path: Path) -> None:
    make_start(PLAN, tmp_path, lambda _: None)
    base = (tmp_path / BASE).read_bytes()
    golds = {
        name: {json.loads(line)["gold"] for line in (tmp_path / name).read_text(encoding="utf-8").splitlines()}
        for name in (TRAINING, HELD_BACK)
    }
    assert len(golds[TRAINING]) == 10 and len(golds[HELD_BACK]) == 5
    assert not golds[TRAINING] & golds[HELD_BACK]
    make_start(PLAN, tmp_path, lambda _: pytest.fail("the base was trained again"))
    assert (tmp_path / BASE).read_bytes() == base


def test_spread_channels_compute_what_they_did(tmp_path: Path) -> None:
    make_start(PLAN, tmp_path, lambda _: None)
    model = load_gguf(tmp_path / BASE).model
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before = model(ids).logits_BTV
        widths = model.model.layers[0].self_attn.q_proj.weight.abs().amax(0)  # pyright: ignore
        spread_channels(model, 1.0, seed=0)
        after = model(ids).logits_BTV
        spread = model.model.layers[0].self_attn.q_proj.weight.abs().amax(0)  # pyright: ignore
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    assert spread.max() / spread.min() > 10 * widths.max() / widths.min()


def test_tables_compare_the_same_seeds_and_tasks(tmp_path: Path) -> None:
    plan = GapPlan(seeds=(0, 1), steps=2)
    experiment = Experiment(plan, tmp_path, Console(quiet=True))
    rewards = {"start": 0.25, TORCH: 0.75, CORRECTED: 0.75, UNCORRECTED: 0.5}
    found = [
        Outcome(
            arm=arm, seed=seed, rewards=(value, value, 1.0), served=(0.5, 0.5, 0.5), gaps={plan.type_name: GAP}
        )
        for arm, value in rewards.items()
        for seed in (plan.seeds if arm != "start" else (0,))
    ]
    for arm in ARMS:
        for seed in plan.seeds:
            folder = experiment.run_folder(arm, seed)
            folder.mkdir(parents=True)
            lines = [{"step": step, "reward": 0.5, "sampler_gap/mean": 0.1} for step in range(2)]
            (folder / REWARDS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    tables = write_report(experiment, found, "command")
    told = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    differences = told["differences"]["rewards"]
    assert differences[f"{CORRECTED} over {TORCH}"]["value"] == 0
    assert differences[f"{CORRECTED} over {UNCORRECTED}"]["value"] == pytest.approx(2 / 3 * 0.25)
    assert told["differences"]["served"][f"{CORRECTED} over {UNCORRECTED}"]["value"] == 0
    assert told["rewards"][UNCORRECTED]["n"] == len(plan.seeds)
    assert told["served"][UNCORRECTED]["value"] == 0.5
    assert all(table.title in (tmp_path / "report.md").read_text(encoding="utf-8") for table in tables)
    assert (tmp_path / "rewards.png").stat().st_size > 1000


def test_every_training_has_a_place_of_its_own(tmp_path: Path) -> None:
    experiment = Experiment(GapPlan(), tmp_path, Console(quiet=True))
    pairs = [(arm, seed) for arm in ARMS for seed in (0, 1, 2)]
    assert len({experiment.run_folder(arm, seed) for arm, seed in pairs}) == 9
    assert len({experiment.outcome_file(arm, seed) for arm, seed in [("start", 0), *pairs]}) == 10


def test_a_folder_is_of_one_experiment(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(GapPlan(steps=3).model_dump_json())
    with pytest.raises(UserError, match="another plan: give another --out"):
        run(Experiment(GapPlan(steps=4), tmp_path, Console(quiet=True)))
