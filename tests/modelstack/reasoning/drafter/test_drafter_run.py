"""`modelstack drafter`: the module learns what its frozen model writes, and drafts for it in the engine."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.nn import functional as F

from modelstack.architecture.draft_module import FACTS_FILE, MODULE_FILE, add_draft_module, load_draft_module
from modelstack.architecture.mtp import DraftVocabulary
from modelstack.commands.torch_engines import Drafter, Numbers, load_torch_base, torch_engine
from modelstack.data.batches import Batch
from modelstack.errors import UserError
from modelstack.inference.engine import GenerateRequest
from modelstack.posttrain.base import load_base
from modelstack.posttrain.stages.stage import DRAFTER, open_stage
from modelstack.posttrain.starting_point import starting_point
from modelstack.reasoning.drafter.passes import DrafterPasses
from modelstack.reasoning.drafter.recipe import DrafterLoss, DrafterRecipe
from modelstack.reasoning.drafter.run import frequent_targets, train_drafter
from modelstack.recipe_file import checked_recipe
from modelstack.sft.tokenised import Tokenised
from tests.modelstack.architecture.gguf_models import toy_config, toy_model
from tests.modelstack.inference.speculation.no_costs import NoCosts
from tests.modelstack.posttrain.toy_trainings import METHODS, World, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("drafter"))


@pytest.fixture(scope="module")
def stage(world: World) -> Path:
    """A drafter that was trained long enough to agree with its model."""
    folder = world.folder / "trained"
    changes = {"steps": 40, "checkpoints": {"every": 40}}
    values = METHODS["drafter"].values(world, **changes) | {"draft_tokens": None}
    assert train_drafter(checked_recipe(DrafterRecipe, values), folder, Console(quiet=True))
    return folder


def test_the_module_comes_to_agree_with_its_model(world: World, stage: Path) -> None:
    record = open_stage(stage).record
    assert record.kind == "drafter" and [parent.name for parent in record.parents] == ["toy.gguf"]
    lines = [json.loads(line) for line in (stage / "agreement.jsonl").read_text("utf-8").splitlines()]
    assert lines[-1]["agreement 1"] > 0.6 > 1.5 * lines[0]["agreement 1"]
    depths = {each.name: each.value for each in record.evaluation.after}
    assert depths["accepted to depth 1"] > 0.6
    assert depths["accepted to depth 1"] >= depths["accepted to depth 2"] >= depths["accepted to depth 3"] > 0
    trained = record.metrics["trained parameters"]
    assert trained == sum(p.numel() for p in toy_module().parameters() if p.requires_grad)


def toy_module() -> torch.nn.Module:
    model = toy_model(toy_config("llama"))
    model.requires_grad_(False)
    add_draft_module(model, None)
    assert model.mtp is not None
    return model.mtp


@pytest.mark.parametrize("numbers", [Numbers.fp32, Numbers.int8])
@pytest.mark.parametrize("has_vocabulary", [False, True])
def test_replies_with_the_drafter_are_the_models_own(
    world: World, stage: Path, numbers: Numbers, has_vocabulary: bool
) -> None:
    drafter = Drafter.parse(str(stage))
    replies, accepted = [], 0
    for each in (Drafter(None), drafter):
        base = load_torch_base(world.base, None, numbers, each.folder)
        if has_vocabulary:
            head = base.model.lm_head
            base.model.draft_vocabulary = DraftVocabulary(head, torch.arange(head.out_features).flip(0))
        with torch_engine(base, numbers, drafter=each.name, seed=0) as engine:
            if engine._speculation is not None:
                engine._speculation.costs = NoCosts()
            asked = [GenerateRequest(base.tokenizer.vocabulary.encode(text), 24) for text in ("say", "is it red")]
            replies.append([engine.generate(request).ids for request in asked])
            accepted = sum(engine.generate(request).stats.accepted_tokens for request in asked)
    assert replies[0] == replies[1]
    assert accepted > 0


def test_a_module_begins_as_the_models_last_layer_and_is_read_back_whole(world: World, stage: Path) -> None:
    base = load_base(world.base)
    state = copy.deepcopy(base.model.state_dict())
    add_draft_module(base.model, None)
    assert base.model.mtp is not None
    copied = base.model.mtp[0].block.state_dict()  # pyright: ignore
    last = base.model.model.layers[-1].state_dict()
    assert all(torch.equal(copied[name], value) for name, value in last.items())
    with pytest.raises(UserError, match="has a module for multi-token prediction already"):
        add_draft_module(base.model, None)
    again = load_base(world.base)
    load_draft_module(again.model, stage / DRAFTER, again.sha256)
    assert again.model.mtp is not None and again.model.draft_vocabulary is None
    assert again.model.config.mtp_steps == 3
    assert all(torch.equal(value, again.model.state_dict()[name]) for name, value in state.items())


def test_a_folder_that_is_no_drafter_of_the_model_is_refused(world: World, stage: Path, tmp_path: Path) -> None:
    model = load_base(world.base).model
    with pytest.raises(UserError, match="was trained for weights with SHA-256"):
        load_draft_module(model, stage / DRAFTER, "0" * 64)
    with pytest.raises(UserError, match="none of lookup, mtp and none"):
        Drafter.parse(str(tmp_path))
    (tmp_path / FACTS_FILE).write_text((stage / DRAFTER / FACTS_FILE).read_text("utf-8"), "utf-8")
    (tmp_path / MODULE_FILE).write_bytes((stage / DRAFTER / MODULE_FILE).read_bytes()[:-9])
    with pytest.raises(UserError, match="cannot be read as a drafter"):
        load_draft_module(model, tmp_path, load_base(world.base).sha256)
    other = toy_model(toy_config("llama", hidden_size=32))
    with pytest.raises(UserError, match="does not fit the model: .*size mismatch"):
        load_draft_module(other, stage / DRAFTER, load_base(world.base).sha256)
    with pytest.raises(UserError, match="it has no weights of its own"):
        starting_point(stage)
    with pytest.raises(UserError, match="several streams"):
        add_draft_module(toy_model(toy_config("deepseek_v4")), None)


def test_the_loss_is_the_mean_over_targets_of_each_step() -> None:
    """Compared with sums over positions, written out."""
    model = toy_model(toy_config("llama"))
    model.requires_grad_(False)
    add_draft_module(model, torch.arange(0, 256, 2), n_steps=2)
    ids = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(0))
    labels = torch.full_like(ids, -100)
    labels[:, 3:-1] = ids[:, 4:]
    loss = DrafterLoss(steps=2, decay=0.5, tokens=0.3, states=2.0)
    n_labels = float((labels != -100).sum())
    found = DrafterPasses(model, loss).losses_of(Batch(ids, labels, torch.zeros_like(ids), 0), n_labels, 2)
    output = model(ids, with_mtp=True)
    tokens = states = 0.0
    for row in range(2):
        for k, weight in ((0, 2 / 3), (1, 1 / 3)):
            for i in range(12 - k - 1):
                if labels[row, i + k + 1] == -100 or labels[row, i + k + 1] % 2:
                    continue
                own, whole = output.mtp[k].hidden_BTD[row, i], output.hidden_BTD[row, i + k + 1]
                p = model.draft_logits(whole).softmax(-1)
                tokens -= weight * (p * model.draft_logits(own).log_softmax(-1)).sum().item()
                states += weight * F.smooth_l1_loss(own, whole).item()
    assert found.losses["tokens"].item() == pytest.approx(0.3 * tokens / n_labels, rel=1e-4)
    assert found.losses["states"].item() == pytest.approx(2.0 * states / n_labels, rel=1e-4)


def test_the_draft_vocabulary_is_the_most_frequent_targets() -> None:
    ids, weights = np.array([5, 7, 7, 9, 5, 7, 3, 3], np.int32), np.array([0, 1, 1, 1, 1, 0, 1, 1], np.float32)
    data = Tokenised(ids, weights, np.array([0, 8]), np.array([0]), ("a",), {})
    assert frequent_targets(data, 2).tolist() == [3, 7]
    assert frequent_targets(data, 100).tolist() == [3, 5, 7, 9]


def test_sampled_replies_are_predicted_in_bf16(world: World, tmp_path: Path) -> None:
    plan = {"share": 1.0, "max_tokens": 6}
    values: dict[str, Any] = METHODS["drafter"].values(world, steps=2, on_policy=plan, precision="bf16")
    stage = train_drafter(checked_recipe(DrafterRecipe, values), tmp_path / "run", Console(quiet=True))
    assert stage is not None and (tmp_path / "run" / DRAFTER / MODULE_FILE).is_file()


def test_llama_cpp_says_which_engine_reads_a_drafter(stage: Path, world: World) -> None:
    from typer.testing import CliRunner

    from modelstack.cli import app

    result = CliRunner().invoke(app, ["serve", str(world.base), "--drafter", str(stage)])
    assert result.exit_code == 1 and "add --engine torch" in " ".join(result.output.split())
