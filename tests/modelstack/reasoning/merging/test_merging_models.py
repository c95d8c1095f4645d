"""Models merged into a stage: whole or not at all, the same bytes each time, from parents that may be merged."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

from modelstack.architecture.checkpoint import load_checkpoint, save_checkpoint
from modelstack.cli import app
from modelstack.errors import UserError
from modelstack.posttrain.base import load_base
from modelstack.posttrain.base_hash import base_sha256
from modelstack.posttrain.stages.lineage import find_stages, lineage, tree
from modelstack.posttrain.stages.stage import open_stage
from modelstack.reasoning.merging import models as merging
from modelstack.reasoning.merging.parents import find_parents
from modelstack.reasoning.merging.recipe import MergeRecipe
from modelstack.reasoning.merging.tensor_files import ModelTensors, TensorFacts, open_tensors, write_tensors
from tests.modelstack.architecture.gguf_models import toy_config, toy_model
from tests.modelstack.reasoning.merging.toy_merging import contents, model_stage, toy_merge
from tests.modelstack.sft.toy_sft import write_base

pytestmark = [pytest.mark.xdist_group("merging_models"), pytest.mark.usefixtures("pictures_drawn_once")]


class World(NamedTuple):
    file: Path
    """The base as GGUF."""
    base: Path
    """The base as a checkpoint."""
    a: Path
    b: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("merging")
    file = write_base(folder / "base")
    base = folder / "base" / "checkpoint"
    for seed, name in enumerate(("a", "b")):
        model_stage(folder / name, base, seed)
    return World(file, base, folder / "a", folder / "b")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_merged_stage_loads_and_remembers_all_parents(world: World, tmp_path: Path) -> None:
    made = toy_merge(tmp_path / "soup", "linear", [world.a, world.b], weights=(3.0, 1.0), gguf="q8_0")
    stage = open_stage(tmp_path / "soup")
    assert stage.record == made.record
    assert stage.record.kind == "merged"
    assert stage.record.parents == (open_stage(world.a).origin, open_stage(world.b).origin)
    assert "from | b (sft" in (stage.path / "README.md").read_text()
    a, b, soup = (weights(folder / "model") for folder in (world.a, world.b, stage.path))
    assert soup.keys() == a.keys()
    for name, tensor in soup.items():
        torch.testing.assert_close(tensor, 0.75 * a[name] + 0.25 * b[name])
    loaded = load_base(stage.weights)
    assert loaded.tokenizer.encode("the thing") == load_base(world.base).tokenizer.encode("the thing")
    exported, ids = load_base(stage.path / "model.gguf").model, torch.arange(40)[None]
    with torch.no_grad():
        logits = [model.eval()(ids).logits_BTV.flatten() for model in (loaded.model, exported)]
    assert torch.corrcoef(torch.stack(logits))[0, 1] > 0.999


def test_the_tree_shows_a_merged_stage_under_each_parent(world: World, tmp_path: Path) -> None:
    toy_merge(tmp_path / "soup", "linear", [world.a, world.b])
    nodes = lineage(find_stages([world.a, world.b, tmp_path]))
    (soup,) = (node for node in nodes.values() if node.name == "soup")
    assert [nodes[parent].name for parent in soup.parents] == ["a", "b"]
    console = Console(file=io.StringIO(), width=200)
    console.print(tree(nodes))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("soup merged") == 2


def test_the_command_merges_by_a_recipe_with_keys_over_it(world: World, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'name = "both"\nmethod = "ties"\nbase = {json.dumps(str(world.file))}\ndensity = 0.9\nunrecorded = true\n'
        f"parents = [{json.dumps(str(world.a))}, {json.dumps(str(world.b))}]\n"
    )
    arguments = ["merge", str(recipe), "density=0.5", "scale=0.7", "--out", str(tmp_path / "both")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    stage = open_stage(tmp_path / "both")
    assert (stage.record.recipe["density"], stage.record.recipe["scale"]) == (0.5, 0.7)
    # The file of the base is another than the checkpoint that the parents name, so it is a parent of its own.
    assert [parent.name for parent in stage.record.parents] == ["a", "b", "toy.gguf"]
    same = toy_merge(tmp_path / "same", "ties", [world.a, world.b], world.base, density=0.5, scale=0.7)
    assert weights(same.weights).keys() == weights(stage.weights).keys()
    for name, tensor in weights(stage.weights).items():
        torch.testing.assert_close(tensor, weights(same.weights)[name])
    again = CliRunner().invoke(app, arguments)
    assert "is already finished" in again.output
    other = CliRunner().invoke(app, [*arguments, "density=0.6"])
    assert other.exit_code == 1 and "holds a run with recipe.density = 0.5" in other.stderr
    unknown = CliRunner().invoke(app, ["merge", str(recipe), "densty=0.5"])
    assert "nearest: 'density'" in unknown.stderr
    folder = CliRunner().invoke(app, ["merge", str(world.a)])
    assert "neither a recipe file (.toml) nor a shipped recipe" in " ".join(folder.stderr.split())


@pytest.mark.parametrize("method", ["dare_ties", "slerp"])
def test_killed_at_any_tensor_and_run_again_it_writes_the_same_bytes(
    method: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"density": 0.5, "seed": 3} if method == "dare_ties" else {}
    base = world.base if method == "dare_ties" else None
    (tmp_path / "1").mkdir()
    whole = toy_merge(tmp_path / "1" / "m", method, [world.a, world.b], base, **keys)
    read = ModelTensors.read
    n_read = 0

    def killed(self: ModelTensors, name: str) -> torch.Tensor:
        nonlocal n_read
        n_read += 1
        if n_read == 20:
            raise KeyboardInterrupt
        return read(self, name)

    out = tmp_path / "2" / "m"
    out.mkdir(parents=True)
    (out / ".model.left").mkdir()
    (out / ".model.left" / "model.safetensors").write_bytes(b"half")  # as SIGKILL leaves it
    with monkeypatch.context() as patch:
        patch.setattr(ModelTensors, "read", killed)
        with pytest.raises(KeyboardInterrupt):
            toy_merge(out, method, [world.a, world.b], base, **keys)
    assert not list(out.glob("*.json"))
    toy_merge(out, method, [world.a, world.b], base, **keys)
    assert contents(out) == contents(whole.path)


def test_one_tensor_of_each_parent_is_read_at_a_time_and_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, order = ModelTensors.read, []

    def counted(self: ModelTensors, name: str) -> torch.Tensor:
        order.append(name)
        return read(self, name)

    monkeypatch.setattr(ModelTensors, "read", counted)
    toy_merge(tmp_path / "m", "ties", [world.a, world.b], world.base, density=0.5)
    assert set(Counter(order).values()) == {3}
    assert all(len(set(order[at : at + 3])) == 1 for at in range(0, len(order), 3))


def test_files_of_several_shards_hold_the_same_tensors(world: World, tmp_path: Path) -> None:
    recipe = MergeRecipe(name="m", method="linear", parents=(str(world.a), str(world.b)), dtype="bfloat16")
    parents = find_parents(recipe)
    for folder, size in (("one", 10**9), ("many", 100_000)):
        merging.merge_models(recipe, parents, tmp_path / folder, lambda *n: None, max_shard_bytes=size)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    one, many = (load_checkpoint(tmp_path / folder) for folder in ("one", "many"))
    assert next(one.parameters()).dtype == torch.bfloat16
    assert all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), many.state_dict().values(), strict=True)
    )
    assert base_sha256(tmp_path / "one") != base_sha256(tmp_path / "many")
    with open_tensors(tmp_path / "many") as again:
        assert torch.equal(again.read("lm_head.weight"), one.lm_head.weight)


def test_numbers_of_every_type_lie_where_safetensors_looks_for_them(tmp_path: Path) -> None:
    given = {
        "odd": torch.tensor([1.5, -2.0, 3.0], dtype=torch.bfloat16),
        "wide": torch.tensor([[7, -8]], dtype=torch.int64),
        "single": torch.tensor(2.5),
        "none": torch.empty(0, 4, dtype=torch.float16),
    }
    planned = {name: TensorFacts(tuple(tensor.shape), tensor.dtype) for name, tensor in given.items()}
    write_tensors(tmp_path, planned, given.__getitem__)
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == given.keys()
    assert all(torch.equal(found[name], given[name]) and found[name].dtype == given[name].dtype for name in given)


def test_packed_experts_are_merged_under_their_released_names(tmp_path: Path) -> None:
    for seed in (0, 1):
        model = toy_model(toy_config("qwen3_moe"), seed)
        save_checkpoint(model, tmp_path / f"m{seed}", tokenizer=tmp_path)
    with open_tensors(tmp_path / "m0") as model:
        assert "model.layers.0.mlp.experts.0.gate_proj.weight" in model.facts
        write_tensors(tmp_path, model.facts, model.read)
    shutil.copyfile(tmp_path / "m0" / "config.json", tmp_path / "config.json")
    wanted = load_checkpoint(tmp_path / "m0").state_dict()
    assert all(
        torch.equal(tensor, wanted[name]) for name, tensor in load_checkpoint(tmp_path).state_dict().items()
    )


def test_parents_of_another_base_are_refused_unless_the_user_answers_for_them(
    world: World, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    save_checkpoint(toy_model(load_checkpoint(world.base).config, seed=5), other, tokenizer=world.base)
    model_stage(tmp_path / "c", other, 0)
    with pytest.raises(
        UserError, match=r"no common ancestor, .*/a descends from checkpoint .*; .*/c descends from other"
    ):
        toy_merge(tmp_path / "m", "linear", [world.a, tmp_path / "c"])
    with pytest.raises(UserError, match=r"base .* is not an ancestor of all parents: .*/c descends from other"):
        toy_merge(tmp_path / "m", "task_arithmetic", [world.a, tmp_path / "c"], world.base)
    with pytest.raises(UserError, match="other is not a stage, so its ancestors are unknown"):
        toy_merge(tmp_path / "m", "linear", [world.a, other])
    assert not (tmp_path / "m").exists()
    made = toy_merge(tmp_path / "m", "linear", [world.a, other], unrecorded=True)
    assert [parent.name for parent in made.record.parents] == ["a", "other"]


def test_a_parent_and_its_own_child_are_of_one_base(world: World, tmp_path: Path) -> None:
    made = toy_merge(tmp_path / "m", "linear", [world.a, world.base])
    assert [parent.kind for parent in made.record.parents] == ["sft", "base"]


def test_other_architectures_and_tokenizers_are_told_apart(world: World, tmp_path: Path) -> None:
    config = load_checkpoint(world.base).config
    save_checkpoint(toy_model(config.with_(rms_norm_eps=1e-4)), tmp_path / "eps", tokenizer=world.base)
    with pytest.raises(UserError, match="have different architectures: rms_norm_eps is .* and 0.0001"):
        toy_merge(tmp_path / "m", "linear", [world.a, tmp_path / "eps"], unrecorded=True)
    shutil.copytree(world.base, tmp_path / "words")
    words = json.loads((tmp_path / "words" / "tokenizer.json").read_text())
    vocab = words["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (tmp_path / "words" / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(UserError, match=r"have different tokenizers: id \d+ is b'a' and b'b'"):
        toy_merge(tmp_path / "m", "linear", [world.a, tmp_path / "words"], unrecorded=True)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"method": "ties", "density": 0.5}, "'base' is missing, but method 'ties' needs it"),
        ({"rank": 4}, "'rank' is for adapters"),
        ({"weights": (1.0, -0.9999999), "dtype": "float16"}, "values that are not finite in float16"),
    ],
)
def test_what_cannot_be_merged_leaves_no_stage(
    keys: dict[str, object], told: str, world: World, tmp_path: Path
) -> None:
    values = {"method": "linear", **keys}
    method = str(values.pop("method"))
    with pytest.raises(UserError, match=told):
        toy_merge(tmp_path / "m", method, [world.a, world.b], **values)
    assert not (tmp_path / "m" / "model").exists()
