"""Bytes on each device during training for a parallelism layout, computed by formula before anything runs.

All figures are for the fullest device: the heaviest pipeline stage, with contiguous and even stages.

States take 16 bytes per parameter: fp32 masters 4, fp32 gradients 4, Adam's moments 8 (ZeRO, arXiv 1910.02054,
with gradients reduced in fp32). FSDP shards them over shard x context, tensor parallelism over its degree, a
pipeline by stages; HSDP replicas share nothing. Expert parallelism takes its ranks from shard x context. It
therefore changes what is gathered, but not what is stored.

Gathered by FSDP, in the compute type:

- without a pipeline, the weights of two layers (the running one and the next), the gradients of one layer, and
  both for the outermost group, embedding and head;
- with a pipeline, a whole stage for the whole step. Its gradients stay whole in fp32 until the last micro-batch,
  because torch's schedules let FSDP reduce only then;
- without sharding, one copy of all weights, none if the compute type is fp32.

Activations for the backward pass, per token and layer, with fused attention and without dropout:

    4 D                    inputs and outputs of two norms
    2 H d + 2 G d          q, k, v, and the output of attention
    (H + G) d              norms of queries and keys, if used
    4 I                    gate, up, its activation and their product; 2 I without a gate
    2 k D                  tokens sent to experts and returned, in a mixture
    H                      log-sums, in fp32; all other values are in the compute type

In a mixture, I is the sum over the k chosen and the shared experts. The formula is Korthikanti et al.'s sum (arXiv
2205.05198) adapted to such blocks; autograd saves 1.1 to 1.25 times that for our blocks in fp32 (measured by a
test). Kernels keep more (fp32 copies in norms, buffers of collectives).

Full checkpointing keeps D per layer, and one layer completely. Selective checkpointing, by operator, additionally
keeps the outputs of products and attention, which are 2 D + 2 (H + G) d + 2 I. Tensor parallelism shards all of it
(sequence parallelism), context parallelism shards the tokens. The first stage of a 1F1B pipeline holds one
micro-batch for each stage.

Logits are kept in the compute type, and in fp32 with their gradient: 8 more bytes per token and vocabulary entry.

Letters: B sequences of a micro-batch, T context, D width, H heads, G KV heads, d head channels, I inner width, E
experts, k chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal, Self

from pydantic import BaseModel, Field, ValidationError, computed_field, model_validator

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.counts.feed_forward import mlp_weights
from modelstack.architecture.counts.parameters import EMBEDDING, FINAL_NORM, HEAD, count_parameters
from modelstack.architecture.counts.registry import layers
from modelstack.architecture.counts.residual import hyper_head
from modelstack.architecture.counts.terms import Weights, sized
from modelstack.errors import UserError, reason_of

VALUE_BYTES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp8": 2}
"""Bytes per value of weights and activations by compute precision; FP8 training stores both in bf16."""
MASTER, GRADIENT, MOMENTS = 4, 4, 8
LOGIT_FP32 = 8


class Layout(BaseModel, frozen=True, extra="forbid"):
    """Distribution of a model over devices."""

    replicate: int = Field(default=1, ge=1)
    """HSDP's outer degree: copies of the sharded model."""
    shard: int = Field(default=1, ge=1)
    """FSDP's degree."""
    tp: int = Field(default=1, ge=1)
    """Tensor-parallel degree."""
    pp: int = Field(default=1, ge=1)
    """Pipeline stages."""
    cp: int = Field(default=1, ge=1)
    """Context-parallel degree: parts of a sequence."""
    ep: int = Field(default=1, ge=1)
    """Expert-parallel degree, taken from shard x cp."""
    micro_batch: int = Field(default=1, ge=1)
    """Sequences per pass on one data-parallel rank."""
    checkpointing: Literal["none", "selective", "full"] = "none"
    """Activations recomputed in the backward pass: none, cheap ones, or all of a layer."""

    @model_validator(mode="after")
    def _check_experts(self) -> Self:
        if (self.shard * self.cp) % self.ep:
            raise ValueError(f"ep {self.ep} must divide shard x cp = {self.shard * self.cp}")
        return self

    @property
    def n_devices(self) -> int:
        """Total number of devices."""
        return self.replicate * self.shard * self.tp * self.pp * self.cp

    @property
    def data_ranks(self) -> int:
        """Number of different micro-batches that run in parallel."""
        return self.replicate * self.shard


class Memory(BaseModel, frozen=True):
    """Bytes on the fullest device."""

    masters: float
    gradients: float
    moments: float
    gathered: float
    activations: float
    logits: float

    @computed_field
    @property
    def total(self) -> float:
        """Sum of all parts."""
        return sum((self.masters, self.gradients, self.moments, self.gathered, self.activations, self.logits))


def check_layout(config: ModelConfig, layout: Layout) -> None:
    """Check that the model's sizes are divisible as the layout requires.

    Raises:
        UserError: A degree does not fit; the message names it and the valid choices.
    """
    if layout.pp > config.num_hidden_layers:
        raise UserError(f"pp {layout.pp} is more than the model's {config.num_hidden_layers} layers; lower pp")
    divided = {
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
    }
    for name, size in divided.items():
        if size % layout.tp:
            raise UserError(f"tp {layout.tp} does not divide {name} {size}: choose tp among its divisors")
    n_experts = config.n_routed_experts or 0
    if layout.ep > 1 and (not config.has_experts or n_experts % layout.ep):
        raise UserError(
            f"ep {layout.ep} does not divide n_routed_experts {n_experts}: choose ep among its divisors, "
            f"or 1 for a model without experts"
        )


def parse_layout(text: str) -> Layout:
    """Parse a layout such as "shard=8,tp=2,checkpointing=full".

    Raises:
        UserError: A degree is unknown or invalid.
    """
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    try:
        return Layout.model_validate({key.strip(): value.strip() for key, _, value in pairs})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(map(str, fault["loc"])) or "layout"
        known = ", ".join(Layout.model_fields)
        raise UserError(f"layout {text!r}: {key}: {reason_of(fault)}; write NAME=N,... of {known}") from error


def training_memory(config: ModelConfig, layout: Layout, context: int, precision: str = "bf16") -> Memory:
    """Return the bytes on the fullest device.

    Raises:
        UserError: The layout does not fit the model, or the precision is unknown.
    """
    _check(config, layout, context, precision)
    value_bytes, shards = VALUE_BYTES[precision], layout.shard * layout.cp
    by_layer = _layer_weights(config)
    stage = max(_stages(config, layout, by_layer), key=lambda stage: stage.n_parameters)
    a_device = stage.n_parameters / layout.tp
    if shards > 1 and layout.pp > 1:
        gathered = (value_bytes + GRADIENT) * max(
            _gathered_stage(config, layout, by_layer, number, each)
            for number, each in enumerate(_stages(config, layout, by_layer))
        )
    elif shards > 1:
        largest = max(_gathered(config, layer, weights, layout.ep) for layer, weights in enumerate(by_layer))
        gathered = value_bytes * (3 * largest + 2 * stage.around.total) / layout.tp
    else:
        gathered = 0 if precision in ("fp32", "tf32") else value_bytes * a_device
    tokens = layout.micro_batch * context / layout.cp
    # Only the last stage computes logits, with one micro-batch in flight.
    return Memory(
        masters=MASTER * a_device / shards,
        gradients=GRADIENT * a_device / shards,
        moments=MOMENTS * a_device / shards,
        gathered=gathered,
        activations=_activations(config, layout, tokens, value_bytes),
        logits=tokens * config.vocab_size * (value_bytes + LOGIT_FP32) / layout.tp,
    )


def activation_bytes(config: ModelConfig, layer: int, value_bytes: int) -> float:
    """Return the bytes that one token in one layer keeps for the backward pass."""
    D, H, G, d = _widths(config)
    inner, chosen = _inner_and_chosen(config, layer)
    mlp = (4 if config.mlp_gated else 2) * inner
    normed = (H + G) * d if config.qk_norm else 0
    return value_bytes * (4 * D + 2 * (H + G) * d + normed + mlp + 2 * chosen * D) + 4 * H


def _activations(config: ModelConfig, layout: Layout, tokens: float, value_bytes: int) -> float:
    layers = range(config.num_hidden_layers)
    whole = [activation_bytes(config, layer, value_bytes) for layer in layers]
    kept, recomputed = whole, 0.0
    if layout.checkpointing != "none":
        kept = [_kept_bytes(config, layer, layout.checkpointing, value_bytes) for layer in layers]
        recomputed = max(whole)
    n_layers = ceil(len(kept) / layout.pp)
    held = layout.pp * max(sum(kept[at : at + n_layers]) for at in range(0, len(kept), n_layers))
    return tokens * (held + recomputed) / layout.tp


def _kept_bytes(config: ModelConfig, layer: int, checkpointing: str, value_bytes: int) -> float:
    """Return the bytes that one token in one layer keeps when the rest is recomputed."""
    D, H, G, d = _widths(config)
    if checkpointing == "full":
        return value_bytes * D
    inner, chosen = _inner_and_chosen(config, layer)
    mlp = (2 if config.mlp_gated else 1) * inner
    return value_bytes * (3 * D + 2 * (H + G) * d + mlp + chosen * D) + 4 * H


def _widths(config: ModelConfig) -> tuple[int, int, int, int]:
    """Return D, H, G and d."""
    return config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim


def _inner_and_chosen(config: ModelConfig, layer: int) -> tuple[int, int]:
    """Return the inner channels of all MLPs that a token passes, and its number of routed experts."""
    if config.mlp_layer_types[layer] == "dense":
        return config.intermediate_size, 0
    chosen = sized(config.num_experts_per_tok)
    return (chosen + config.n_shared_experts) * sized(config.moe_intermediate_size), chosen


def _layer_weights(config: ModelConfig) -> list[Weights]:
    found = [Weights() for _ in range(config.num_hidden_layers)]
    for _, layer, formula in layers(config):
        found[layer] += formula.weights(config, layer)
    return found


@dataclass(frozen=True, slots=True)
class _Stage:
    """Weights of one pipeline stage."""

    layers: Weights
    around: Weights
    """Embedding, head and final norm: FSDP's outermost group."""

    @property
    def n_parameters(self) -> int:
        return self.layers.total + self.around.total


def _stages(config: ModelConfig, layout: Layout, by_layer: list[Weights]) -> list[_Stage]:
    """Return the pipeline's stages: embedding in the first, head in the last, and one copy each if tied."""
    parts, n_layers = count_parameters(config).parts, ceil(len(by_layer) / layout.pp)
    stages = [sum(by_layer[at : at + n_layers], Weights()) for at in range(0, len(by_layer), n_layers)]
    around = [Weights() for _ in stages]
    around[0] += parts[EMBEDDING]
    around[-1] += parts[FINAL_NORM] + parts[HEAD]
    if config.norm_placement == "hyper":
        around[-1] += hyper_head(config)
    if len(stages) > 1 and config.tie_word_embeddings:
        around[-1] += parts[EMBEDDING]
    return [_Stage(*each) for each in zip(stages, around, strict=True)]


def _gathered(config: ModelConfig, layer: int, weights: Weights, ep: int) -> float:
    """Return the parameters of a layer on one rank when gathered by FSDP: 1 / ep of its experts."""
    if config.mlp_layer_types[layer] == "dense":
        return weights.total
    experts = sized(config.n_routed_experts) * mlp_weights(config, sized(config.moe_intermediate_size)).total
    return weights.total - experts + experts / ep


def _gathered_stage(
    config: ModelConfig, layout: Layout, by_layer: list[Weights], number: int, stage: _Stage
) -> float:
    """Return the parameters of a stage on one rank when gathered entirely by FSDP."""
    n_layers = ceil(len(by_layer) / layout.pp)
    own = range(number * n_layers, min((number + 1) * n_layers, len(by_layer)))
    return (sum(_gathered(config, n, by_layer[n], layout.ep) for n in own) + stage.around.total) / layout.tp


def _check(config: ModelConfig, layout: Layout, context: int, precision: str) -> None:
    if precision not in VALUE_BYTES:
        raise UserError(f"precision {precision!r} is not known; known: {', '.join(VALUE_BYTES)}")
    if context < 1:
        raise UserError(f"context {context} must be at least 1")
    check_layout(config, layout)
