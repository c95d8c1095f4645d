"""The model: embedding, blocks, final norm, head. It knows nothing of devices, precision or parallelism.

Parameter names are transformers' (`model.layers.0.self_attn.q_proj.weight`), so its state dicts load strictly.

Letters: B batch, T tokens of this call, P places, D model width, n streams, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from modelstack.architecture.blocks import make_block
from modelstack.architecture.cache import Cache
from modelstack.architecture.config import ModelConfig
from modelstack.architecture.context import ForwardContext, IndexDivergence, Routing
from modelstack.architecture.hyper_connections import HyperHead, expand
from modelstack.architecture.mtp import MtpOutput, MultiTokenPrediction
from modelstack.architecture.norms import make_norm
from modelstack.errors import UserError


@dataclass(slots=True)
class ModelOutput:
    """What a forward pass gives."""

    logits_BTV: Tensor
    """Soft-capped where the config says so; T is 1 where only the last was asked for, 0 where none."""
    hidden_BTD: Tensor
    """After the final norm."""
    routing: dict[int, Routing]
    """What each routing layer decided, by layer."""
    mtp_state: Tensor
    """Where multi-token prediction starts: the hidden states, or all streams [B, T, n, D]."""
    mtp: list[MtpOutput] = field(default_factory=list)
    """What each module for multi-token prediction says, where asked for."""
    index_divergence: dict[int, IndexDivergence] = field(default_factory=dict)
    """Divergences of the indexers that are trained, by layer; empty without gradients or with a cache."""


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

    def forward(
        self, context: ForwardContext, cache: Cache | None = None, places_P: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the states after the final norm, [B, T, D], and where multi-token prediction starts.

        That is the same, or with hyper-connections the streams [B, T, n, D]. Of `places_P` alone: [1, P, D].
        """
        x = self.begin(self.embed(context.token_ids_BT))
        last = len(self.layers) - 1
        for layer, block in enumerate(self.layers):
            only = () if places_P is None or layer < last else (places_P,)
            x = block(x, context, cache.layers[layer] if cache else None, *only)
        return self.end(x)

    def begin(self, embedding_BTD: Tensor) -> Tensor:
        """Return what the first block reads: the embedding, or with hyper-connections a copy for each stream."""
        is_hyper = self.config.norm_placement == "hyper"
        return expand(embedding_BTD, self.config.hc_mult) if is_hyper else embedding_BTD

    def end(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `forward` does, from what the last block leaves."""
        if self.hc_head is not None:
            return self.norm(self.hc_head(x)), x
        x = self.norm(x)
        return x, x

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
        self.mtp = MultiTokenPrediction(config) if config.num_nextn_predict_layers else None
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
        with_logits: bool = True,
        with_mtp: bool = False,
        places_P: Tensor | None = None,
    ) -> ModelOutput:
        """Run the model on tokens that follow what the cache holds.

        Args:
            token_ids_BT: int64.
            cache: Memory of the tokens before; it takes up these. None: there are none and nothing is kept.
            documents_BT: A number for each packed document: tokens see their own only.
            positions_BT: Positions; by default they count on from the cache, anew in each packed document.
            forced_experts: Expert choices [B * T, k] by layer, instead of the routers' own.
            last_only: Compute the logits of the last token alone.
            with_logits: False: none. A loss takes the hidden states and makes the logits in pieces.
            with_mtp: Run the modules for multi-token prediction too; without a cache.
            places_P: Flat places whose states are asked for, where `can_choose_places`; the last layer leaves out
                what only the others need, and the output is of one row, T = P. None: all.

        Raises:
            UserError: Documents were given together with a cache; the model has no modules for multi-token
                prediction, or they were asked for together with a cache.
        """
        if with_mtp and cache is not None:
            raise UserError("with_mtp is for whole sequences without a cache; with one, call draft")
        context = make_context(token_ids_BT, cache, documents_BT, positions_BT, forced_experts)
        hidden, mtp_state = self.model(context, cache, places_P)
        if cache is not None:
            cache.n_tokens += token_ids_BT.shape[1]
        if with_logits:
            logits = self.logits(hidden[:, -1:] if last_only else hidden)
        else:
            logits = hidden.new_empty(len(hidden), 0, self.config.vocab_size)
        output = ModelOutput(logits, hidden, context.routing, mtp_state, index_divergence=context.index_divergence)
        if with_mtp:
            output.mtp = self._modules_ahead()(mtp_state, self.model.embed(token_ids_BT), context)
        return output

    @property
    def can_choose_places(self) -> bool:
        """Whether only the states at some places need be computed: no loss looks at what the others do."""
        config = self.config
        is_plain = config.norm_placement != "hyper" and not config.has_experts
        return is_plain and self.mtp is None

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Return the head's logits, [B, T, V], soft-capped where the config says so."""
        logits = self.lm_head(hidden_BTD)
        cap = self.config.final_logit_softcapping
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def new_draft_cache(self) -> Cache:
        """Return an empty memory for `draft`.

        Raises:
            UserError: The model has no module for multi-token prediction.
        """
        return self._modules_ahead().new_cache()

    def draft(self, mtp_state: Tensor, next_token_ids_BT: Tensor, cache: Cache) -> Tensor:
        """Return logits for the token after the next, [B, 1, V]: the first module's guess.

        Every token that stays in the text is given once, so the draft's memory has nothing to take back: after the
        prompt all its states with the tokens that follow them, the last of which has just been sampled; then,
        after each step, the states of the tokens that were accepted.

        Args:
            mtp_state: Of T tokens, as `ModelOutput.mtp_state` has them.
            next_token_ids_BT: The token that follows each of them.
            cache: From `new_draft_cache`; it takes up these.

        Raises:
            UserError: The model has no module for multi-token prediction.
        """
        modules, T = self._modules_ahead(), next_token_ids_BT.shape[1]
        first = cache.n_tokens + 1  # the tokens' own positions: one past their states'
        positions = torch.arange(first, first + T, device=next_token_ids_BT.device)[None]
        context = make_context(next_token_ids_BT, cache, positions_BT=positions)
        hidden = modules.draft(mtp_state, self.model.embed(next_token_ids_BT), context, cache)
        cache.n_tokens += T
        return self.logits(hidden[:, -1:])

    def _modules_ahead(self) -> MultiTokenPrediction:
        if self.mtp is None:
            raise UserError(
                "this model has no module for multi-token prediction: num_nextn_predict_layers is 0 in its config"
            )
        return self.mtp


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
