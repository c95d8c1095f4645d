"""A decoder cut into stages: where to cut, what a stage holds, what it passes on.

Stages are runs of blocks; the first has the embedding, the last the norm, the head and the modules for multi-token
prediction. A stage makes its own part only, so no rank ever needs the whole model, and parameters keep the names
of the whole one (`model.layers.7...`): the stages' state dicts together are the model's, checkpoints can be cut
anew, and `initialise`, which seeds by name, gives a stage the values that the whole model would have.

Every rank has the step's micro-batches (ids, documents, labels), so positions, masks, hash routing and forced
choices are made where they are needed, and only activations travel: the hidden states or streams, and beside them,
where the config asks for it,
- losses of layers (routing, indexers), summed over the layers so far: the last stage adds them to its loss, and
  their gradient comes back through the pipeline to the routers and indexers of every stage;
- the embeddings, for multi-token prediction. (With tied weights the last stage could look them up itself, but then
  its weights' gradients hang together in a way that torch 2.13 cannot split for the zero-bubble schedules.)

A last stage with a tied head has a copy of the embedding; `pipeline_tied` keeps it exact.

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
"""Sees each micro-batch that passed a stage: its routing, at the last stage the parts of the loss, detached, and
which tokens are no padding."""


class StageDecoder(Decoder):
    """Some blocks of a decoder, and what stands at its ends where the stage is one."""

    def __init__(self, config: ModelConfig, span: range, *, has_embedding: bool, is_last: bool) -> None:
        """Make the blocks of `span` under their numbers in the whole model."""
        nn.Module.__init__(self)  # the parent's would make all of it
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size) if has_embedding else None
        self.layers = nn.ModuleList()
        for layer in span:
            self.layers.add_module(str(layer), make_block(config, layer))
        self.norm = make_norm(config) if is_last else None
        self.hc_head = HyperHead(config) if is_last and config.norm_placement == "hyper" else None


class Stage(CausalLM):
    """One stage: `forward` is what torch's schedules call; the last one returns the micro-batch's loss."""

    def __init__(self, config: ModelConfig, index: int, spans: Sequence[range]) -> None:
        """Make the stage's own part, with torch's default values; `initialise` gives it the config's.

        Args:
            config: Of the whole model.
            index: Of this stage.
            spans: The layers of every stage, see `split_layers`.
        """
        nn.Module.__init__(self)  # the parent's would make all of it
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
        """Let the head be the stage's copy of the embedding, where the config says so and the stage has a head."""
        if self.is_last:
            super().tie_weights()

    @property
    def is_first(self) -> bool:
        """Whether it has the embedding by right."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """Whether it has the head."""
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
            received: What the stage before returned; nothing at the first.
            ids_BT: The micro-batch, at every stage.
            labels_BT: Likewise.
            documents_BT: Likewise.
            forced_experts: Likewise.
            n_labels: Labelled tokens of the whole step, by their weights, which sums over tokens are divided by.
            weights_BT: How much each label of the micro-batch counts, at every stage; None: 1.
            counted_BT: bool, False for the micro-batch's padding, at every stage; None: there is none.

        Returns:
            States or streams, then losses of layers and embeddings where `travels` says so; of the last stage the
            loss.
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
        # A copy: torch detaches what a stage returned, in place, and these came in as leaves.
        embedding = None if embedding is None else embedding.clone()
        return tuple(each for each in (x, summed, embedding) if each is not None)

    def _enter(self, received: tuple[Tensor, ...], ids_BT: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return states, losses of the layers so far and embeddings; None for what does not travel."""
        names, carries_embedding = layer_loss_names(self.config), self.config.mtp_loss_coef > 0
        if self.is_first:
            embedding = self.model.embed(ids_BT)
            # It asks for a gradient though nothing reads it, so that all stages exchange the same.
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
            # As total_loss weighs this stage's own.
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
    """Return the stages of one rank, in order; to be initialised (or loaded), then parallelized, then joined.

    Args:
        config: Of the whole model.
        schedule: A name of `pipeline_schedules.SCHEDULES`: it decides which stages a rank has.
        n_ranks: W.
        rank: In the pipeline.
        n_tokens: T, which the cost of attention depends on.
        stages_per_rank: None: as the schedule has it.

    Raises:
        UserError: The schedule does not fit, or there are fewer layers than stages.
    """
    placed = stages_by_rank(schedule, n_ranks, stages_per_rank)
    spans = split_layers(config, sum(map(len, placed)), n_tokens)
    return [Stage(config, index, spans) for index in placed[rank]]


def join(stages: Sequence[Stage]) -> nn.Module:
    """Return all that a rank holds as one module, under the whole model's names: for optimizer and checkpoints.

    Where a rank has both ends of a tied model (V placement) there is one embedding, as in the whole model: the
    last stage's copy is `pipeline_tied`'s. Call it after the stages were parallelized: parameters are new then.
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
    """Return whether a rank has both the embedding and the head that is tied to it."""
    return stages[0].config.tie_word_embeddings and stages[0].is_first and stages[-1].is_last


def loss_names(config: ModelConfig) -> list[str]:
    """Return the parts of `total_loss` that a config asks for."""
    asked = {"cross_entropy": True, "z_loss": bool(config.z_loss_coef), "mtp_loss": bool(config.mtp_loss_coef)}
    return [name for name, is_asked in asked.items() if is_asked] + layer_loss_names(config)


def travels(config: ModelConfig, n_rows: int, n_tokens: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return what one stage sends to the next for a micro-batch, as tensors without memory."""
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

    The slowest stage sets the pace, so the largest share of FLOPs is made as small as can be, the head counted to
    the last stage. Of the cuts that do that, one whose largest share of parameters is smallest is taken, the
    embedding counted to the first stage.

    Args:
        config: Of the whole model.
        n_stages: S.
        n_tokens: T, which the cost of attention depends on.

    Raises:
        UserError: There are fewer layers than stages.
    """
    L = config.num_hidden_layers
    if n_stages > L:
        raise UserError(
            f"a pipeline of {n_stages} stages needs a layer for each and the model has {L}: "
            f"lower pp, or take a schedule with fewer stages on a rank"
        )
    work, size = _costs(config, n_tokens)
    slowest = max(sum(work[at] for at in span) for span in _least_maximum(n_stages, work, work, math.inf))
    return _least_maximum(n_stages, size, work, slowest)


def _costs(config: ModelConfig, n_tokens: int) -> tuple[list[int], list[int]]:
    """Return FLOPs of a sequence and parameters of each layer; the ends of the model count to theirs."""
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
    """Return the cut whose dearest stage costs least, among those without a stage of more than `most_work`."""
    L = len(cost)
    cost_to, work_to = ([0, *accumulate(each)] for each in (cost, work))
    best, cuts = (
        [0.0] + [math.inf] * L,
        list[list[int]](),
    )  # dearest stage of the first j layers; where the last begins
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
