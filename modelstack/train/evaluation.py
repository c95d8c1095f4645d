"""Loss on held-out documents: nats per token, and bits per byte, which are comparable across tokenizers.

The documents and their bytes are fixed and nothing is sampled, so two models, or one model at two steps, are
scored on the same text. A document consists of its begin-of-text token, if the tokenizer has one, and its text's
tokens. Each token except the first is scored once, with the context that training gives it: the document so far,
in a row of T tokens. A longer document is cut every T tokens, and the first token of the next row is scored from
the end of the previous row, as training labels it.

The first token of a document is given and not scored: the begin token, or without one the first token of the text.
The bytes of a given text token are not counted, because training masks documents from each other and never
predicts it. The end-of-text token is not scored, because it is not text. The counted bytes are those of the scored
tokens.

Letters: B rows, T tokens of a row, V vocabulary, N documents.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import IGNORED
from modelstack.data.packing import Piece, Row, plan_rows
from modelstack.errors import UserError
from modelstack.tokenizer.measures import Interval, ratio_interval
from modelstack.tokenizer.text_tokenizer import TextTokenizer
from modelstack.train.loop import Run
from modelstack.train.metrics import EvaluationRecord, Metrics
from modelstack.train.step import StepReport

LOGITS_AT_ONCE = 1 << 27
"""Maximum number of logits: 0.5 GB in fp32."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """N documents for scoring."""

    ids: tuple[NDArray[np.int64], ...]
    """Tokens of each document; the first is given, the others are scored."""
    n_bytes: NDArray[np.int64]
    """Number of bytes of each document's scored tokens, [N]."""
    given: tuple[bytes, ...]
    """Text bytes of each document's given token; empty if it is the begin token."""
    scored: tuple[bytes, ...]
    """Bytes of each document's scored tokens."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the scored bytes: results are comparable if it is equal."""
        digest = hashlib.sha256()
        for data in self.scored:
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """Score of a model, or of any source of probabilities, on held-out documents."""

    nats: NDArray[np.float64]
    """Nats of each document's scored bytes, [N]."""
    n_tokens: NDArray[np.int64]
    """Number of scored tokens of each document, [N]."""
    n_bytes: NDArray[np.int64]
    """Number of scored bytes of each document, [N]."""

    @property
    def loss(self) -> float:
        """Nats per scored token."""
        return float(self.nats.sum() / self.n_tokens.sum())

    @property
    def bits_per_byte(self) -> float:
        """Bits per scored byte."""
        return float(self.nats.sum() / math.log(2) / self.n_bytes.sum())

    def interval(self, *, seed: int = 0) -> Interval:
        """Return bits per byte with a 95 % interval from a bootstrap over documents."""
        found = ratio_interval(self.nats / math.log(2), self.n_bytes, seed=seed)
        assert found is not None  # `held_out` has rejected texts without a scored byte
        return found


def held_out(texts: Sequence[str], tokenizer: TextTokenizer) -> HeldOut:
    """Encode documents for scoring; documents without a token to score are dropped.

    Args:
        texts: Texts of the held-out side of the split (`tokenizer.documents.is_held_out`).
        tokenizer: The model's own.

    Raises:
        UserError: No document has a token to score.
    """
    vocabulary = tokenizer.vocabulary
    begin = [] if vocabulary.bos_id is None else [vocabulary.bos_id]
    documents = [[*begin, *ids] for ids in tokenizer.encode_batch(texts)]
    documents = [ids for ids in documents if len(ids) > 1]
    if not documents:
        raise UserError(
            f"none of {len(texts)} held-out documents has a token to score; add text to the held-out part"
        )
    scored = tuple(tokenizer.decode_bytes(ids[1:]) for ids in documents)
    return HeldOut(
        tuple(np.array(ids, np.int64) for ids in documents),
        np.array([len(data) for data in scored], np.int64),
        tuple(b"" if begin else tokenizer.decode_bytes(ids[:1]) for ids in documents),
        scored,
    )


@torch.no_grad()
def evaluate(model: CausalLM, documents: HeldOut, row_tokens: int) -> Score:
    """Score documents with a model. The model's mode and the random state are restored afterwards.

    Args:
        model: The model, on its own device; if it is sharded, every rank must call this.
        documents: The documents.
        row_tokens: T, the value used in training.
    """
    device = next(model.parameters()).device
    nats = torch.zeros(len(documents.ids), dtype=torch.float64)
    with in_use(model):
        for ids_BT, labels_BT, packed_BT, owner_BT in _batches(documents, row_tokens, model):
            output = model(ids_BT.to(device), documents_BT=packed_BT.to(device))
            nats_BT = F.cross_entropy(
                output.logits_BTV.flatten(0, 1).float(),
                labels_BT.flatten().to(device),
                ignore_index=IGNORED,
                reduction="none",
            )
            nats.index_add_(0, owner_BT.flatten(), nats_BT.double().cpu())
    n_tokens = np.array([len(ids) - 1 for ids in documents.ids], np.int64)
    return Score(nats.numpy(), n_tokens, documents.n_bytes)


class Evaluation:
    """Hook that evaluates every `every` steps and at the end of the run."""

    def __init__(self, score: Callable[[CausalLM], Score], *, every: int, metrics: Metrics) -> None:
        """Evaluate with `score`, for example `evaluate` on documents.

        Every rank evaluates; `metrics` decides who records.
        """
        self.last: Score | None = None
        """Score of the newest evaluation in this process."""
        self._score = score
        self._every = every
        self._metrics = metrics

    def after_step(self, run: Run, report: StepReport) -> None:
        """Evaluate if it is due."""
        if is_due(run, self._every):
            self.evaluate(run, report.step)

    def evaluate(self, run: Run, step: int) -> Score:
        """Evaluate now and record the score."""
        started = time.perf_counter()
        score = self._score(cast(CausalLM, run.state.model))
        self.last = score
        seconds = time.perf_counter() - started
        self._metrics.add(evaluation_record(score, step, run.state.n_tokens, seconds))
        return score

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the next evaluation follows from the step."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: there is no state."""


def is_due(run: Run, every: int) -> bool:
    """Return whether a hook that acts every `every` steps and at the end is due after this step."""
    return run.state.step % every == 0 or run.state.step == run.config.n_steps


def evaluation_record(score: Score, step: int, n_tokens: int, seconds: float) -> EvaluationRecord:
    """Return the metrics record of an evaluation."""
    interval = score.interval()
    return EvaluationRecord(
        step=step,
        n_tokens=n_tokens,
        loss=score.loss,
        bits_per_byte=interval.value,
        low=interval.low,
        high=interval.high,
        n_documents=len(score.nats),
        n_bytes=int(score.n_bytes.sum()),
        n_scored_tokens=int(score.n_tokens.sum()),
        seconds=seconds,
    )


def _batches(
    documents: HeldOut, row_tokens: int, model: CausalLM
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield token ids, labels, document numbers within the row, and document numbers in `documents`, each [B, T].

    All batches have the same shape, padded with rows that score nothing, so a compiled model is compiled once.
    """
    # The last token of a document is scored but predicts nothing, so it needs no position in a row.
    pieces = [Piece(number, 0, len(ids) - 1) for number, ids in enumerate(documents.ids)]
    planned, waiting = plan_rows(pieces, row_tokens, "best_fit")
    rows = [*planned, waiting] if waiting else planned
    B = max(1, min(len(rows), LOGITS_AT_ONCE // (row_tokens * model.config.vocab_size)))
    for start in range(0, len(rows), B):
        batch = rows[start : start + B]
        yield _tensors([*batch, *[Row()] * (B - len(batch))], documents, row_tokens)


def _tensors(rows: Sequence[Row], documents: HeldOut, row_tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (len(rows), row_tokens)
    ids_BT, owner_BT = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    labels_BT = torch.full(shape, IGNORED)
    packed_BT = torch.empty(shape, dtype=torch.int64)
    for b, row in enumerate(rows):
        at = 0
        for number, piece in enumerate(row):
            end = at + piece.n_tokens
            ids = torch.from_numpy(documents.ids[piece.document][piece.start : piece.start + piece.n_tokens + 1])
            ids_BT[b, at:end], labels_BT[b, at:end] = ids[:-1], ids[1:]
            packed_BT[b, at:end] = number
            owner_BT[b, at:end] = piece.document
            at = end
        packed_BT[b, at:] = len(row)
    return ids_BT, labels_BT, packed_BT, owner_BT


@contextmanager
def in_use(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode; restore each module's mode and torch's random state afterwards.

    Weights that FSDP gathered in the block are freed.
    """
    modes = {module: module.training for module in model.modules()}
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    model.eval()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for module in modes:
            if isinstance(module, FSDPModule):
                module.reshard()  # a checkpoint that is loaded next changes the shards only
