"""The model: embedding, blocks, final norm, head. It knows nothing of devices, precision or parallelism.

Parameter names are transformers' (`model.layers.0.self_attn.q_proj.weight`), so its state dicts load strictly.

Letters: B batch, T tokens of this call, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modelstack.architecture.blocks import make_block
from modelstack.architecture.cache import Cache
from modelstack.architecture.config import ModelConfig
from modelstack.architecture.context import ForwardContext, Routing
from modelstack.architecture.hyper_connections import HyperHead, expand
from modelstack.architecture.norms import make_norm
from modelstack.errors import UserError


@dataclass(slots=True)
class ModelOutput:
    """What a forward pass gives."""

    logits_BTV: Tensor
    """Soft-capped where the config says so; T is 1 where only the last was asked for."""
    hidden_BTD: Tensor
    """After the final norm."""
    routing: dict[int, Routing]
    """What each routing layer decided, by layer."""


class Decoder(nn.Module):
    """Token ids to hidden states."""

    def __init__(self, config: ModelConfig) -> None:
        """Make embedding, blocks and norm."""
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(make_block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = make_norm(config)
        self.hc_head = HyperHead(config) if config.norm_placement == "hyper" else None

    def forward(self, context: ForwardContext, cache: Cache | None = None) -> Tensor:
        """Return the states after the final norm, [B, T, D]."""
        x = self.embed(context.token_ids_BT)
        if self.hc_head is not None:
            x = expand(x, self.config.hc_mult)
        for layer, block in enumerate(self.layers):
            x = block(x, context, cache.layers[layer] if cache else None)
        if self.hc_head is not None:
            x = self.hc_head(x)
        return self.norm(x)

    def embed(self, token_ids_BT: Tensor) -> Tensor:
        """Return [B, T, D]."""
        x = self.embed_tokens(token_ids_BT)
        if self.config.scale_embeddings:
            # Gemma rounds the factor to the weights' type.
            x = x * torch.tensor(self.config.hidden_size**0.5, dtype=x.dtype, device=x.device)
        return x


class CausalLM(nn.Module):
    """A decoder with a language-modelling head."""

    def __init__(self, config: ModelConfig) -> None:
        """Make the model with torch's default values; `initialise` gives it the config's."""
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Let head and embedding be one tensor where the config says so; again after a load that assigns."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def new_cache(self) -> Cache:
        """Return an empty memory for one batch."""
        return Cache([block.self_attn.new_cache() for block in self.model.layers])  # pyright: ignore

    def forward(
        self,
        token_ids_BT: Tensor,
        *,
        cache: Cache | None = None,
        documents_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        forced_experts: Mapping[int, Tensor] | None = None,
        last_only: bool = False,
    ) -> ModelOutput:
        """Run the model on tokens that follow what the cache holds.

        Args:
            token_ids_BT: int64.
            cache: Memory of the tokens before; it takes up these. None: there are none and nothing is kept.
            documents_BT: A number for each packed document: tokens see their own only.
            positions_BT: Positions; by default they count on from the cache, anew in each packed document.
            forced_experts: Expert choices [B * T, k] by layer, instead of the routers' own.
            last_only: Compute the logits of the last token alone.

        Raises:
            UserError: Documents were given together with a cache.
        """
        context = make_context(token_ids_BT, cache, documents_BT, positions_BT, forced_experts)
        hidden = self.model(context, cache)
        if cache is not None:
            cache.n_tokens += token_ids_BT.shape[1]
        logits = self.logits(hidden[:, -1:] if last_only else hidden)
        return ModelOutput(logits, hidden, context.routing)

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Return the head's logits, [B, T, V], soft-capped where the config says so."""
        logits = self.lm_head(hidden_BTD)
        cap = self.config.final_logit_softcapping
        return logits if cap is None else torch.tanh(logits / cap) * cap


def make_context(
    token_ids_BT: Tensor,
    cache: Cache | None = None,
    documents_BT: Tensor | None = None,
    positions_BT: Tensor | None = None,
    forced_experts: Mapping[int, Tensor] | None = None,
) -> ForwardContext:
    """Return the shared facts of one call.

    Raises:
        UserError: Documents were given together with a cache.
    """
    if cache is not None and documents_BT is not None:
        raise UserError("packed documents cannot be used with a cache; decode them as sequences of their own")
    n_past = cache.n_tokens if cache else 0
    if positions_BT is None:
        T, device = token_ids_BT.shape[1], token_ids_BT.device
        positions_BT = torch.arange(n_past, n_past + T, device=device)[None]
        if documents_BT is not None:
            positions_BT = document_positions(documents_BT)
    return ForwardContext(token_ids_BT, positions_BT, n_past, documents_BT, dict(forced_experts or {}))


def document_positions(documents_BT: Tensor) -> Tensor:
    """Return each token's position in its document, [B, T]; a document is a run of equal numbers."""
    index = torch.arange(documents_BT.shape[1], device=documents_BT.device).expand_as(documents_BT)
    is_first = torch.ones_like(documents_BT, dtype=torch.bool)
    is_first[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    start = torch.where(is_first, index, 0).cummax(1).values
    return index - start
