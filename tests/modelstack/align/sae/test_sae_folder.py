"""Folders of autoencoders: the format of SAELens in both directions, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modelstack.align.sae.autoencoder import Autoencoder, AutoencoderConfig
from modelstack.align.sae.hook_point import HookPoint
from modelstack.align.sae.sae_folder import CONFIG, ORIGIN, WEIGHTS, SaeOrigin, load_sae, save_sae
from modelstack.errors import UserError

THEIRS = Path(__file__).parent / "written_by_saelens"
"""Folders that sae-lens 6.54.12 wrote, with inputs, codes and outputs of `SAE.load_from_disk`."""
D, F = 8, 20


def some_sae(activation: Any = "jumprelu", *, transcoder: bool = False, skip: bool = False) -> Autoencoder:
    config = AutoencoderConfig(
        activation=activation,
        d_in=D,
        d_out=6 if transcoder else D,
        n_latents=F,
        k=3 if activation == "topk" else None,
        is_transcoder=transcoder,
        has_skip=skip,
    )
    model, generator = Autoencoder(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    return model.requires_grad_(False)


def some_origin(**changes: Any) -> SaeOrigin:
    values: dict[str, Any] = {
        "model": "toy",
        "weights_sha256": "a" * 64,
        "hook": HookPoint(layer=3),
        "recipe_sha256": "b" * 64,
        "row_tokens": 64,
        "skip_first": 1,
        "n_tokens": 1000,
        "figures": {"l0": 3.0},
    }
    return SaeOrigin(**values | changes)


def as_saelens_reads(path: Path, x_ND: Tensor) -> Tensor:
    """Compute outputs as SAELens does, from the two files of its format alone."""
    config = json.loads((path / "cfg.json").read_text(encoding="utf-8"))
    weights = load_file(path / "sae_weights.safetensors")
    assert config["dtype"] == "float32" and config["normalize_activations"] == "none"
    assert int(config["metadata"]["sae_lens_version"].split(".")[0]) >= 6  # else it takes another format
    shifted_ND = x_ND - weights["b_dec"] if config["apply_b_dec_to_input"] else x_ND
    scores_NF = shifted_ND @ weights["W_enc"] + weights["b_enc"]
    assert weights["W_enc"].shape == (config["d_in"], config["d_sae"])
    if "jumprelu" in config["architecture"]:
        codes_NF = scores_NF.relu() * (scores_NF > weights["threshold"])
    else:
        top = scores_NF.topk(config["k"])
        codes_NF = torch.zeros_like(scores_NF).scatter(-1, top.indices, top.values.relu())
    output_NO = codes_NF @ weights["W_dec"] + weights["b_dec"]
    if config["architecture"].endswith("skip_transcoder"):
        output_NO = output_NO + x_ND @ weights["W_skip"].T
    assert output_NO.shape[1] == config.get("d_out", config["d_in"])
    return output_NO


@pytest.mark.parametrize(
    ("activation", "transcoder", "skip", "architecture"),
    [
        ("topk", False, False, "topk"),
        ("jumprelu", False, False, "jumprelu"),
        ("jumprelu", True, False, "jumprelu_transcoder"),
        ("jumprelu", True, True, "jumprelu_skip_transcoder"),
    ],
)
def test_a_folder_gives_the_same_outputs_in_both_programs(
    tmp_path: Path, activation: str, transcoder: bool, skip: bool, architecture: str
) -> None:
    ours = some_sae(activation, transcoder=transcoder, skip=skip)
    point = "transcoder" if transcoder else "residual"
    origin = some_origin(hook=HookPoint(layer=3, point=point))
    save_sae(tmp_path / "sae", ours, origin, density_F=torch.linspace(0, 1, F), highest_F=torch.arange(float(F)))
    x_ND = torch.randn(50, D, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(as_saelens_reads(tmp_path / "sae", x_ND), ours(x_ND))
    config = json.loads((tmp_path / "sae" / CONFIG).read_text(encoding="utf-8"))
    assert config["architecture"] == architecture
    name = "blocks.3.mlp.hook_in" if transcoder else "blocks.3.hook_resid_post"
    assert config["metadata"]["hook_name"] == name
    again = load_sae(tmp_path / "sae")
    assert torch.equal(again.autoencoder(x_ND), ours(x_ND)) and again.origin == origin
    assert again.density_F is not None and again.highest_F is not None
    torch.testing.assert_close(again.density_F, torch.linspace(0, 1, F), rtol=1e-5, atol=0)
    assert again.density_F[0] == 0 and again.highest_F.tolist() == list(range(F))


@pytest.mark.parametrize("name", ["batch-topk", "topk", "skip-transcoder"])
def test_folders_of_saelens_are_read(name: str) -> None:
    expected = load_file(THEIRS / name / "expected.safetensors")
    saved = load_sae(THEIRS / name)
    torch.testing.assert_close(saved.autoencoder(expected["x"]), expected["y"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        saved.autoencoder.encode(expected["x"]).dense(), expected["codes"], rtol=1e-4, atol=1e-5
    )
    assert saved.origin is None
    with pytest.raises(UserError, match=r"no origin\.json, so the model that it belongs to is unknown"):
        saved.require_from("a" * 64)
    torch.testing.assert_close(as_saelens_reads(THEIRS / name, expected["x"]), expected["y"], rtol=1e-4, atol=1e-5)


def test_another_model_and_another_place_are_refused_by_name(tmp_path: Path) -> None:
    save_sae(tmp_path / "sae", some_sae(), some_origin())
    saved = load_sae(tmp_path / "sae")
    assert saved.require_from("a" * 64, HookPoint(layer=3)).model == "toy"
    with pytest.raises(
        UserError, match=r"trained on 'toy' with SHA-256 aaaa.*the given weights have cccc.*Name that"
    ):
        saved.require_from("c" * 64)
    with pytest.raises(UserError, match=r"reads residual of layer 3, the states are residual of layer 4"):
        saved.require_from("a" * 64, HookPoint(layer=4))
    with pytest.raises(UserError, match=r"the states are mlp of layer 3.*Train one there"):
        saved.require_from("a" * 64, HookPoint(layer=3, point="mlp"))


def changed(path: Path, file: str, **keys: Any) -> None:
    content = json.loads((path / file).read_text(encoding="utf-8"))
    (path / file).write_text(json.dumps(content | keys), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "keys", "message"),
    [
        (CONFIG, {"architecture": "gated"}, r"architecture 'gated'; topk, jumprelu"),
        (
            CONFIG,
            {"normalize_activations": "layer_norm"},
            r"normalize_activations = 'layer_norm', and 'none' is read",
        ),
        (CONFIG, {"d_sae": 21}, r"does not fit cfg\.json.*size mismatch"),
        (CONFIG, {"d_in": "wide"}, r"is no autoencoder"),
        (ORIGIN, {"format": "other/2"}, r"format 'other/2'"),
        (ORIGIN, {"hook": {"layer": -1}}, r"is no origin of an autoencoder"),
        (ORIGIN, {"stray": 1}, r"is no origin of an autoencoder"),
    ],
)
def test_a_changed_file_is_refused(tmp_path: Path, file: str, keys: dict[str, Any], message: str) -> None:
    save_sae(tmp_path / "sae", some_sae(), some_origin())
    changed(tmp_path / "sae", file, **keys)
    with pytest.raises(UserError, match=f"(?s){message}"):
        load_sae(tmp_path / "sae")


def test_missing_and_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cfg\.json cannot be read.*name a folder of `modelstack sae`"):
        load_sae(tmp_path / "none")
    path = tmp_path / "sae"
    save_sae(path, some_sae(), some_origin())
    tensors = load_file(path / WEIGHTS)
    tensors["b_enc"][3] = torch.nan
    save_file(tensors, path / WEIGHTS)
    with pytest.raises(UserError, match="a number that is not finite"):
        load_sae(path)
    (path / WEIGHTS).write_bytes((path / WEIGHTS).read_bytes()[:100])
    with pytest.raises(UserError, match=r"sae_weights\.safetensors cannot be read"):
        load_sae(path)
    (path / CONFIG).write_text("[1, 2", encoding="utf-8")
    with pytest.raises(UserError, match="is not JSON"):
        load_sae(path)


def test_a_transcoder_with_topk_has_no_format(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="SAELens has no transcoder with topk: train it with batch_topk"):
        save_sae(tmp_path / "sae", some_sae("topk", transcoder=True), some_origin())
    assert not (tmp_path / "sae").exists()
