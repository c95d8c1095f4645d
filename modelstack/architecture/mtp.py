"""Multi-token prediction: modules after the model that predict tokens beyond the next one.

DeepSeek-V3, arXiv 2412.19437 section 2.2; the idea is from Gloeckle et al., 2404.19737, here with the causal chain
kept. At position i, module k reads the state of the module before it (k = 0: the model) and the embedding of token
i + k + 1. It runs one decoder layer and predicts token i + k + 2. Embedding and head are the model's own. The
modules are a training signal and, after training, a draft for speculative decoding. To be trained for drafts by
recursion, the last module is applied several times, to its own states (`mtp_steps`; FastMTP, arXiv 2509.18362).

Two forms, which differ in the state:

- V3: the state is a vector after the final norm. eh_proj takes [enorm(embedding) ; hnorm(state)], in this order
  (the paper's formula has the reverse order). The next module receives the module's normed output.
- V4 (hyper-connections): the state is all streams before they are combined. hnorm norms each stream, h_proj and
  e_proj are two matrices, the embedding's part is added to every stream, and the module has its own `hc_head`.

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
    """Output of one prediction: number k has T - 1 - k positions."""

    hidden_BTD: Tensor
    """States after the module's norm, the input of the head."""
    is_whole_BT: Tensor | None
    """False where state and embedding belong to two packed documents: nothing is predicted there. None: all True.
    """


class MtpModule(nn.Module):
    """Module in V3's form."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Create norms, projection and the decoder layer `layer` of `config.with_mtp_layers()`."""
        super().__init__()
        D = config.hidden_size
        self.enorm, self.hnorm = make_norm(config), make_norm(config)
        self.eh_proj = nn.Linear(2 * D, D, bias=False)
        self.block = make_block(config.with_mtp_layers(), layer)
        self.norm = make_norm(config)

    def forward(
        self, state_BTD: Tensor, embedding_BTD: Tensor, context: ForwardContext, cache: LayerCache | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the state for the next module and the input of the head: the same tensor here, [B, T, D]."""
        x = self.eh_proj(torch.cat((self.enorm(embedding_BTD), self.hnorm(state_BTD)), dim=-1))
        hidden = self.norm(self.block(x, context, cache))
        return hidden, hidden


class HyperMtpModule(nn.Module):
    """Module in V4's form: states are streams."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Create norms, projections, `hc_head` and the decoder layer `layer` of `config.with_mtp_layers()`."""
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
        """Return the streams for the next module, [B, T, n, D], and the input of the head, [B, T, D]."""
        x = self.h_proj(self.hnorm(state_BTnD)) + self.e_proj(self.enorm(embedding_BTD)).unsqueeze(2)
        x = self.block(x, context, cache)
        return x, self.norm(self.hc_head(x))


class DraftVocabulary(nn.Module):
    """The tokens that drafts consist of, with their rows of the model's head (EAGLE-3, arXiv 2503.01840)."""

    ids: Tensor
    """Ids of the tokens, [N]."""

    def __init__(self, head: nn.Linear, ids: Tensor) -> None:
        """Copy the rows of `ids` from a head."""
        super().__init__()
        rows = head.weight.detach()[ids]
        self.head = nn.Linear(rows.shape[1], rows.shape[0], bias=False, device="meta")
        self.head.weight = nn.Parameter(rows, requires_grad=False)
        self.register_buffer("ids", ids.to(rows.device), persistent=False)


class MultiTokenPrediction(nn.ModuleList):
    """All multi-token prediction modules of a model."""

    def __init__(self, config: ModelConfig) -> None:
        """Create `num_nextn_predict_layers` modules."""
        make = HyperMtpModule if config.norm_placement == "hyper" else MtpModule
        first = config.num_hidden_layers
        super().__init__(make(config, first + k) for k in range(config.num_nextn_predict_layers))
        self.n_predictions = config.n_mtp_predictions

    def forward(self, state: Tensor, embedding_BTD: Tensor, context: ForwardContext) -> list[MtpOutput]:
        """Run the chain of modules over whole sequences; the last one again for each further step.

        Args:
            state: The model's state at every token, [B, T, D] or [B, T, n, D].
            embedding_BTD: Embedding of every token.
            context: The model's context. Routing of module k is stored in it under layer L + k, that of further
                steps is not.

        Raises:
            UserError: The sequences have too few tokens.
        """
        if context.n_tokens <= self.n_predictions:
            raise UserError(
                f"{context.n_tokens} tokens are too few for {self.n_predictions} multi-token predictions; "
                f"give at least {self.n_predictions + 1}"
            )
        outputs = []
        for k in range(self.n_predictions):
            shifted = ahead(context, k)
            if k >= len(self):
                shifted.routing, shifted.forced_experts = {}, {}
            module = self[min(k, len(self) - 1)]
            state, hidden = module(state[:, :-1], embedding_BTD[:, k + 1 :], shifted)
            outputs.append(MtpOutput(hidden, same_document(context.documents_BT, k + 1)))
        return outputs

    def new_cache(self) -> Cache:
        """Return an empty cache for drafting with the first module."""
        return Cache([self[0].block.self_attn.new_cache()])  # pyright: ignore

    def draft(
        self, state: Tensor, embedding_BTD: Tensor, context: ForwardContext, cache: Cache
    ) -> tuple[Tensor, Tensor]:
        """Run the first module on tokens that follow its cache; return its states and the input of the head."""
        return self[0](state, embedding_BTD, context, cache.layers[0])


def ahead(context: ForwardContext, k: int) -> ForwardContext:
    """Return the context of module k: tokens k + 1 onward, with the documents of the states.

    If state and embedding belong to different documents, the result is meaningless. This concerns only the last
    positions of a document, so no other position attends to them.
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
    """Return whether the token `shift` later belongs to the same document, bool [B, T - shift]."""
    return None if documents_BT is None else documents_BT[:, shift:] == documents_BT[:, :-shift]


_OURS = re.compile(r"mtp\.(\d+)\.(.+)")
_V3_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_V3_OWN = ("enorm.", "hnorm.", "eh_proj.")
_V4_OWN = ("enorm.", "hnorm.", "e_proj.", "h_proj.", "norm.")
_V3_SHARED = ("embed_tokens.", "shared_head.head.")
"""Name prefixes of the copies of the model's embedding and head in V3's files."""


def released_name(name: str, config: ModelConfig) -> str:
    """Return the name of a tensor in DeepSeek's files; tensors outside the modules keep their name.

    V3's modules are layers L, L + 1, ... of the model, V4's are `mtp.0`, ... The names inside the layer stay
    transformers', so name changes that a file format applies to `model.layers.N.` apply to them too.
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
