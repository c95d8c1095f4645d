"""Loss on held-out documents: nats per token, and bits per byte, which compare across tokenizers.

The documents and their bytes are fixed, nothing is drawn, so two models, or one model at two steps, are asked
the same. A document is its begin-of-text token, where the tokenizer puts one, and its text's tokens. Each token
but the first is scored once; its context is what training gave it too: the document so far, in a row of T tokens.
A longer document is cut every T tokens, and the first token of the next row is scored from the end of the row
before, as training labels it.

What a document begins with is given, not scored: the begin token, or without one the first token of the text,
whose bytes then do not count either (training, which masks documents from each other, never asked for it). The
end-of-text token is not scored: it is no text. The bytes are those of the scored tokens, so each scored byte is
paid for once.

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
"""Numbers: 0.5 GB in fp32."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """N documents that a model is asked about."""

    ids: tuple[NDArray[np.int64], ...]
    """Tokens of each; the first is given, the others are scored."""
    n_bytes: NDArray[np.int64]
    """Of each document's scored tokens, [N]."""
    given: tuple[bytes, ...]
    """Bytes of the text that each document's given token stands for; empty where it is the begin token."""
    scored: tuple[bytes, ...]
    """Bytes that are paid for."""

    @property
    def fingerprint(self) -> str:
        """Return a SHA-256 over the scored bytes: results compare where it is the same."""
        digest = hashlib.sha256()
        for data in self.scored:
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """What a model, or anything that gives probabilities, makes of held-out documents."""

    nats: NDArray[np.float64]
    """Of each document's scored bytes, [N]."""
    n_tokens: NDArray[np.int64]
    """Scored, [N]."""
    n_bytes: NDArray[np.int64]
    """Scored, [N]."""

    @property
    def loss(self) -> float:
        """Return nats per scored token."""
        return float(self.nats.sum() / self.n_tokens.sum())

    @property
    def bits_per_byte(self) -> float:
        """Return bits per scored byte."""
        return float(self.nats.sum() / math.log(2) / self.n_bytes.sum())

    def interval(self, *, seed: int = 0) -> Interval:
        """Return bits per byte with a 95 % interval by a bootstrap over documents."""
        found = ratio_interval(self.nats / math.log(2), self.n_bytes, seed=seed)
        assert found is not None  # `held_out` has refused a text without a scored byte
        return found


def held_out(texts: Sequence[str], tokenizer: TextTokenizer) -> HeldOut:
    """Encode documents to be scored; those without a token to score are left out.

    Args:
        texts: Of the side of the split that nothing is trained on (`tokenizer.documents.is_held_out`).
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
            f"none of {len(texts)} held-out documents has a token to score; name text of which a share is held out"
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
    """Score documents by a model; its mode and the random numbers are as before afterwards.

    Args:
        model: On its own device; where it is sharded every rank calls this.
        documents: What is scored.
        row_tokens: T, that of the training.
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
    """The hook that evaluates every so many steps and at the run's end."""

    def __init__(self, score: Callable[[CausalLM], Score], *, every: int, metrics: Metrics) -> None:
        """Evaluate by `score`, such as `evaluate` on documents; every rank does, whoever's `metrics` writes."""
        self.last: Score | None = None
        """Of the newest evaluation in this process."""
        self._score = score
        self._every = every
        self._metrics = metrics

    def after_step(self, run: Run, report: StepReport) -> None:
        """Evaluate where it is time."""
        if is_due(run, self._every):
            self.evaluate(run, report.step)

    def evaluate(self, run: Run, step: int) -> Score:
        """Evaluate now, and record it."""
        started = time.perf_counter()
        score = self._score(cast(CausalLM, run.state.model))
        self.last = score
        seconds = time.perf_counter() - started
        self._metrics.add(evaluation_record(score, step, run.state.n_tokens, seconds))
        return score

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: when to evaluate follows from the step."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up nothing."""


def is_due(run: Run, every: int) -> bool:
    """Return whether a hook that acts every so many steps, and at the end, acts after this one."""
    return run.state.step % every == 0 or run.state.step == run.config.n_steps


def evaluation_record(score: Score, step: int, n_tokens: int, seconds: float) -> EvaluationRecord:
    """Return what is recorded of an evaluation."""
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
    """Give token ids, labels, packed documents' numbers in their row and in the whole, each [B, T].

    All batches have one shape, padded with rows that score nothing: a compiled model is compiled once.
    """
    # A last token is scored and predicts nothing: it needs no place in a row.
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
    """Put a model into evaluation mode; afterwards each module's mode and torch's random state are as before."""
    modes = {module: module.training for module in model.modules()}
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    model.eval()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
