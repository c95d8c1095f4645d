"""What a family of models is called in GGUF: its metadata and its tensors, each from one table both ways.

Metadata goes through transformers' `config.json`: a family lists which GGUF key holds which key of it, and the
preset supplies what the family does without saying. Whether a model can be exported at all follows: write its
metadata, read them back, and what differs is a decision that llama.cpp cannot be told. What llama.cpp takes for
granted although the metadata have a place for it is said by `limits`.

Sources: llama.cpp's src/models/*.cpp and llama-hparams.cpp, as of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from modelstack.architecture.config import TRAINING_KEYS, ModelConfig
from modelstack.architecture.gguf.fields import Fields, Value, lost_in_32_bits
from modelstack.architecture.gguf.rules import Array, Rule
from modelstack.architecture.presets.preset import SAME_KEYS, Json
from modelstack.architecture.presets.registry import preset_of
from modelstack.errors import UserError


@dataclass(frozen=True, slots=True)
class Stored:
    """What a file's tensors tell of its decisions."""

    shapes: Mapping[str, tuple[int, ...]]
    """By GGUF's names."""
    bands: Array | None = None
    """`rope_freqs.weight`, r/2: what Llama 3's scaling divides frequencies by."""

    def has_bias(self, part: str = "attn_q") -> bool:
        """Whether the first layer has a bias at a projection."""
        return f"blk.0.{part}.bias" in self.shapes


MAX_LAYERS, MAX_EXPERTS = 512, 1024
"""`LLAMA_MAX_LAYERS` and `LLAMA_MAX_EXPERTS` of llama.cpp, which aborts the process beyond them."""
NOT_IN_GGUF = TRAINING_KEYS | {
    "initializer_range",
    "num_nextn_predict_layers",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
}
"""What only training needs; the prediction modules, which are left out; what the tokenizer's metadata say."""


@dataclass(frozen=True, slots=True)
class Key:
    """One decision under its two names."""

    gguf: str
    """Behind `ARCH.`"""
    hf: str
    """In `config.json`."""
    kind: Literal["size", "number", "flag"] = "size"


COMMON_KEYS = (
    Key("block_count", "num_hidden_layers"),
    Key("context_length", "max_position_embeddings"),
    Key("embedding_length", "hidden_size"),
    Key("attention.head_count", "num_attention_heads"),
    Key("attention.layer_norm_rms_epsilon", "rms_norm_eps", "number"),
)


def _no_bands(config: ModelConfig) -> None:
    return None


def _nothing(config: ModelConfig) -> Iterator[str]:
    return iter(())


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture of llama.cpp and the preset that it is."""

    arch: str
    """`general.architecture`."""
    model_type: str
    rules: Callable[[ModelConfig], Iterator[Rule]]
    """The tensors, in the order of the file."""
    write: Callable[[ModelConfig], dict[str, Value]]
    """Metadata that are not one key of `config.json` each, without `ARCH.`"""
    read: Callable[[Fields, Stored, Json], Json]
    """The inverse of `write`: keys of `config.json`; what `keys` gave is passed in."""
    keys: tuple[Key, ...] = ()
    """Beside `COMMON_KEYS`."""
    limits: Callable[[ModelConfig], Iterator[str]] = _nothing
    """What llama.cpp cannot do of this model, each with its key and its fix."""
    notes: Callable[[ModelConfig], Iterator[str]] = _nothing
    """What llama.cpp computes otherwise, little enough to be told afterwards."""
    output_required: bool = False
    """Whether the loader wants `output.weight` of its own."""
    rotations: tuple[str, ...] = ("default",)
    """Keys of `rope_parameters`."""
    bands: Callable[[ModelConfig], Array | None] = _no_bands
    """`rope_freqs.weight`, where the model scales as Llama 3 does."""


def metadata(family: Family, config: ModelConfig) -> dict[str, Value]:
    """Return the metadata `ARCH.*` of a model.

    Raises:
        UserError: The model makes a decision that llama.cpp's architecture cannot be told.
    """
    if problems := list(_common_limits(family, config)) or list(family.limits(config)):
        raise UserError(f"cannot be exported as GGUF {family.arch!r}: " + "; ".join(problems))
    json = {key: getattr(config, key) for key in SAME_KEYS} | preset_of(config.model_type).to_hf(config)
    found = {key.gguf: json[key.hf] for key in (*COMMON_KEYS, *family.keys)}
    if unset := [key.hf for key in family.keys if json[key.hf] is None]:
        raise UserError(f"cannot be exported as GGUF {family.arch!r}: {', '.join(unset)} must be set")
    found |= {"vocab_size": config.vocab_size} | family.write(config)
    written = {f"{family.arch}.{key}": value for key, value in found.items()}
    _refuse_lost_decisions(family, config, written)
    return written


def read_config(family: Family, values: Mapping[str, Any], stored: Stored) -> ModelConfig:
    """Return the config that a file's metadata stand for.

    Raises:
        UserError: A key is missing, makes no sense, or is not understood.
    """
    embedding = stored.shapes.get("token_embd.weight", ())
    if len(embedding) != 2:
        raise UserError("GGUF tensor token_embd.weight is missing or no matrix: this is no language model")
    fields = Fields(values, family.arch)
    json: Json = {
        "model_type": family.model_type,
        "vocab_size": embedding[0],
        "tie_word_embeddings": "output.weight" not in stored.shapes,
    }
    for key in (*COMMON_KEYS, *family.keys):
        json[key.hf] = fields.flag(key.gguf, False) if key.kind == "flag" else getattr(fields, key.kind)(key.gguf)
    if json["num_hidden_layers"] > MAX_LAYERS:
        raise UserError(f"GGUF key {family.arch}.block_count is {json['num_hidden_layers']}: at most {MAX_LAYERS}")
    fields.must_equal("vocab_size", json["vocab_size"], "the rows of token_embd.weight")
    json |= family.read(fields, stored, json)
    fields.refuse_unasked()
    return preset_of(family.model_type).from_hf(json | _token_ids(values))


def _token_ids(values: Mapping[str, Any]) -> Json:
    ids = {
        f"{ours}_token_id": values.get(f"tokenizer.ggml.{theirs}_token_id")
        for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    return {key: value for key, value in ids.items() if type(value) is int}


def _refuse_lost_decisions(family: Family, config: ModelConfig, written: Mapping[str, Value]) -> None:
    names = (name for rule in family.rules(config) for name in rule.stored)
    stored = Stored(dict.fromkeys(names, (config.vocab_size, config.hidden_size)), family.bands(config))
    again = read_config(family, written, stored).model_dump()
    stated = config.model_dump()
    lost = [k for k in stated if k not in NOT_IN_GGUF and lost_in_32_bits(stated[k], again[k])]
    if lost:
        told = "; ".join(f"{key} is {_brief(stated[key])} here and {_brief(again[key])} there" for key in lost)
        raise UserError(
            f"cannot be exported as GGUF {family.arch!r}: llama.cpp has no place for {', '.join(lost)} ({told}); "
            f"a model to be exported must keep llama.cpp's values"
        )


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _common_limits(family: Family, config: ModelConfig) -> Iterator[str]:
    if config.num_hidden_layers > MAX_LAYERS:
        yield f"num_hidden_layers {config.num_hidden_layers}: llama.cpp takes at most {MAX_LAYERS}"
    if (config.n_routed_experts or 0) > MAX_EXPERTS:
        yield f"n_routed_experts {config.n_routed_experts}: llama.cpp takes at most {MAX_EXPERTS}"
    if family.output_required and config.tie_word_embeddings:
        yield (
            f"tie_word_embeddings is true: llama.cpp's {family.arch!r} wants a head of its own; set it to false "
            f"and copy model.embed_tokens.weight to lm_head.weight"
        )
    if config.position_embedding != "rope":
        yield f"position_embedding is {config.position_embedding!r}: llama.cpp's {family.arch!r} rotates (rope)"
    if set(config.rope_parameters) != set(family.rotations):
        kinds = ", ".join(config.rope_parameters)
        yield f"rope_parameters are given for {kinds}: for {family.arch!r} name {', '.join(family.rotations)}"
