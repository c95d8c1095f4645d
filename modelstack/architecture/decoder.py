"""The model: embedding, blocks, final norm, head. It is independent of devices, precision and parallelism.

Parameter names are transformers' (`model.layers.0.self_attn.q_proj.weight`), so its state dicts load strictly.

Letters: B batch, T tokens of this call, P positions, D model width, n streams, V vocabulary.
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
from modelstack.architecture.mtp import DraftVocabulary, MtpOutput, MultiTokenPrediction
from modelstack.architecture.norms import make_norm
from modelstack.errors import UserError


@dataclass(slots=True)
class ModelOutput:
    """Result of a forward pass."""

    logits_BTV: Tensor
    """Logits, soft-capped if the config says so; T is 1 with `last_only`, 0 without logits."""
    hidden_BTD: Tensor
    """Hidden states after the final norm."""
    routing: dict[int, Routing]
    """Routing decision of each routing layer, by layer."""
    mtp_state: Tensor
    """Input of multi-token prediction: the hidden states [B, T, D], or all streams [B, T, n, D]."""
    mtp: list[MtpOutput] = field(default_factory=list)
    """Output of each multi-token prediction module; empty unless requested."""
    index_divergence: dict[int, IndexDivergence] = field(default_factory=dict)
    """Divergences of the trained indexers by layer; empty without gradients or with a cache."""


class Decoder(nn.Module):
    """Map token ids to hidden states."""

    def __init__(self, config: ModelConfig) -> None:
        """Create embedding, blocks and norm."""
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(make_block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = make_norm(config)
        self.hc_head = HyperHead(config) if config.norm_placement == "hyper" else None

    def forward(
        self, context: ForwardContext, cache: Cache | None = None, places_P: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the states after the final norm [B, T, D], and the input of multi-token prediction.

        The second result equals the first, or with hyper-connections is the streams [B, T, n, D]. With `places_P`
        the states are computed at these positions only: [1, P, D].
        """
        x = self.begin(self.embed(context.token_ids_BT))
        last = len(self.layers) - 1
        for layer, block in enumerate(self.layers):
            only = () if places_P is None or layer < last else (places_P,)
            x = block(x, context, cache.layers[layer] if cache else None, *only)
        return self.end(x)

    def begin(self, embedding_BTD: Tensor) -> Tensor:
        """Return the input of the first block: the embedding, or with hyper-connections one copy per stream."""
        is_hyper = self.config.norm_placement == "hyper"
        return expand(embedding_BTD, self.config.hc_mult) if is_hyper else embedding_BTD

    def end(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two results of `forward`, computed from the output of the last block."""
        if self.hc_head is not None:
            return self.norm(self.hc_head(x)), x
        x = self.norm(x)
        return x, x

    def embed(self, token_ids_BT: Tensor) -> Tensor:
        """Return the embeddings [B, T, D]."""
        x = self.embed_tokens(token_ids_BT)
        if self.config.scale_embeddings:
            # Gemma rounds the factor to the weights' type.
            x = x * torch.tensor(self.config.hidden_size**0.5, dtype=x.dtype, device=x.device)
        return x


class CausalLM(nn.Module):
    """A decoder with a language-modelling head."""

    def __init__(self, config: ModelConfig) -> None:
        """Create the model with torch's default weights; `initialise` applies the config's initial weights."""
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.mtp = MultiTokenPrediction(config) if config.num_nextn_predict_layers else None
        self.draft_vocabulary: DraftVocabulary | None = None
        """Tokens that drafts consist of; None: all."""
        self.tie_weights()

    def tie_weights(self) -> None:
        """Make head and embedding one tensor if the config ties them; call again after loading with `assign`."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def new_cache(self) -> Cache:
        """Return an empty cache for one batch."""
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
        """Run the model on tokens that follow the tokens in the cache.

        Args:
            token_ids_BT: Token ids, int64.
            cache: Cache of the earlier tokens, extended by this call. None: there are no earlier tokens and none
                are stored.
            documents_BT: Document number of each token; tokens see only their own document.
            positions_BT: Positions; default: counted from the end of the cache, restarting in each packed
                document.
            forced_experts: Expert choices [B * T, k] by layer that replace the routers' choices.
            last_only: Compute the logits of the last token only.
            with_logits: False: compute no logits. A loss takes the hidden states and computes logits in chunks.
            with_mtp: Also run the multi-token prediction modules; not supported with a cache.
            places_P: Flat positions whose states are needed; requires `can_choose_places`. The last layer skips
                all other positions, and the output has one row with T = P. None: all positions.

        Raises:
            UserError: Documents were given together with a cache, the model has no multi-token prediction modules,
                or they were requested together with a cache.
        """
        if with_mtp and cache is not None:
            raise UserError("with_mtp cannot be used with a cache; call draft instead")
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
        """Whether the model can compute states at selected positions only: no loss reads the other positions."""
        config = self.config
        is_plain = config.norm_placement != "hyper" and not config.has_experts
        return is_plain and self.mtp is None

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Return the head's logits [B, T, V], soft-capped if the config says so."""
        logits = self.lm_head(hidden_BTD)
        cap = self.config.final_logit_softcapping
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def new_draft_cache(self) -> Cache:
        """Return an empty cache for `draft`.

        Raises:
            UserError: The model has no multi-token prediction module.
        """
        return self._modules_ahead().new_cache()

    def draft(
        self, mtp_state: Tensor, next_token_ids_BT: Tensor, cache: Cache, *, start: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return the first module's logits for the token after the next, and its last state.

        The logits are [B, 1, V], or [B, 1, N] over the tokens of `draft_vocabulary`.

        After the prompt, pass all its states with the tokens that follow them; the last such token was just
        sampled. After each step, pass the states of the accepted tokens. To draft one token more, pass the
        module's last state with the drafted token, and drop both from the cache afterwards.

        Args:
            mtp_state: States of T tokens, as in `ModelOutput.mtp_state`.
            next_token_ids_BT: The token that follows each of them.
            cache: Cache from `new_draft_cache`, extended by this call.
            start: Position of the first state that the cache was given.

        Raises:
            UserError: The model has no multi-token prediction module.
        """
        modules, T = self._modules_ahead(), next_token_ids_BT.shape[1]
        first = start + cache.n_tokens + 1  # positions of these tokens: one after the positions of their states
        positions = torch.arange(first, first + T, device=next_token_ids_BT.device)[None]
        context = make_context(next_token_ids_BT, cache, positions_BT=positions)
        state, hidden = modules.draft(mtp_state, self.model.embed(next_token_ids_BT), context, cache)
        cache.n_tokens += T
        return self.draft_logits(hidden[:, -1:]), state[:, -1:]

    def draft_logits(self, hidden_BTD: Tensor) -> Tensor:
        """Return the logits of the tokens that drafts consist of."""
        return self.logits(hidden_BTD) if self.draft_vocabulary is None else self.draft_vocabulary.head(hidden_BTD)

    def draft_ids(self, choices: Tensor) -> Tensor:
        """Return the token ids of places in the logits of drafts."""
        return choices if self.draft_vocabulary is None else self.draft_vocabulary.ids[choices]

    def _modules_ahead(self) -> MultiTokenPrediction:
        if self.mtp is None:
            raise UserError(
                "this model has no multi-token prediction module: num_nextn_predict_layers is 0 in its config"
            )
        return self.mtp


def make_context(
    token_ids_BT: Tensor,
    cache: Cache | None = None,
    documents_BT: Tensor | None = None,
    positions_BT: Tensor | None = None,
    forced_experts: Mapping[int, Tensor] | None = None,
) -> ForwardContext:
    """Return the shared data of one call.

    Raises:
        UserError: Documents were given together with a cache.
    """
    if cache is not None and documents_BT is not None:
        raise UserError(
            "packed documents cannot be used with a cache; decode each document as a separate sequence"
        )
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
