"""Translation of a model family to GGUF and back: a table for its metadata and one for its tensors.

Metadata are translated through transformers' `config.json`: a family maps GGUF keys to keys of `config.json`, and
the preset adds the family's implied settings. To decide whether a model can be exported, its metadata are written
and read back: a setting that differs cannot be expressed in GGUF. `limits` lists settings that GGUF can express
but llama.cpp ignores.

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
    """Information on the config that a file's tensors contain."""

    shapes: Mapping[str, tuple[int, ...]]
    """Shapes by GGUF's names."""
    bands: Array | None = None
    """`rope_freqs.weight`, r/2: divisors of the frequencies in Llama 3's scaling."""

    def has_bias(self, part: str = "attn_q") -> bool:
        """Whether a projection of the first layer has a bias."""
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
"""Config fields that GGUF metadata do not hold: training settings, the number of multi-token prediction modules
(which are not exported), and token ids, which are part of the tokenizer's metadata.
"""


@dataclass(frozen=True, slots=True)
class Key:
    """A setting under its two names."""

    gguf: str
    """GGUF key without the prefix `ARCH.`."""
    hf: str
    """Key in `config.json`."""
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
    """An architecture of llama.cpp and its preset."""

    arch: str
    """Value of `general.architecture`."""
    model_type: str
    rules: Callable[[ModelConfig], Iterator[Rule]]
    """The rules of all tensors, in the order of the file."""
    write: Callable[[ModelConfig], dict[str, Value]]
    """Metadata that do not correspond to one key of `config.json` each, without the prefix `ARCH.`."""
    read: Callable[[Fields, Stored, Json], Json]
    """The inverse of `write`: return keys of `config.json`. The third argument holds the values of `keys`."""
    keys: tuple[Key, ...] = ()
    """Keys in addition to `COMMON_KEYS`."""
    limits: Callable[[ModelConfig], Iterator[str]] = _nothing
    """Settings of this model that llama.cpp does not support, each with its key and its fix."""
    notes: Callable[[ModelConfig], Iterator[str]] = _nothing
    """Operations that llama.cpp computes slightly differently; reported after the export."""
    output_required: bool = False
    """Whether the loader requires a separate `output.weight`."""
    rotations: tuple[str, ...] = ("default",)
    """Keys of `rope_parameters`."""
    bands: Callable[[ModelConfig], Array | None] = _no_bands
    """`rope_freqs.weight`, if the model uses Llama 3's scaling."""


def metadata(family: Family, config: ModelConfig) -> dict[str, Value]:
    """Return the metadata `ARCH.*` of a model.

    Raises:
        UserError: llama.cpp's architecture cannot express a setting of the model.
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
    """Return the config that a file's metadata describe.

    Raises:
        UserError: A key is missing, invalid or unknown.
    """
    embedding = stored.shapes.get("token_embd.weight", ())
    if len(embedding) != 2:
        raise UserError(
            "GGUF tensor token_embd.weight is missing or not a matrix; the file is not a language model"
        )
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
        differences = "; ".join(
            f"{key} is {_brief(stated[key])} here and {_brief(again[key])} in llama.cpp" for key in lost
        )
        raise UserError(
            f"cannot be exported as GGUF {family.arch!r}: llama.cpp cannot express "
            f"{', '.join(lost)} ({differences}); "
            f"use llama.cpp's values to export"
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
            f"tie_word_embeddings is true: llama.cpp's {family.arch!r} requires a separate head; "
            f"set it to false and copy model.embed_tokens.weight to lm_head.weight"
        )
    if config.position_embedding != "rope":
        yield f"position_embedding is {config.position_embedding!r}: llama.cpp's {family.arch!r} requires rope"
    if set(config.rope_parameters) != set(family.rotations):
        kinds = ", ".join(config.rope_parameters)
        yield f"rope_parameters are set for {kinds}: {family.arch!r} needs {', '.join(family.rotations)}"
