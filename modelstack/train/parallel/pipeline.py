"""A decoder split into pipeline stages: positions of the cuts, content of a stage, data passed between stages.

Stages are runs of blocks. The first has the embedding; the last has the norm, the head and the multi-token
prediction modules. A stage creates only its own part, so no rank needs the whole model. Parameters keep the names
of the whole model (`model.layers.7...`): the stages' state dicts together are the model's, checkpoints can be
split differently, and `initialise`, which seeds by name, gives a stage the values of the whole model.

Every rank has the step's micro-batches (ids, documents, labels), so positions, masks, hash routing and forced
selections are computed locally, and only activations are sent: the hidden states or streams, and if the config
needs them,

- losses of layers (routing, indexers), summed over the layers so far: the last stage adds them to its loss, and
  their gradient flows back through the pipeline to the routers and indexers of every stage;
- the embeddings, for multi-token prediction. (With tied weights the last stage could look them up itself, but then
  torch 2.13 cannot split its weights' gradients for the zero-bubble schedules.)

A last stage with a tied head has a copy of the embedding; `pipeline_tied` keeps the copies equal.

Letters: B rows, T tokens, D model width, n streams, S stages, W ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from modelstack.architecture.blocks import make_block
from modelstack.architecture.config import ModelConfig
from modelstack.architecture.context import ForwardContext, Routing
from modelstack.architecture.counts.mtp import mtp_work
from modelstack.architecture.counts.parameters import EMBEDDING, count_parameters
from modelstack.architecture.counts.registry import layers
from modelstack.architecture.counts.terms import Span, block_work
from modelstack.architecture.decoder import CausalLM, Decoder, ModelOutput, make_context
from modelstack.architecture.hyper_connections import HyperHead
from modelstack.architecture.losses import count_labels, layer_loss_names, layer_losses, total_loss
from modelstack.architecture.mtp import MultiTokenPrediction
from modelstack.architecture.norms import make_norm
from modelstack.errors import UserError
from modelstack.train.parallel.pipeline_schedules import stages_by_rank

Observer = Callable[[Mapping[int, Routing], Mapping[str, Tensor], Tensor], None]
"""Called for each micro-batch of a stage with its routing, the parts of the loss (last stage only, detached), and
the mask of tokens that are not padding.
"""


class StageDecoder(Decoder):
    """Some blocks of a decoder, with the embedding or the final norm if the stage is first or last."""

    def __init__(self, config: ModelConfig, span: range, *, has_embedding: bool, is_last: bool) -> None:
        """Create the blocks of `span` under their numbers in the whole model."""
        nn.Module.__init__(self)  # the parent's would create all blocks
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size) if has_embedding else None
        self.layers = nn.ModuleList()
        for layer in span:
            self.layers.add_module(str(layer), make_block(config, layer))
        self.norm = make_norm(config) if is_last else None
        self.hc_head = HyperHead(config) if is_last and config.norm_placement == "hyper" else None


class Stage(CausalLM):
    """Pipeline stage: torch's schedules call `forward`; the last stage returns the micro-batch's loss."""

    def __init__(self, config: ModelConfig, index: int, spans: Sequence[range]) -> None:
        """Create the stage's own part with torch's default values; `initialise` applies the config's.

        Args:
            config: Config of the whole model.
            index: Index of this stage.
            spans: The layers of every stage, see `split_layers`.
        """
        nn.Module.__init__(self)  # the parent's would create the whole model
        self.config, self.index, self.n_stages = config, index, len(spans)
        self.observer: Observer | None = None
        is_tied = config.tie_word_embeddings
        self.model = StageDecoder(
            config,
            spans[index],
            has_embedding=self.is_first or (self.is_last and is_tied),
            is_last=self.is_last,
        )
        has_modules_ahead = self.is_last and config.num_nextn_predict_layers > 0
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False) if self.is_last else None
        self.mtp = MultiTokenPrediction(config) if has_modules_ahead else None
        self.tie_weights()

    def tie_weights(self) -> None:
        """Make the head the stage's copy of the embedding if the config ties them and the stage has a head."""
        if self.is_last:
            super().tie_weights()

    @property
    def is_first(self) -> bool:
        """Whether the stage has the embedding as its own part."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """Whether the stage has the head."""
        return self.index == self.n_stages - 1

    @property
    def embedding_VD(self) -> nn.Parameter:
        """The embedding of a stage that has one."""
        return self.model.get_parameter("embed_tokens.weight")

    def forward(
        self,
        *received: Tensor,
        ids_BT: Tensor,
        labels_BT: Tensor,
        documents_BT: Tensor,
        forced_experts: Mapping[int, Tensor],
        n_labels: float,
        weights_BT: Tensor | None = None,
        counted_BT: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Run the stage's blocks on a micro-batch.

        Args:
            received: Output of the previous stage; empty for the first.
            ids_BT: Token ids of the micro-batch; every stage gets the whole micro-batch.
            labels_BT: Labels of the micro-batch.
            documents_BT: Document numbers of the micro-batch.
            forced_experts: Expert choices of the micro-batch, by layer.
            n_labels: Weighted number of labelled tokens of the whole step, the divisor of sums over tokens.
            weights_BT: Weight of each label of the micro-batch; None: 1.
            counted_BT: bool, False for padding of the micro-batch; None: no padding.

        Returns:
            States or streams, then losses of layers and embeddings as in `travels`; for the last stage, the loss.
        """
        if counted_BT is None:
            counted_BT = torch.ones_like(ids_BT, dtype=torch.bool)
        context = make_context(ids_BT, documents_BT=documents_BT, forced_experts=forced_experts)
        x, summed, embedding = self._enter(received, ids_BT)
        for block in self.model.layers:
            x = block(x, context)
        if self.is_last:
            return self._loss(x, summed, embedding, context, labels_BT, n_labels, weights_BT, counted_BT)
        if summed is not None:
            summed = summed + self._layer_losses(context, counted_BT)
        if self.observer is not None:
            self.observer(context.routing, {}, counted_BT)
        # Clone, because torch detaches a stage's outputs in place, and this tensor is an input.
        embedding = None if embedding is None else embedding.clone()
        return tuple(each for each in (x, summed, embedding) if each is not None)

    def _enter(self, received: tuple[Tensor, ...], ids_BT: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return states, losses of the layers so far and embeddings; None for data that is not sent."""
        names, carries_embedding = layer_loss_names(self.config), self.config.mtp_loss_coef > 0
        if self.is_first:
            embedding = self.model.embed(ids_BT)
            # It requires a gradient, although none is used, so that all stages exchange the same tensors.
            summed = torch.zeros(len(names), device=ids_BT.device, requires_grad=True) if names else None
            return self.model.begin(embedding), summed, embedding if carries_embedding else None
        x, *beside = received
        summed = beside.pop(0) if names else None
        return x, summed, beside.pop(0) if carries_embedding else None

    def _layer_losses(self, context: ForwardContext, counted_BT: Tensor) -> Tensor:
        losses = layer_losses(self.config, context.routing, context.index_divergence, counted_BT)
        zero = torch.zeros((), device=counted_BT.device)
        return torch.stack([losses.get(name, zero) for name in layer_loss_names(self.config)])

    def _loss(
        self,
        x: Tensor,
        summed: Tensor | None,
        embedding_BTD: Tensor | None,
        context: ForwardContext,
        labels_BT: Tensor,
        n_labels: float,
        weights_BT: Tensor | None,
        counted_BT: Tensor,
    ) -> Tensor:
        hidden, state = self.model.end(x)
        no_logits = hidden.new_empty(len(hidden), 0, self.config.vocab_size)
        output = ModelOutput(no_logits, hidden, context.routing, state, index_divergence=context.index_divergence)
        if embedding_BTD is not None:
            output.mtp = self._modules_ahead()(state, embedding_BTD, context)
        losses = total_loss(
            self, output, labels_BT, n_labels=n_labels, weights_BT=weights_BT, counted_BT=counted_BT
        )
        total, parts = losses.total, losses.parts
        if summed is not None:
            # The same weighting as for this stage's own losses in total_loss.
            before = summed * (count_labels(labels_BT, weights_BT) / n_labels)
            total = total + before.sum()
            for name, loss in zip(layer_loss_names(self.config), before, strict=True):
                parts[name] = parts[name] + loss if name in parts else loss
        if self.observer is not None:
            self.observer(context.routing, {name: loss.detach() for name, loss in parts.items()}, counted_BT)
        return total


def make_stages(
    config: ModelConfig,
    schedule: str,
    n_ranks: int,
    rank: int,
    *,
    n_tokens: int,
    stages_per_rank: int | None = None,
) -> list[Stage]:
    """Return the stages of one rank, in order; then initialise (or load), parallelize and join them.

    Args:
        config: Config of the whole model.
        schedule: A name of `pipeline_schedules.SCHEDULES`; it determines the stages of a rank.
        n_ranks: W.
        rank: Rank in the pipeline.
        n_tokens: T, which the cost of attention depends on.
        stages_per_rank: Stages per rank; None: the schedule's number.

    Raises:
        UserError: The schedule does not support these numbers, or there are fewer layers than stages.
    """
    placed = stages_by_rank(schedule, n_ranks, stages_per_rank)
    spans = split_layers(config, sum(map(len, placed)), n_tokens)
    return [Stage(config, index, spans) for index in placed[rank]]


def join(stages: Sequence[Stage]) -> nn.Module:
    """Return all parts of a rank as one module with the whole model's names, for optimizer and checkpoints.

    If a rank has both ends of a tied model (V placement), the module has one embedding, as the whole model does;
    `pipeline_tied` handles the last stage's copy. Call it after `parallelize`, which replaces parameters.
    """
    share, share.model = nn.Module(), nn.Module()
    share.model.layers = nn.ModuleList()
    for stage in stages:
        for name, block in stage.model.layers.named_children():
            share.model.layers.add_module(name, block)
        for name, module in stage.model.named_children():
            if name != "layers" and not hasattr(share.model, name):
                share.model.add_module(name, module)
        for name, module in stage.named_children():
            if name != "model":
                share.add_module(name, module)
    if tied_on_one_rank(stages):
        config = stages[0].config
        share.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False, device="meta")
        share.lm_head.weight = stages[0].embedding_VD
    return share


def tied_on_one_rank(stages: Sequence[Stage]) -> bool:
    """Return whether a rank has both the embedding and the head tied to it."""
    return stages[0].config.tie_word_embeddings and stages[0].is_first and stages[-1].is_last


def loss_names(config: ModelConfig) -> list[str]:
    """Return the names of the parts of `total_loss` that a config enables."""
    asked = {"cross_entropy": True, "z_loss": bool(config.z_loss_coef), "mtp_loss": bool(config.mtp_loss_coef)}
    return [name for name, is_asked in asked.items() if is_asked] + layer_loss_names(config)


def travels(config: ModelConfig, n_rows: int, n_tokens: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return the tensors, without memory, that one stage sends to the next for a micro-batch."""
    B, T, D = n_rows, n_tokens, config.hidden_size
    streams = (B, T, config.hc_mult, D) if config.norm_placement == "hyper" else (B, T, D)

    def without_memory(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta", requires_grad=True)

    sent = [without_memory(*streams)]
    if names := layer_loss_names(config):
        sent.append(without_memory(len(names), dtype=torch.float32))
    if config.mtp_loss_coef > 0:
        sent.append(without_memory(B, T, D))
    return tuple(sent)


def split_layers(config: ModelConfig, n_stages: int, n_tokens: int) -> list[range]:
    """Return the layers of each stage: at least one, in order.

    The slowest stage determines the speed, so the largest share of FLOPs is minimised; the head counts for the
    last stage. Among these splits, one with the smallest largest share of parameters is used; the embedding counts
    for the first stage.

    Args:
        config: Config of the whole model.
        n_stages: S.
        n_tokens: T, which the cost of attention depends on.

    Raises:
        UserError: There are fewer layers than stages.
    """
    L = config.num_hidden_layers
    if n_stages > L:
        raise UserError(
            f"a pipeline of {n_stages} stages needs a layer for each, but the model has {L}; "
            f"lower pp, or use a schedule with fewer stages per rank"
        )
    work, size = _costs(config, n_tokens)
    slowest = max(sum(work[at] for at in span) for span in _least_maximum(n_stages, work, work, math.inf))
    return _least_maximum(n_stages, size, work, slowest)


def _costs(config: ModelConfig, n_tokens: int) -> tuple[list[int], list[int]]:
    """Return FLOPs of a sequence and parameters for each layer, including the model's ends in the outer layers."""
    span = Span(n_tokens)
    work, size = ([0] * config.num_hidden_layers for _ in range(2))
    for _, layer, formula in layers(config):
        work[layer] += block_work(formula, config, layer, span).forward
        size[layer] += formula.weights(config, layer).total
    n_head = config.hidden_size * config.vocab_size
    work[-1] += 2 * n_tokens * n_head
    if config.mtp_loss_coef:
        work[-1] += mtp_work(config, span).forward
    size[0] += count_parameters(config).parts[EMBEDDING].total
    size[-1] += n_head
    return work, size


def _least_maximum(n_stages: int, cost: list[int], work: list[int], most_work: float) -> list[range]:
    """Return the split with the smallest maximum cost of a stage, with at most `most_work` work per stage."""
    L = len(cost)
    cost_to, work_to = ([0, *accumulate(each)] for each in (cost, work))
    best, cuts = (
        [0.0] + [math.inf] * L,
        list[list[int]](),
    )  # smallest maximum for the first j layers; start of the last stage
    for _ in range(n_stages):
        reached, begins = [math.inf] * (L + 1), [0] * (L + 1)
        for end in range(1, L + 1):
            for begin in range(end):
                if work_to[end] - work_to[begin] <= most_work:
                    dearest = max(best[begin], cost_to[end] - cost_to[begin])
                    if dearest < reached[end]:
                        reached[end], begins[end] = dearest, begin
        best = reached
        cuts.append(begins)
    spans, end = list[range](), L
    for begins in reversed(cuts):
        spans.append(range(begins[end], end))
        end = begins[end]
    return spans[::-1]
