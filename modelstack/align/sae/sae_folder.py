"""Folder of a trained autoencoder, which SAELens loads (`SAE.load_from_disk`), with a record of its origin.

    cfg.json                 form, in SAELens' words
    sae_weights.safetensors  W_enc [D, F], b_enc [F], W_dec [F, O], b_dec [O], threshold [F], W_skip [O, D]
    sparsity.safetensors     share of the tokens at which each latent is active (log10), and its highest value
    origin.json              weights, layer, recipe and figures; states of other weights are refused

A folder that SAELens wrote is read, too; without `origin.json` the model that it belongs to cannot be checked.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from modelstack.align.sae.autoencoder import Activation, Autoencoder, AutoencoderConfig
from modelstack.align.sae.hook_point import HookPoint
from modelstack.errors import UserError, first_difference
from modelstack.files import read_json_object, replacing_folder

CONFIG, WEIGHTS, SPARSITY, ORIGIN = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors", "origin.json"
FORMAT = "modelstack.align.sae/1"
SAELENS_VERSION = "6.54.12"
"""Version of SAELens whose format is written."""
MAX_JSON_BYTES = 4 << 20
_NEVER = 1e-10
"""Density of a latent that never fires, as SAELens writes it."""
_KINDS: dict[str, tuple[Activation, bool, bool]] = {
    "topk": ("topk", False, False),
    "jumprelu": ("jumprelu", False, False),
    "jumprelu_transcoder": ("jumprelu", True, False),
    "jumprelu_skip_transcoder": ("jumprelu", True, True),
}
"""SAELens' architectures: codes, whether it is a transcoder, whether it has a skip matrix."""


class SaeOrigin(BaseModel, frozen=True, extra="forbid"):
    """Origin of an autoencoder."""

    format: str = FORMAT
    model: str
    """Name of the model."""
    weights_sha256: str
    """Hash of the model's weights and adapter."""
    hook: HookPoint
    recipe_sha256: str
    """Hash of the resolved recipe."""
    row_tokens: int
    """Tokens of a row in training."""
    skip_first: int
    """Tokens at the start of a document whose states were left out."""
    n_tokens: int
    """Tokens of the training."""
    figures: dict[str, float] = Field(default_factory=dict)
    """Figures on held-out text."""


@dataclass(frozen=True, slots=True, eq=False)
class SavedSae:
    """An autoencoder from a folder."""

    autoencoder: Autoencoder
    origin: SaeOrigin | None
    """None in a folder that SAELens wrote."""
    density_F: Tensor | None
    """Share of the tokens at which each latent is active; None: not measured."""
    highest_F: Tensor | None
    """Highest value of each latent; None: not measured."""

    def require_from(self, weights_sha256: str, hook: HookPoint | None = None) -> SaeOrigin:
        """Check that the autoencoder belongs to a model, and to a place in it; return its origin.

        Raises:
            UserError: It belongs to another one, or states none.
        """
        origin = self.origin
        if origin is None:
            raise UserError(
                f"the autoencoder has no {ORIGIN}, so the model that it belongs to is unknown; `modelstack sae` "
                f"writes one"
            )
        if origin.weights_sha256 != weights_sha256:
            raise UserError(
                f"the autoencoder was trained on {origin.model!r} with SHA-256 {origin.weights_sha256[:16]}..., "
                f"the given weights have {weights_sha256[:16]}...: states of other weights do not compare. Name "
                f"that model, or train an autoencoder on this one"
            )
        if hook is not None and origin.hook != hook:
            raise UserError(
                f"the autoencoder reads {origin.hook.point} of layer {origin.hook.layer}, the states are "
                f"{hook.point} of layer {hook.layer}: an autoencoder fits one place. Train one there"
            )
        return origin


def save_sae(
    path: Path,
    autoencoder: Autoencoder,
    origin: SaeOrigin,
    *,
    dataset: str = "",
    density_F: Tensor | None = None,
    highest_F: Tensor | None = None,
) -> None:
    """Write a folder; an existing one is replaced as a whole."""
    from safetensors.torch import save_file

    with replacing_folder(path) as temporary:
        _write_json(temporary / CONFIG, _saelens_config(autoencoder.config, origin, dataset))
        save_file(_saelens_weights(autoencoder), temporary / WEIGHTS)
        if density_F is not None and highest_F is not None:
            sparsity_F = density_F.double().clamp_min(_NEVER).log10().float()
            save_file({"sparsity": sparsity_F, "highest": highest_F.float()}, temporary / SPARSITY)
        _write_json(temporary / ORIGIN, origin.model_dump(mode="json"))


def load_sae(path: str | Path) -> SavedSae:
    """Read a folder.

    Raises:
        UserError: A file is missing or broken, or the architecture is not known.
    """
    path = Path(path)
    content = _read_json(path / CONFIG)
    config = _config_of(content, path)
    tensors = _read_tensors(path / WEIGHTS)
    autoencoder = Autoencoder(config)
    try:
        autoencoder.load_state_dict(_named(tensors))
    except RuntimeError as error:
        raise UserError(f"{path / WEIGHTS} does not fit {CONFIG}: {first_difference(error)}") from error
    origin = None
    if (path / ORIGIN).exists():
        try:
            origin = SaeOrigin.model_validate(_read_json(path / ORIGIN))
        except ValidationError as error:
            raise UserError(
                f"{path / ORIGIN} is no origin of an autoencoder: {error.errors()[0]['msg']}"
            ) from error
        if origin.format != FORMAT:
            raise UserError(f"{path / ORIGIN} has format {origin.format!r}; {FORMAT!r} is read")
    measured = _read_tensors(path / SPARSITY) if (path / SPARSITY).exists() else {}
    density_F = 10 ** measured["sparsity"] if "sparsity" in measured else None
    if density_F is not None:
        density_F[density_F <= 2 * _NEVER] = 0.0
    return SavedSae(autoencoder.requires_grad_(False), origin, density_F, measured.get("highest"))


def _saelens_config(config: AutoencoderConfig, origin: SaeOrigin, dataset: str) -> dict[str, Any]:
    form = (config.activation, config.is_transcoder, config.has_skip)
    architecture = next((name for name, each in _KINDS.items() if each == form), None)
    if architecture is None:
        raise UserError(
            "SAELens has no transcoder with topk: train it with batch_topk, which is saved as JumpReLU"
        )
    first, second = origin.hook.names
    metadata = {
        "sae_lens_version": SAELENS_VERSION,
        "sae_lens_training_version": None,
        "model_name": origin.model,
        "hook_name": first,
        "dataset_path": dataset,
        "context_size": origin.row_tokens,
        "prepend_bos": False,
        "training_tokens": origin.n_tokens,
    }
    found: dict[str, Any] = {
        "architecture": architecture,
        "d_in": config.d_in,
        "d_sae": config.n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": not config.is_transcoder,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata,
    }
    if config.is_transcoder:
        found["d_out"] = config.d_out
        metadata["hook_name_out"] = second
    if config.k is not None:
        found |= {"k": config.k, "rescale_acts_by_decoder_norm": False}
    return found


def _config_of(content: dict[str, Any], path: Path) -> AutoencoderConfig:
    architecture = content.get("architecture")
    if architecture not in _KINDS:
        raise UserError(f"{path / CONFIG} has architecture {architecture!r}; {', '.join(_KINDS)} are read")
    activation, is_transcoder, has_skip = _KINDS[architecture]
    refused = {
        "normalize_activations": "none",
        "reshape_activations": "none",
        "apply_b_dec_to_input": not is_transcoder,
        "rescale_acts_by_decoder_norm": False,
    }
    for key, wanted in refused.items():
        if (value := content.get(key, wanted)) != wanted:
            raise UserError(
                f"{path / CONFIG} has {key} = {value!r}, and {wanted!r} is read: fold it into the weights first"
            )
    try:
        return AutoencoderConfig(
            activation=activation,
            d_in=content["d_in"],
            d_out=content.get("d_out", content["d_in"]),
            n_latents=content["d_sae"],
            k=content.get("k") if activation == "topk" else None,
            is_transcoder=is_transcoder,
            has_skip=has_skip,
        )
    except KeyError as error:
        raise UserError(f"{path / CONFIG} lacks the key {error}") from error
    except ValidationError as error:
        raise UserError(f"{path / CONFIG} is no autoencoder: {error.errors()[0]['msg']}") from error


def _saelens_weights(autoencoder: Autoencoder) -> dict[str, Tensor]:
    found = {
        "W_enc": autoencoder.encoder_FD.T,
        "b_enc": autoencoder.encoder_bias_F,
        "W_dec": autoencoder.decoder_FO,
        "b_dec": autoencoder.decoder_bias_O,
    }
    if autoencoder.threshold_F is not None:
        found["threshold"] = autoencoder.threshold_F
    if autoencoder.skip_OD is not None:
        found["W_skip"] = autoencoder.skip_OD
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in found.items()}


def _named(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return SAELens' tensors under the names of `Autoencoder`."""
    names = {
        "b_enc": "encoder_bias_F",
        "W_dec": "decoder_FO",
        "b_dec": "decoder_bias_O",
        "threshold": "threshold_F",
        "W_skip": "skip_OD",
    }
    found = {names.get(name, name): tensor.float() for name, tensor in tensors.items()}
    if "W_enc" in found:
        found["encoder_FD"] = found.pop("W_enc").T.contiguous()
    return found


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return read_json_object(file, MAX_JSON_BYTES)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): name a folder of `modelstack sae`") from error


def _read_tensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} cannot be read: {error}; copy the folder again") from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise UserError(f"{file} holds a number that is not finite; copy the folder again, or train anew")
    return tensors
