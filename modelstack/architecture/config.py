"""The configuration of a model: every architecture decision, with Hugging Face's key names.

transformers has a different class of keys for each family and leaves half of the decisions implied by
`model_type`. Here each decision is a field. `presets` translate a family's `config.json` to this config and back.
Plain data: no torch.

Letters: L layers, D `hidden_size`, H `num_attention_heads`, G `num_key_value_heads`, d `head_dim`, V `vocab_size`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from modelstack.errors import UserError, reason_of

LayerType = Literal[
    "full_attention",
    "sliding_attention",
    "latent_attention",
    "shared_kv_sliding_attention",
    "compressed_sparse_attention",
    "heavily_compressed_attention",
    "linear_attention",
]
"""Token mixer of a layer; `attention.registry` has a class for each."""
MlpType = Literal["dense", "moe", "hash_moe"]
RopeType = Literal["default", "linear", "ntk", "dynamic", "llama3", "yarn"]


class RopeParameters(BaseModel, frozen=True, extra="forbid"):
    """Rotary position embedding of one layer type; keys as in transformers' `rope_parameters`."""

    rope_type: RopeType = "default"
    rope_theta: float = 10_000.0
    partial_rotary_factor: float = 1.0
    """Fraction of the head's channels that is rotated."""
    factor: float = 1.0
    original_max_position_embeddings: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    @model_validator(mode="after")
    def _scaling_has_its_length(self) -> Self:
        if self.rope_type in ("llama3", "yarn", "dynamic") and not self.original_max_position_embeddings:
            raise ValueError(f"rope_type {self.rope_type!r} needs original_max_position_embeddings")
        if self.factor < 1:
            raise ValueError(f"rope factor {self.factor} is below 1")
        return self


class ModelConfig(BaseModel, frozen=True, extra="forbid"):
    """A decoder-only language model. Frozen; `with_(...)` returns a changed, validated copy."""

    model_type: str
    """Name in `presets.registry` of the preset that translates this config to and from Hugging Face's."""

    # -- sizes
    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    intermediate_size: int = Field(default=0, ge=0)
    """Width of dense MLPs; 0 if no layer has a dense MLP."""
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    max_position_embeddings: int = Field(default=2048, gt=0)

    # -- block of each layer
    layer_types: tuple[LayerType, ...]
    mlp_layer_types: tuple[MlpType, ...]

    # -- norms
    norm_type: Literal["rmsnorm", "rmsnorm_fp32", "rmsnorm_zero_centred", "layernorm"] = "rmsnorm"
    """`rmsnorm` rounds before it multiplies by the weight (llama), `rmsnorm_fp32` after (OLMo, DeepSeek-V4);
    `rmsnorm_zero_centred` multiplies by 1 + weight (Gemma).
    """
    rms_norm_eps: float = 1e-6
    norm_placement: Literal["pre", "post", "sandwich", "hyper"] = "pre"
    """`hyper`: pre-norm inside manifold-constrained hyper-connections."""
    qk_norm: Literal["head", "projection"] | None = None
    """`head`: over each head (Qwen3, Gemma 3); `projection`: over all heads at once (OLMo 2 and 3)."""

    # -- positions
    position_embedding: Literal["rope", "alibi", "none"] = "rope"
    rope_parameters: Mapping[str, RopeParameters] = Field(default_factory=lambda: {"default": RopeParameters()})
    """Rotary parameters by layer type; "default" applies to all layer types without an entry."""
    rope_interleave: bool = False
    """True: channels (2j, 2j+1) rotate as a pair; False: channels (j, j + r/2)."""
    no_rope_layers: tuple[int, ...] = ()
    """Hugging Face's key, with inverted meaning: 1 for a layer that rotates, 0 for one that does not; empty: all
    rotate.
    """
    alibi_bias_max: float = 8.0

    # -- softmax attention
    attention_bias: bool = False
    """Biases on q, k and v."""
    attention_out_bias: bool = False
    sliding_window: int | None = None
    """Number of tokens seen by `sliding_attention`, including the token itself."""
    query_pre_attn_scalar: float | None = None
    """Attention logits are divided by the square root of this value; None: `head_dim`."""
    attn_logit_softcapping: float | None = None
    attention_sinks: bool = False
    """A learned logit per head that contributes only to the softmax's denominator."""
    attn_output_gate: bool = False
    """The query projection also computes a sigmoid gate on the output (Qwen3-Next)."""

    # -- latent attention (DeepSeek-V2, V3); the query rank also serves V4
    q_lora_rank: int | None = None
    kv_lora_rank: int | None = None
    qk_nope_head_dim: int | None = None
    qk_rope_head_dim: int | None = None
    v_head_dim: int | None = None

    # -- compressed attention (DeepSeek-V4)
    compress_rates: Mapping[str, int] = Field(default_factory=dict)
    index_n_heads: int | None = None
    index_head_dim: int | None = None
    index_topk: int | None = None
    o_groups: int | None = None
    o_lora_rank: int | None = None

    # -- gated DeltaNet
    linear_num_key_heads: int | None = None
    linear_num_value_heads: int | None = None
    linear_key_head_dim: int | None = None
    linear_value_head_dim: int | None = None
    linear_conv_kernel_dim: int = 4

    # -- MLP
    hidden_act: Literal["silu", "gelu", "gelu_pytorch_tanh", "relu2"] = "silu"
    mlp_gated: bool = True
    """True: down(act(gate x) * up x); False: down(act(up x))."""
    mlp_bias: bool = False
    swiglu_limit: float | None = None
    """Clamp limit: the gate from above, the linear part on both sides."""
    swiglu_alpha: float | None = None
    """Enables gpt-oss's MLP: (up + 1) * gate * sigmoid(alpha * gate)."""

    # -- mixture of experts
    n_routed_experts: int | None = None
    num_experts_per_tok: int | None = None
    moe_intermediate_size: int | None = None
    n_shared_experts: int = 0
    shared_expert_gate: bool = False
    """A sigmoid gate on the shared experts (Qwen3-Next)."""
    scoring_func: Literal["softmax", "topk_softmax", "sigmoid", "sqrtsoftplus"] = "softmax"
    """`topk_softmax` computes the softmax over the selected experts' logits only (gpt-oss)."""
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    n_group: int = 1
    topk_group: int = 1
    router_bias: bool = False
    experts_layout: Literal["packed", "interleaved"] = "packed"
    """Layout of an expert's gate and up projections in one matrix: two halves (usual) or alternating rows
    (gpt-oss).
    """
    score_correction_bias: bool = False
    """Bias b of auxiliary-loss-free balancing, added to the scores for the selection only."""

    # -- hyper-connections
    hc_mult: int = 1
    hc_sinkhorn_iters: int = 20
    hc_eps: float = 1e-6

    # -- embeddings and head
    tie_word_embeddings: bool = False
    scale_embeddings: bool = False
    """Multiply embeddings by sqrt(D) (Gemma)."""
    final_logit_softcapping: float | None = None

    # -- multi-token prediction
    num_nextn_predict_layers: int = 0
    mtp_steps: int = 1
    """Number of times that training applies the last module, each further time to its own states. A module that
    drafts several tokens by recursion is trained for it by 3 (FastMTP, arXiv 2509.18362).
    """

    # -- coefficients of additional losses; 0: not computed
    z_loss_coef: float = 0.0
    router_z_loss_coef: float = 0.0
    seq_aux_loss_coef: float = 0.0
    """DeepSeek's sequence-wise balance loss."""
    mtp_loss_coef: float = 0.0
    indexer_loss_coef: float = 1.0
    """Coefficient of the lightning indexer's loss, the only loss that trains the indexer. Ignored without an
    indexer.
    """

    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        for name in ("layer_types", "mlp_layer_types"):
            n = len(getattr(self, name))
            if n != self.num_hidden_layers:
                raise ValueError(f"{name} names {n} layers, num_hidden_layers is {self.num_hidden_layers}")
        if self.no_rope_layers and len(self.no_rope_layers) != self.num_hidden_layers:
            raise ValueError(
                f"no_rope_layers has {len(self.no_rope_layers)} entries for {self.num_hidden_layers} layers"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} must be a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if "dense" in self.mlp_layer_types and not self.intermediate_size:
            raise ValueError("a dense layer needs intermediate_size")
        missing = sorted(name for name in self._needed() if getattr(self, name) is None)
        if missing:
            raise ValueError(f"{', '.join(missing)} must be set for layer types {sorted(set(self.layer_types))}")
        return self

    @model_validator(mode="after")
    def _steps_have_a_module(self) -> Self:
        if self.mtp_steps < 1:
            raise ValueError(f"mtp_steps {self.mtp_steps} must be at least 1")
        if self.mtp_steps > 1 and not self.num_nextn_predict_layers:
            raise ValueError(f"mtp_steps {self.mtp_steps} needs a module: set num_nextn_predict_layers")
        return self

    @model_validator(mode="after")
    def _experts_fit(self) -> Self:
        if not self.has_experts:
            return self
        experts, chosen = self.n_routed_experts or 0, self.num_experts_per_tok or 0
        if not 0 < chosen <= experts:
            raise ValueError(f"num_experts_per_tok {chosen} must lie in 1..n_routed_experts {experts}")
        if experts % self.n_group or self.topk_group > self.n_group:
            raise ValueError(
                f"n_group {self.n_group} must divide n_routed_experts {experts}, "
                f"and topk_group {self.topk_group} must not exceed n_group"
            )
        return self

    @model_validator(mode="after")
    def _compressed_attention_fits(self) -> Self:
        kinds = DEEPSEEK_V4_KINDS.intersection(self.layer_types)
        if not kinds:
            return self
        if self.num_key_value_heads != 1:
            raise ValueError(
                f"num_key_value_heads {self.num_key_value_heads} must be 1 for attention with shared KV"
            )
        if self.num_attention_heads % (self.o_groups or 1):
            raise ValueError(
                f"o_groups {self.o_groups} does not divide num_attention_heads {self.num_attention_heads}"
            )
        r, sizes = self.qk_rope_head_dim or 0, [self.head_dim]
        if "compressed_sparse_attention" in kinds:
            sizes.append(self.index_head_dim or 0)
        if not 0 < r <= min(sizes) or r % 2:
            raise ValueError(f"qk_rope_head_dim {r} must be even and at most the head widths {sizes}")
        for kind in sorted(kinds - {"shared_kv_sliding_attention"}):
            if self.compress_rates.get(kind, 0) < 1:
                raise ValueError(f"compress_rates must set the number of tokens per entry for {kind}")
        if any(kind in kinds and self.rope(layer) is None for layer, kind in enumerate(self.layer_types)):
            raise ValueError(
                f"layers of {', '.join(sorted(kinds))} need rope_parameters; remove them from no_rope_layers"
            )
        return self

    def _needed(self) -> set[str]:
        needed: set[str] = set()
        if "sliding_attention" in self.layer_types or "shared_kv_sliding_attention" in self.layer_types:
            needed |= {"sliding_window"}
        if "latent_attention" in self.layer_types:
            needed |= {"kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"}
        if any(kind in DEEPSEEK_V4_KINDS for kind in self.layer_types):
            needed |= {"q_lora_rank", "qk_rope_head_dim", "sliding_window", "o_groups", "o_lora_rank"}
        if "compressed_sparse_attention" in self.layer_types:
            needed |= {"index_n_heads", "index_head_dim", "index_topk"}
        if "linear_attention" in self.layer_types:
            needed |= {f"linear_{what}" for what in LINEAR_SIZES}
        if self.has_experts:
            needed |= {"n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"}
        return needed

    @property
    def has_experts(self) -> bool:
        """Whether any layer routes tokens to experts."""
        return any(kind != "dense" for kind in self.mlp_layer_types)

    @property
    def has_indexer(self) -> bool:
        """Whether any layer selects compressed entries with a lightning indexer."""
        return "compressed_sparse_attention" in self.layer_types

    @property
    def attention_scale(self) -> float:
        """Factor on the logits q.k."""
        return (self.query_pre_attn_scalar or self.head_dim) ** -0.5

    def rope(self, layer: int) -> RopeParameters | None:
        """Return the rotary parameters of a layer; None if the layer does not rotate."""
        if self.position_embedding != "rope" or (self.no_rope_layers and not self.no_rope_layers[layer]):
            return None
        kind = self.layer_types[layer]
        return self.rope_parameters.get(kind) or self.rope_parameters.get("default")

    def window(self, layer: int) -> int | None:
        """Return the number of tokens that a layer's softmax attention sees, itself included; None: all."""
        return None if self.layer_types[layer] in ("full_attention", "latent_attention") else self.sliding_window

    def with_(self, **changes: Any) -> ModelConfig:
        """Return a changed copy.

        Raises:
            UserError: A key is unknown or the resulting config is invalid.
        """
        return build({**self.model_dump(), **changes})

    @property
    def n_mtp_predictions(self) -> int:
        """Number of tokens beyond the next one that training predicts at each position."""
        return self.num_nextn_predict_layers + (self.mtp_steps - 1 if self.num_nextn_predict_layers else 0)

    def with_mtp_layers(self) -> ModelConfig:
        """Return the config with the layers of multi-token prediction appended: layer L + k belongs to module k.

        A module's layer has the type of the last layer; DeepSeek-V4's modules use the sliding window only. It is a
        mixture of experts if any layer is, routed by scores and not by a hash.
        """
        n, last = self.num_nextn_predict_layers, self.layer_types[-1]
        kind = "shared_kv_sliding_attention" if last in DEEPSEEK_V4_KINDS else last
        return self.with_(
            num_hidden_layers=self.num_hidden_layers + n,
            layer_types=self.layer_types + (kind,) * n,
            mlp_layer_types=self.mlp_layer_types + ("moe" if self.has_experts else "dense",) * n,
            no_rope_layers=self.no_rope_layers and self.no_rope_layers + self.no_rope_layers[-1:] * n,
            num_nextn_predict_layers=0,
            mtp_steps=1,
        )

    def fingerprint(self) -> str:
        """Return the SHA-256 of all decisions."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


DEEPSEEK_V4_KINDS = frozenset(
    {"shared_kv_sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"}
)
TRAINING_KEYS = {
    "z_loss_coef",
    "router_z_loss_coef",
    "seq_aux_loss_coef",
    "mtp_loss_coef",
    "mtp_steps",
    "indexer_loss_coef",
}
"""Keys that affect training only, not the function the model computes."""
LINEAR_SIZES = ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim")


def build(values: Mapping[str, Any]) -> ModelConfig:
    """Return the validated config of `values`.

    Raises:
        UserError: A key is unknown (the message names the nearest), a value has the wrong type, or sizes do not
            match.
    """
    from difflib import get_close_matches

    for key in values:
        if key not in ModelConfig.model_fields:
            nearest = get_close_matches(key, ModelConfig.model_fields, n=1)
            hint = f"; nearest: {nearest[0]!r}" if nearest else ""
            raise UserError(f"model config key {key!r} is not known{hint}")
    try:
        return ModelConfig(**values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'config'}: {reason_of(e)} (got {str(e['input'])[:80]})"
            if e["loc"]
            else reason_of(e)
            for e in error.errors()
        )
        raise UserError(f"model config: {problems}") from error
