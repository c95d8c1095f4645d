"""`modelstack reward`: the chosen come to score higher, around 0."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from modelstack.architecture.checkpoint import load_checkpoint
from modelstack.errors import UserError
from modelstack.posttrain.base import load_base
from modelstack.posttrain.stages.stage import Stage, open_stage
from modelstack.preferences.examples import read_preferences
from modelstack.preferences.reward.loader import scored_rows
from modelstack.preferences.reward.loss import RewardModelConfig, reward_model_loss
from modelstack.preferences.reward.passes import RewardPasses, rewards_of
from modelstack.preferences.reward.recipe import RewardRecipe
from modelstack.preferences.reward.run import train_reward_model
from modelstack.preferences.reward.scores import ACCURACY, MARGIN, score_pairs
from modelstack.preferences.reward.value_model import (
    HEAD_FILE,
    ValueModel,
    draw_head,
    load_value_model,
    read_normalisation,
)
from modelstack.preferences.units import units_of
from modelstack.recipe_file import checked_recipe
from tests.modelstack.architecture.gguf_models import toy_config, toy_model
from tests.modelstack.posttrain.toy_trainings import World, write_pairs
from tests.modelstack.preferences.test_preference_run import values as preference_values
from tests.modelstack.preferences.toy_reference import ARGS, config, ours, tokenizer
from tests.modelstack.sft.toy_sft import write_base

pytestmark = [pytest.mark.xdist_group("reward_run"), pytest.mark.usefixtures("pictures_drawn_once")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("rewards"))
    write_base(made.folder / "base")
    write_pairs(made.folder / "pairs" / "train.jsonl", 0, 24)
    write_pairs(made.folder / "pairs" / "validation.jsonl", 100, 8)
    return made


def values(world: World, **changes: Any) -> dict[str, Any]:
    return preference_values(world, **changes)


def run(world: World, folder: Path, **changes: Any) -> Stage:
    stage = train_reward_model(checked_recipe(RewardRecipe, values(world, **changes)), folder, Console(quiet=True))
    assert stage is not None
    return stage


def figures(stage: Stage) -> dict[str, float]:
    return {each.name: each.value for each in stage.record.evaluation.after}


FULL: dict[str, Any] = {"train": "full", "lora": None, "optimizer": {"lr": 2e-3}}


@pytest.mark.parametrize(
    "changes",
    [{}, FULL, FULL | {"precision": "bf16"}, {"precision": "bf16"}],
    ids=["lora", "full", "bf16", "lora bf16"],
)
def test_the_chosen_come_to_score_above_the_rejected(
    world: World, tmp_path: Path, changes: dict[str, Any]
) -> None:
    if changes.get("train") == "full":
        changes = changes | {"base": str(world.base.parent / "checkpoint")}
    stage = run(world, tmp_path / "run", **changes)
    after = figures(stage)
    assert after[ACCURACY] == 1.0 and after[MARGIN] > 0.5
    assert {"model/config.json", "model/model.safetensors", f"model/{HEAD_FILE}"} <= set(stage.record.files)
    steps = [json.loads(line) for line in (tmp_path / "run/rewards.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == list(range(10))
    assert steps[-1]["rewards/margins"] > steps[0]["rewards/margins"]
    assert open_stage(stage.path).record.parents[0].kind == "base"


def test_what_is_read_back_scores_trainings_chosen_replies_with_a_mean_of_0(world: World, tmp_path: Path) -> None:
    stage = run(world, tmp_path / "run")
    model, base = load_value_model(stage.weights), load_base(stage.weights)
    pairs = {"train": list(read_preferences(world.folder / "pairs" / "train.jsonl"))}
    rewards = score_pairs(model, units_of(pairs, "pairs", base.encoder, row_tokens=128))
    assert rewards[:, 0].mean() == pytest.approx(0, abs=1e-4) and rewards[:, 1].mean() < -0.5
    normalised = read_normalisation(stage.weights)
    assert normalised is not None and normalised.n == 24
    assert normalised.deviation == pytest.approx(rewards[:, 0].std(), rel=1e-3)
    # The body is a model as any other.
    assert torch.equal(load_checkpoint(stage.weights).lm_head.weight, model.body.lm_head.weight)


def test_a_reward_model_is_trained_on_with_its_head(world: World, tmp_path: Path) -> None:
    first = run(world, tmp_path / "first")
    second = run(world, tmp_path / "second", base=str(first.path), steps=1)
    before = {each.name: each.value for each in second.record.evaluation.before}
    assert before == {name: pytest.approx(value, abs=1e-3) for name, value in figures(first).items()}
    assert second.record.parents[0].sha256 == first.record.fingerprint


def test_conversations_on_both_sides_are_refused(world: World, tmp_path: Path) -> None:
    write_pairs(tmp_path / "copy.jsonl", 23, 4)
    data = values(world)["data"] | {"validation": [str(tmp_path / "copy.jsonl")]}
    with pytest.raises(UserError, match="1 conversations are in training and in validation files"):
        run(world, tmp_path / "run", data=data)


def test_a_folder_without_a_head_is_no_reward_model(world: World) -> None:
    with pytest.raises(UserError, match=r"is not a reward model: it has no value_head\.safetensors"):
        load_value_model(world.base.parent / "checkpoint")


def test_a_broken_head_is_told_of(world: World, tmp_path: Path) -> None:
    stage = run(world, tmp_path / "run", steps=1)
    file = stage.weights / HEAD_FILE
    file.write_bytes(file.read_bytes()[:20])
    for read in (load_value_model, read_normalisation):
        with pytest.raises(UserError, match=r"value_head\.safetensors"):
            read(stage.weights)


def test_a_reward_depends_on_its_own_row_alone_whatever_it_is_padded_to() -> None:
    model = ValueModel(toy_model(toy_config("llama")))
    draw_head(model, 0)
    short, long = [5, 6, 7], [9, 8, 7, 6, 5, 4]
    with torch.no_grad():
        together = rewards_of(model, scored_rows([short, long]))
        alone = torch.cat([rewards_of(model, scored_rows([row])) for row in (short, long)])
    assert together.tolist() == pytest.approx(alone.tolist(), abs=1e-5)
    assert together[0] != together[1]


def test_gradients_of_micro_batches_add_up_to_those_of_one() -> None:
    rows = [[5, 6, 7], [8, 9], [1, 2, 3, 4], [7, 7], [6, 5], [9, 9, 9]]

    def gradients(*parts: tuple[int, ...]) -> list[torch.Tensor]:
        model = ValueModel(toy_model(toy_config("llama")))
        draw_head(model, 0)
        batches = [scored_rows([rows[n] for n in part]) for part in parts]
        RewardPasses(model, RewardModelConfig(centre_coefficient=0.01)).backward(batches, len(rows))
        return [p.grad for p in model.parameters() if p.grad is not None]

    whole, split = gradients((0, 2, 4, 1, 3, 5)), gradients((0, 2, 1, 3), (4, 5))
    assert len(whole) == len(split) > 10
    for one, other in zip(whole, split, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the reference
def test_rewards_loss_and_gradients_are_those_of_trls_trainer(tmp_path: Path) -> None:
    """On the same weights as transformers' model for sequence classification, with rows of unequal lengths."""
    trl = pytest.importorskip("trl", reason="the reference; extra `dev`")
    transformers = pytest.importorskip("transformers", reason="the reference; extra `dev`")
    datasets = pytest.importorskip("datasets", reason="the reference; extra `dev`")
    pairs = [
        {"prompt": "w1 w2 w3", "chosen": " w4 w5 w6", "rejected": " w7 w8"},
        {"prompt": "w9 w10", "chosen": " w11", "rejected": " w12 w13 w14 w15"},
    ]
    settings = config()
    settings.num_labels = 1
    torch.manual_seed(3)
    theirs = transformers.LlamaForSequenceClassification(settings).eval()
    reference = trl.RewardTrainer(
        theirs,
        args=trl.RewardConfig(output_dir=str(tmp_path), center_rewards_coefficient=0.01, **ARGS),
        train_dataset=datasets.Dataset.from_list(pairs),
        processing_class=tokenizer(),
    )
    theirs = reference.model.eval()
    batch = dict(reference.data_collator([reference.train_dataset[n] for n in range(2)]))
    expected = reference.compute_loss(theirs, dict(batch))
    expected.backward()

    body = type(ours(0))(ours(0).config)
    state = {name: value.float() for name, value in theirs.state_dict().items()}
    weight = state.pop("score.weight")
    body.load_state_dict(state | {"lm_head.weight": body.lm_head.weight}, strict=True)
    model = ValueModel(body)
    with torch.no_grad():
        model.score.weight.copy_(weight)
    lengths = batch["attention_mask"].sum(-1).tolist()
    rows = [ids[:n].tolist() for ids, n in zip(batch["input_ids"], lengths, strict=True)]
    chosen, rejected = rewards_of(model, scored_rows(rows)).chunk(2)
    found = reward_model_loss(chosen, rejected, RewardModelConfig(centre_coefficient=0.01))
    found.loss.backward()
    assert found.loss.item() == pytest.approx(expected.item(), abs=2e-6)
    own = {name.removeprefix("body."): p.grad for name, p in model.named_parameters()}
    for name, parameter in theirs.named_parameters():
        gradient = own[name]
        assert gradient is not None and parameter.grad is not None
        assert torch.allclose(gradient, parameter.grad, atol=1e-5), name
