"""Checkpoint folders: transformers reads ours, we read transformers', and broken ones say what is wrong."""

import json
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from parity import difference, ours, poisoned, random_ids, reference
from safetensors.torch import load_file, save_file

from modelstack.architecture.checkpoint import load_checkpoint, save_checkpoint
from modelstack.architecture.config import ModelConfig
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.presets.registry import PRESETS, from_hf
from modelstack.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers warns about keys of its own classes


def toy(model_type: str = "llama") -> CausalLM:
    return ours(reference(model_type, **FAMILIES[model_type]))


def test_every_preset_has_a_toy_here() -> None:
    assert FAMILIES.keys() == PRESETS.keys()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_transformers_loads_our_folder_strictly(model_type: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = toy(model_type)
    save_checkpoint(model, tmp_path / "model")
    theirs, info = AutoModelForCausalLM.from_pretrained(  # pyright: ignore
        tmp_path / "model", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    assert type(theirs).__name__ == PRESETS[model_type].architecture
    expected, found = model.state_dict(), theirs.state_dict()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("model_type", FAMILIES)
def test_we_load_the_folder_that_transformers_saves(model_type: str, tmp_path: Path) -> None:
    theirs = reference(model_type, **FAMILIES[model_type])
    theirs.save_pretrained(tmp_path)  # pyright: ignore
    model = load_checkpoint(tmp_path)
    assert model.config == from_hf(theirs.config.to_dict())  # pyright: ignore
    ids = random_ids(n_tokens=20)
    with torch.no_grad():
        assert difference(model(ids).logits_BTV, theirs(ids, use_cache=False).logits) < 5e-6


@pytest.mark.parametrize("model_type", FAMILIES)
def test_what_is_saved_is_loaded(model_type: str, tmp_path: Path) -> None:
    model = toy(model_type)
    save_checkpoint(model, tmp_path / "model", max_shard_bytes=50_000)
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 1
    again = load_checkpoint(tmp_path / "model")
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_a_tied_model_is_stored_once_and_tied_again(tmp_path: Path) -> None:
    save_checkpoint(toy("qwen3"), tmp_path / "model")
    assert "lm_head.weight" not in load_file(tmp_path / "model" / "model.safetensors")
    model = load_checkpoint(tmp_path / "model")
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("deepseek_v3", "model.layers.2.shared_head.norm.weight"),
        ("deepseek_v3", "model.layers.2.mlp.experts.7.up_proj.weight"),
        ("deepseek_v4", "mtp.0.hc_head_fn"),
        ("deepseek_v4", "mtp.0.attn.wq_a.weight"),
        ("deepseek_v4", "mtp.0.ffn.experts.7.w3.weight"),
    ],
)
def test_layers_that_predict_ahead_have_the_makers_names_and_come_back(
    model_type: str, name: str, tmp_path: Path
) -> None:
    model = with_mtp(model_type)
    save_checkpoint(model, tmp_path / "model")
    assert name in load_file(tmp_path / "model" / "model.safetensors")
    again = load_checkpoint(tmp_path / "model")
    assert again.config == model.config
    for ours_name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[ours_name], tensor), ours_name


def test_transformers_loads_a_folder_with_layers_that_it_does_not_have(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    save_checkpoint(with_mtp("deepseek_v4"), tmp_path / "model")
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)  # pyright: ignore
    assert not info["missing_keys"] and not info["mismatched_keys"]


def test_a_folder_that_only_its_config_says_predicts_ahead_has_no_such_layers(tmp_path: Path) -> None:
    save_checkpoint(toy("deepseek_v3"), tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_nextn_predict_layers": 1}))
    assert load_checkpoint(tmp_path / "model").config.num_nextn_predict_layers == 0


def with_mtp(model_type: str) -> CausalLM:
    model = CausalLM(toy(model_type).config.with_(num_nextn_predict_layers=1))
    poisoned(model)
    return model


def test_a_type_can_be_chosen_on_both_ways(tmp_path: Path) -> None:
    save_checkpoint(toy(), tmp_path / "model", dtype=torch.bfloat16)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    assert load_checkpoint(tmp_path / "model").lm_head.weight.dtype == torch.bfloat16
    assert load_checkpoint(tmp_path / "model", dtype=torch.float32).lm_head.weight.dtype == torch.float32


def test_buffers_keep_their_type(tmp_path: Path) -> None:
    save_checkpoint(toy("deepseek_v3"), tmp_path / "model", dtype=torch.bfloat16)
    model = load_checkpoint(tmp_path / "model")
    assert model.state_dict()["model.layers.1.mlp.gate.e_score_correction_bias"].dtype == torch.float32


def test_training_facts_and_tokenizer_files_travel_along(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    save_checkpoint(toy(), tmp_path / "model", tokenizer=tmp_path / "tokenizer", training={"step": 7})
    assert json.loads((tmp_path / "model" / "training.json").read_text()) == {"step": 7}
    assert (tmp_path / "model" / "tokenizer.json").read_text() == "{}"


def test_a_folder_is_replaced_whole_and_a_failed_save_leaves_the_old_one(tmp_path: Path) -> None:
    folder = save_checkpoint(toy(), tmp_path / "model")
    (folder / "leftover").write_text("old")
    save_checkpoint(toy("qwen3"), folder)
    assert not (folder / "leftover").exists()
    broken = CausalLM(toy().config.with_(hidden_act="relu2", mlp_gated=False))
    with pytest.raises(UserError, match="mlp_gated"):
        save_checkpoint(broken, folder)
    assert load_checkpoint(folder).config.model_type == "qwen3"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def saved(tmp_path: Path) -> Path:
    return save_checkpoint(toy(), tmp_path / "model")


def rewrite(folder: Path, **changes: torch.Tensor | None) -> None:
    path = folder / "model.safetensors"
    tensors = {**load_file(path), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    rewrite(folder, **{"model.norm.weight": None})
    with pytest.raises(UserError, match=r"1 tensors missing \(model.norm.weight\), 0 not known"):
        load_checkpoint(folder)


def test_a_tensor_too_many_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    rewrite(folder, surprise=torch.ones(2))
    with pytest.raises(UserError, match=r"0 tensors missing \(none\), 1 not known \(surprise\)"):
        load_checkpoint(folder)


def test_a_wrong_shape_says_what_it_must_be(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    rewrite(folder, **{"model.norm.weight": torch.ones(3)})
    with pytest.raises(UserError, match=r"model.norm.weight has shape \[3\]; by config.json it must be \[64\]"):
        load_checkpoint(folder)


def test_a_missing_expert_is_counted(tmp_path: Path) -> None:
    folder = save_checkpoint(toy("qwen3_moe"), tmp_path / "model")
    rewrite(folder, **{"model.layers.0.mlp.experts.3.up_proj.weight": None})
    with pytest.raises(UserError, match=r"gate_up_proj \(1 of 16 parts\)"):
        load_checkpoint(folder)


def test_a_truncated_file_is_an_error_not_a_crash(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="not a valid safetensors file"):
        load_checkpoint(folder)


def test_an_index_cannot_reach_outside_the_folder(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="does not exist in this folder"):
        load_checkpoint(folder)


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(UserError, match=r"quantised \(fp8\)"):
        load_checkpoint(folder)


NO_WIDTH = (
    '{"model_type": "llama", "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}'
)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model_type": "llama"}', '{"model_type": "lama"}', NO_WIDTH])
def test_a_broken_config_says_what_is_wrong(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="config.json|model_type"):
        load_checkpoint(tmp_path)


def test_a_folder_without_weights_says_what_is_read(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="neither model.safetensors nor"):
        load_checkpoint(folder)


def test_a_config_is_equal_after_a_walk_through_json() -> None:
    for model_type, keys in FAMILIES.items():
        config = toy(model_type).config
        assert ModelConfig.model_validate_json(config.model_dump_json()) == config, keys
