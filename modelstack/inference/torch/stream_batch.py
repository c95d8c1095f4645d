"""Continuous batching over one model: streams of tokens in, logits after their last tokens out.

Each step evaluates one flat row of tokens with the modules that training uses. It does not draw: engines and
samplers decide what follows (`inference.reply`, `reasoning.sampling`), then extend or remove their streams.

Letters: R streams whose logits are known, N tokens of a step, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from modelstack.architecture.cache import Cache
from modelstack.architecture.config import ModelConfig
from modelstack.architecture.decoder import CausalLM
from modelstack.inference.blocks import BLOCK_TOKENS, BlockPool
from modelstack.inference.engine import EngineError
from modelstack.inference.evaluation import Ready
from modelstack.inference.scheduler import StepLimits
from modelstack.inference.steering import Steering
from modelstack.inference.streams import StepRow, Stream, StreamQueue
from modelstack.inference.torch.batch_adapters import BatchAdapters
from modelstack.inference.torch.kv_numbers import KVType, latent_numbers, layer_numbers
from modelstack.inference.torch.mtp_drafter import MtpDrafter
from modelstack.inference.torch.paged_cache import (
    PagedCache,
    PagedLatents,
    PagedLayer,
    StepLayout,
    StepMemory,
    StoredPart,
)

LATENT = "latent_attention"
PAGED_KINDS = frozenset({"full_attention", "sliding_attention", LATENT})
"""Layer types whose past is a key and a value per token, or a latent."""


class UnsupportedModelError(EngineError):
    """The model has a layer whose past is not kept in blocks."""


class StreamBatch:
    """A model, its paged cache and its streams; an `Evaluation`.

    Weights must stay the same, or `queue.fail` forgets the cache.
    """

    def __init__(
        self,
        model: CausalLM,
        n_tokens: int,
        limits: StepLimits,
        *,
        block_tokens: int = BLOCK_TOKENS,
        kv_type: KVType = "model",
        state_layers: Sequence[int] = (),
        steering: Steering | None = None,
    ) -> None:
        """Create an empty cache; its memory is allocated by the first step.

        Args:
            model: The model, in evaluation mode, on its own device.
            n_tokens: Number of tokens that the cache holds, for running streams and for later hits.
            limits: Bounds on a step.
            block_tokens: Tokens per block.
            kv_type: Numbers of the cache; see `kv_numbers`.
            state_layers: Layers whose outputs a step returns, from 0; not the last one.
            steering: Vectors that are added to the outputs of layers.

        Raises:
            UnsupportedModelError: A layer's past cannot be kept in blocks.
            EngineError: There is no such `kv_type`, it cannot hold the model's heads, there is no such layer, or
                the steering does not fit the model.
        """
        require_paged(model.config)
        self.model, self.adapters = model, BatchAdapters(model)
        pool = BlockPool(-(-n_tokens // block_tokens), block_tokens)
        self.queue = StreamQueue(pool, limits)
        self._memory = StepMemory(pool.n_blocks, block_tokens)
        self._kv_type: KVType = kv_type
        self._layers = _empty_layers(model, kv_type, self._memory)
        self.drafter: MtpDrafter | None = None
        """Receives the states of all evaluated tokens."""
        self._outputs: dict[int, Tensor] = {}
        """Outputs of `state_layers` in the current step, [1, N, D]."""
        self._hooks: list[RemovableHandle] = []
        self.state_layers = tuple(state_layers)
        n_layers = model.config.num_hidden_layers
        if steering is not None:
            steering.require_fitting(n_layers, model.config.hidden_size)
            for layer, vector in steering.vectors.items():
                added_D = torch.from_numpy(vector).to(model.lm_head.weight)
                hook = model.model.layers[layer].register_forward_hook(partial(_add, added_D))
                self._hooks.append(hook)
        for layer in self.state_layers:
            if not 0 <= layer < n_layers - 1:
                raise EngineError(
                    f"state_layers contains {layer}; this model has readable outputs of the layers 0 to "
                    f"{n_layers - 2}"
                )
            hook = model.model.layers[layer].register_forward_hook(partial(self._keep, layer))
            self._hooks.append(hook)

    def _keep(self, layer: int, _module: object, _inputs: object, output: Tensor) -> None:
        self._outputs[layer] = output

    def __len__(self) -> int:
        """Return the number of streams."""
        return len(self.queue)

    def extend(self, stream: Stream, ids: Sequence[int]) -> None:
        """Append tokens to a stream; draft tokens that equal them are kept."""
        self.queue.extend(stream, ids)

    @property
    def max_step_tokens(self) -> int:
        """Number of tokens of a step that drafts are part of."""
        return self.queue.limits.max_tokens

    def draft(self, stream: Stream, ids: Sequence[int]) -> None:
        """Set what the next step evaluates after a stream's last token, if there is room."""
        stream.draft = list(ids)

    def remove(self, stream: Stream) -> None:
        """Remove a finished or cancelled stream, and free its blocks. Idempotent."""
        self.queue.remove(stream)
        if self.drafter is not None:
            self.drafter.forget(stream)

    @property
    def n_tokens(self) -> int:
        """Number of tokens that the cache holds."""
        return self.queue.pool.n_blocks * self.queue.pool.block_tokens

    def bytes_in_use(self) -> int:
        """Return the bytes of the cache's memory."""
        return sum(layer.bytes_in_use() for layer in self._layers)

    @property
    def parts(self) -> list[Sequence[StoredPart]]:
        """The tensors that hold a block, for each layer."""
        return [layer.parts for layer in self._layers]

    def taken(self, blocks: Sequence[int]) -> list[list[Tensor]]:
        """Return a copy of some blocks for each layer, [blocks, B, G, n] of each part."""
        return [layer.taken(blocks) for layer in self._layers]

    def put(self, blocks: Sequence[int], layers: Sequence[Sequence[Tensor]]) -> None:
        """Fill blocks with what `taken` returned."""
        device = next(self.model.parameters()).device
        for layer, parts in zip(self._layers, layers, strict=True):
            layer.put(blocks, [part.to(device) for part in parts])

    def free(self) -> None:
        """Free the cache's memory; no stream may be left."""
        assert len(self.queue) == 0
        self.queue.fail()
        self._layers = _empty_layers(self.model, self._kv_type, self._memory)
        for hook in self._hooks:
            hook.remove()

    def step(self) -> Ready[Stream]:
        """Evaluate the next tokens of the streams; nothing if none can run.

        If the evaluation raises, all streams are back in the line, and can be continued or removed.
        """
        rows = self.queue.next_step()
        if not rows:
            return Ready((), np.empty((0, self.model.config.vocab_size), np.float32))
        try:
            ready = self._evaluated(rows)
        except BaseException:
            self.queue.fail()
            raise
        self.queue.settle(rows)
        return ready

    @torch.no_grad()
    def _evaluated(self, rows: Sequence[StepRow]) -> Ready[Stream]:
        model = self.model
        device = next(model.parameters()).device
        layout = self._memory.layout = StepLayout(rows, self.queue.pool.block_tokens, device)
        ends = zip(layout.rows, layout.last_places(), strict=True)
        last = [(row, places) for row, places in ends if row.is_last]
        places_R = torch.tensor([place for _, places in last for place in places], dtype=torch.long, device=device)
        self.adapters.select(layout.rows, device)
        # The places of an adapter's tokens are those in the whole row, so the last layer must see it whole.
        chooses = model.can_choose_places and not self.adapters.is_active
        output = model(
            layout.ids_1N,
            cache=Cache(list(self._layers)),
            positions_BT=layout.positions_1N,
            places_P=places_R if chooses else None,
            with_logits=chooses,
        )
        logits = output.logits_BTV if chooses else model.logits(output.hidden_BTD[:, places_R])
        logits_RV = logits[0].float().cpu().numpy()
        if self.drafter is not None:
            end = 0
            for row in layout.rows:
                start, end = end, end + row.n_evaluated
                self.drafter.observe(row.stream, row.start, output.mtp_state[:, start:end])
        return Ready(
            [row.stream for row, _ in last],
            logits_RV,
            drafts=[row.draft for row, _ in last] if any(row.draft for row in rows) else None,
            n_tokens=layout.positions_1N.shape[1],
            states_RLD=self._states(places_R),
        )

    def _states(self, places_R: Tensor) -> NDArray[np.float32] | None:
        """Return the outputs of `state_layers` at some places, [R, L, D]."""
        if not self.state_layers:
            return None
        outputs = [self._outputs[layer][0, places_R] for layer in self.state_layers]
        self._outputs.clear()
        return torch.stack(outputs, dim=1).float().cpu().numpy()


def token_bytes(model: CausalLM) -> int:
    """Return the bytes of a token in the cache, in the model's own numbers."""
    layers = _empty_layers(model, "model", StepMemory(1, 1))
    return sum(part.token_bytes for layer in layers for part in layer.parts)


def is_paged(config: ModelConfig) -> bool:
    """Return whether a model's past can be kept in blocks."""
    return not (set(config.layer_types) - PAGED_KINDS or _dynamic(config))


def require_paged(config: ModelConfig) -> None:
    """Check that a model's past can be kept in blocks.

    Raises:
        UnsupportedModelError: A layer keeps something else, or its positions depend on the batch.
    """
    other = sorted(set(config.layer_types) - PAGED_KINDS)
    if other:
        raise UnsupportedModelError(
            f"layers of type {', '.join(other)} keep another past than a key and a value, or a latent, per token; "
            f"the torch engine runs {', '.join(sorted(PAGED_KINDS))}"
        )
    if dynamic := _dynamic(config):
        raise UnsupportedModelError(
            f"rope_type 'dynamic' (rope_parameters of {', '.join(sorted(dynamic))}) turns all keys when a "
            f"sequence grows, so cached keys would be wrong; use 'yarn' or 'linear'"
        )


def _dynamic(config: ModelConfig) -> list[str]:
    """Return the layer types whose rotary frequencies depend on the length of the sequence."""
    if config.position_embedding != "rope":
        return []
    return [kind for kind, rope in config.rope_parameters.items() if rope.rope_type == "dynamic"]


def _empty_layers(model: CausalLM, kv_type: KVType, memory: StepMemory) -> list[PagedLayer]:
    """Return the cache of each layer.

    Raises:
        EngineError: There is no such `kv_type`, or it cannot hold the model's heads.
    """
    config = model.config
    return [
        PagedLatents(memory, latent_numbers(model, kv_type))
        if kind == LATENT
        else PagedCache(memory, layer_numbers(model, kv_type), config.num_key_value_heads)
        for kind in config.layer_types
    ]


def _add(added_D: Tensor, _module: object, _inputs: object, output: Tensor) -> Tensor:
    return output + added_D
