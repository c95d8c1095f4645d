"""Multi-token prediction: modules behind the model that look further ahead than the next token.

DeepSeek-V3, arXiv 2412.19437 section 2.2; the idea is Gloeckle et al.'s, 2404.19737, with the causal chain kept.
Module k reads, at position i, the state that the module before it (k = 0: the model) left there and the embedding
of token i + k + 1, runs one decoder layer and predicts token i + k + 2; embedding and head are the model's own. A
training signal, and after training a draft for speculative decoding.

Two forms, by what a state is:
- V3: a vector after the final norm. eh_proj takes [enorm(embedding) ; hnorm(state)], in this order (the paper's
  formula has it the other way round), and what is passed on is the module's normed output.
- V4 (hyper-connections): all streams before they are collapsed. hnorm norms each, h_proj and e_proj are two
  matrices, the embedding's part is added to every stream, and the module has a collapse of its own.

Letters: B batch, T tokens, D model width, n streams, L layers of the model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modelstack.architecture.blocks import make_block
from modelstack.architecture.cache import Cache, LayerCache
from modelstack.architecture.config import ModelConfig
from modelstack.architecture.context import ForwardContext
from modelstack.architecture.hyper_connections import HyperHead
from modelstack.architecture.norms import make_norm
from modelstack.errors import UserError


@dataclass(slots=True)
class MtpOutput:
    """What one module says: module k has T - 1 - k positions."""

    hidden_BTD: Tensor
    """After the module's norm: what the head reads."""
    is_whole_BT: Tensor | None
    """False where state and embedding are of two packed documents: nothing is predicted there. None: all are."""


class MtpModule(nn.Module):
    """One more layer ahead, V3's form."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Make norms, projection and the decoder layer `layer` of `config.with_mtp_layers()`."""
        super().__init__()
        D = config.hidden_size
        self.enorm, self.hnorm = make_norm(config), make_norm(config)
        self.eh_proj = nn.Linear(2 * D, D, bias=False)
        self.block = make_block(config.with_mtp_layers(), layer)
        self.norm = make_norm(config)

    def forward(
        self, state_BTD: Tensor, embedding_BTD: Tensor, context: ForwardContext, cache: LayerCache | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the state for the next module and what the head reads: here the same, [B, T, D]."""
        x = self.eh_proj(torch.cat((self.enorm(embedding_BTD), self.hnorm(state_BTD)), dim=-1))
        hidden = self.norm(self.block(x, context, cache))
        return hidden, hidden


class HyperMtpModule(nn.Module):
    """One more layer ahead, V4's form: states are streams."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Make norms, projections, collapse and the decoder layer `layer` of `config.with_mtp_layers()`."""
        super().__init__()
        D = config.hidden_size
        self.enorm, self.hnorm = make_norm(config), make_norm(config)
        self.e_proj = nn.Linear(D, D, bias=False)
        self.h_proj = nn.Linear(D, D, bias=False)
        self.block = make_block(config.with_mtp_layers(), layer)
        self.hc_head = HyperHead(config)
        self.norm = make_norm(config)

    def forward(
        self, state_BTnD: Tensor, embedding_BTD: Tensor, context: ForwardContext, cache: LayerCache | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the streams for the next module, [B, T, n, D], and what the head reads, [B, T, D]."""
        x = self.h_proj(self.hnorm(state_BTnD)) + self.e_proj(self.enorm(embedding_BTD)).unsqueeze(2)
        x = self.block(x, context, cache)
        return x, self.norm(self.hc_head(x))


class MultiTokenPrediction(nn.ModuleList):
    """All modules of a model."""

    def __init__(self, config: ModelConfig) -> None:
        """Make `num_nextn_predict_layers` modules."""
        make = HyperMtpModule if config.norm_placement == "hyper" else MtpModule
        first = config.num_hidden_layers
        super().__init__(make(config, first + k) for k in range(config.num_nextn_predict_layers))

    def forward(self, state: Tensor, embedding_BTD: Tensor, context: ForwardContext) -> list[MtpOutput]:
        """Run the chain over whole sequences.

        Args:
            state: The model's at every token, [B, T, D] or [B, T, n, D].
            embedding_BTD: Of every token.
            context: The model's. Routing of module k is left in it under layer L + k.

        Raises:
            UserError: The sequences are too short to look ahead in.
        """
        if context.n_tokens <= len(self):
            raise UserError(
                f"{context.n_tokens} tokens are too few for {len(self)} multi-token prediction modules; "
                f"give at least {len(self) + 1}"
            )
        outputs = []
        for k, module in enumerate(self):
            state, hidden = module(state[:, :-1], embedding_BTD[:, k + 1 :], ahead(context, k))
            outputs.append(MtpOutput(hidden, same_document(context.documents_BT, k + 1)))
        return outputs

    def new_cache(self) -> Cache:
        """Return an empty memory for drafting with the first module."""
        return Cache([self[0].block.self_attn.new_cache()])  # pyright: ignore

    def draft(self, state: Tensor, embedding_BTD: Tensor, context: ForwardContext, cache: Cache) -> Tensor:
        """Run the first module on tokens that follow what its cache holds; return [B, T, D] for the head."""
        return self[0](state, embedding_BTD, context, cache.layers[0])[1]


def ahead(context: ForwardContext, k: int) -> ForwardContext:
    """Return what module k sees of a call: tokens k + 1 onward, in the documents of the states that they join.

    Where the two are of different documents the result is worth nothing. Those are the last places of a document,
    so no other place looks at them.
    """
    shift = k + 1
    documents = context.documents_BT
    return ForwardContext(
        context.token_ids_BT[:, shift:],
        context.positions_BT[:, shift:],
        documents_BT=None if documents is None else documents[:, :-shift],
        forced_experts=context.forced_experts,
        routing=context.routing,
    )


def same_document(documents_BT: Tensor | None, shift: int) -> Tensor | None:
    """Return whether the token `shift` later is of the same document, bool [B, T - shift]."""
    return None if documents_BT is None else documents_BT[:, shift:] == documents_BT[:, :-shift]


_OURS = re.compile(r"mtp\.(\d+)\.(.+)")
_V3_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_V3_OWN = ("enorm.", "hnorm.", "eh_proj.")
_V4_OWN = ("enorm.", "hnorm.", "e_proj.", "h_proj.", "norm.")
_V3_SHARED = ("embed_tokens.", "shared_head.head.")
"""Copies of the model's embedding and head that V3's files hold."""


def released_name(name: str, config: ModelConfig) -> str:
    """Return the name that a tensor has in DeepSeek's files; what is not of a module keeps its name.

    V3's modules are layers L, L + 1, ... of the model, V4's are `mtp.0`, ... The names inside the layer stay
    transformers': whatever a file's format does to `model.layers.N.` it does to these too.
    """
    found = _OURS.fullmatch(name)
    if found is None:
        return name
    k, rest = int(found[1]), found[2].removeprefix("block.")
    if config.norm_placement == "hyper":
        return f"mtp.{k}.{rest.replace('hc_head.hc_', 'hc_head_')}"
    return f"model.layers.{config.num_hidden_layers + k}.{'shared_head.' * (rest == 'norm.weight')}{rest}"


def name_in_model(released: str, config: ModelConfig) -> str | None:
    """Return our name of a tensor in DeepSeek's files; None for copies of the model's embedding and head.

    The inverse of `released_name`.
    """
    is_hyper = config.norm_placement == "hyper"
    found = (_OURS if is_hyper else _V3_LAYER).fullmatch(released)
    if found is None:
        return released
    k, rest = int(found[1]) - (0 if is_hyper else config.num_hidden_layers), found[2]
    if not 0 <= k < config.num_nextn_predict_layers:
        return released
    if rest.startswith(_V3_SHARED):
        return None
    if rest.startswith("shared_head.norm."):
        return f"mtp.{k}.{rest.removeprefix('shared_head.')}"
    if rest.startswith("hc_head_"):
        return f"mtp.{k}.{rest.replace('hc_head_', 'hc_head.hc_')}"
    is_own = rest.startswith(_V4_OWN if is_hyper else _V3_OWN)
    return f"mtp.{k}.{rest}" if is_own else f"mtp.{k}.block.{rest}"
