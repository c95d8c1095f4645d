"""Calibration: rows of tokens, and what the linear layers of a block of the model receive from them.

Blocks are visited in order. Each receives the states that the quantised blocks before it computed, so that its
rounding answers their errors too (as in GPTQ's code and llm-compressor).

Letters: B rows of a batch, T tokens of a row, K inputs of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from modelstack.architecture.decoder import CausalLM, make_context
from modelstack.errors import UserError
from modelstack.tokenizer.documents import find_files, sample_documents
from modelstack.tokenizer.text_tokenizer import TextTokenizer

HELD_OUT_SHARE = 0.2
"""Share of the documents that measure the result and are not calibrated on."""
BYTES_PER_TOKEN = 8
"""Upper estimate of text that has to be read per token; English has 4 to 5 bytes per token."""
ROWS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """Rows of tokens of different documents."""

    training: Sequence[Tensor]
    """Batches [B, T] to calibrate on."""
    held_out: Sequence[Tensor]
    """Batches [B, T] to measure on."""


def read_calibration(
    paths: Sequence[Path], tokenizer: TextTokenizer, *, n_tokens: int, length: int, n_held_out: int
) -> CalibrationText:
    """Return rows of tokens from files; a fifth of the documents, selected by their hash, is held out.

    Documents are joined, each after the begin token if there is one, and cut into rows.

    Args:
        paths: Files or folders as for `modelstack tokenizer train`.
        tokenizer: Tokenizer of the model.
        n_tokens: Tokens to calibrate on.
        length: Tokens of a row.
        n_held_out: Tokens to measure on.

    Raises:
        UserError: A path does not exist or is not text, or there is too little text.
    """
    files = find_files(paths)
    sides: list[list[Tensor]] = []
    for held_out, wanted in ((False, n_tokens), (True, n_held_out)):
        max_bytes = max(wanted * BYTES_PER_TOKEN, 2**16)
        documents = sample_documents(files, max_bytes, held_out=held_out, share=HELD_OUT_SHARE)
        begin = [] if tokenizer.vocabulary.bos_id is None else [tokenizer.vocabulary.bos_id]
        encoded = tokenizer.encode_batch([document.text for document in documents])
        ids = [token for document in encoded for token in (*begin, *document)]
        n_rows = -(-wanted // length)
        if len(ids) < n_rows * length:
            side = "held-out documents" if held_out else "documents to calibrate on"
            raise UserError(
                f"the {side} have {len(ids):,} tokens; {n_rows * length:,} are required ({n_rows} rows of "
                f"{length}). Give more text, fewer tokens or shorter rows. A fifth of the documents is held out"
            )
        rows = torch.tensor(ids[: n_rows * length]).view(n_rows, length)
        sides.append(list(rows.split(ROWS_AT_ONCE)))
    return CalibrationText(*sides)


class InputMoments:
    """Sums over the inputs of a layer, or of several layers with the same input."""

    def __init__(self, n_inputs: int) -> None:
        """Start with no input."""
        self._n_rows = 0
        self._products_KK = torch.zeros(n_inputs, n_inputs)
        self._magnitudes_K = torch.zeros(n_inputs)
        self._scale_K = torch.ones(n_inputs)

    def add(self, x: Tensor) -> None:
        """Count inputs [..., K]."""
        rows = x.detach().flatten(0, -2).float()
        self._n_rows += len(rows)
        self._products_KK.addmm_(rows.t(), rows)
        self._magnitudes_K += rows.abs().sum(0)

    def divide(self, scale_K: Tensor) -> None:
        """Account for the division of each input by a scale, from now on."""
        self._scale_K = self._scale_K * scale_K

    @property
    def second_moment_KK(self) -> Tensor:
        """Mean of x^T x."""
        return self._products_KK / (self._scale_K[:, None] * self._scale_K) / max(self._n_rows, 1)

    @property
    def magnitude_K(self) -> Tensor:
        """Mean magnitude of each input."""
        return self._magnitudes_K / self._scale_K.abs() / max(self._n_rows, 1)


@torch.no_grad()
def for_each_block(
    model: CausalLM,
    batches: Sequence[Tensor],
    change: Callable[[int, nn.Module, Mapping[nn.Module, InputMoments]], None],
    restore: Callable[[int, nn.Module], bool] = lambda number, block: False,
) -> None:
    """Visit the blocks in order, with the moments of their linear layers' inputs.

    Args:
        model: The model; `change` may change the weights of the block that it gets.
        batches: Token ids [B, T]. Without any, blocks are visited with no moments.
        change: Called with the number of a block, the block and the moments by linear layer.
        restore: Changes a block as an earlier run did and returns True, or returns False; `change` is then called.
    """
    contexts = [make_context(ids) for ids in batches]
    states = [model.model.begin(model.model.embed(ids)) for ids in batches]
    for number, block in enumerate(model.model.layers):
        if not restore(number, block):
            with _moments_of(block) as moments:
                for state, context in zip(states, contexts, strict=True):
                    block(state, context)
            change(number, block, moments)
        states = [block(state, context) for state, context in zip(states, contexts, strict=True)]


@contextmanager
def _moments_of(block: nn.Module) -> Iterator[Mapping[nn.Module, InputMoments]]:
    """Collect the moments of the inputs of a block's linear layers while the block runs."""
    moments: dict[nn.Module, InputMoments] = {}
    owners: set[nn.Module] = set()
    newest: list[tuple[Tensor, InputMoments]] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        if layer not in moments:  # layers that read the same tensor in turn share their moments
            shared = newest[0][1] if newest and newest[0][0] is x else None
            if shared is None:
                owners.add(layer)
            moments[layer] = shared or InputMoments(x.shape[-1])
        if layer in owners:
            moments[layer].add(x)
        newest[:] = [(x, moments[layer])]

    layers = [layer for layer in block.modules() if type(layer) is nn.Linear]
    hooks = [layer.register_forward_pre_hook(count) for layer in layers]
    try:
        yield moments
    finally:
        for hook in hooks:
            hook.remove()
