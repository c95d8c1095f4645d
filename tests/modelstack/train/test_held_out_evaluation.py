"""Held-out loss: each token and byte counted once, whatever the rows; nothing of the training is touched."""

import math
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.train import evaluation as module
from modelstack.train.evaluation import Evaluation, Score, evaluate, held_out
from modelstack.train.loop import train
from modelstack.train.metrics import JsonLines, Metrics, read_metrics
from tests.modelstack.train.toy_runs import TEXTS, toy_model, toy_run, toy_tokenizer


def nats_one_by_one(ids: np.ndarray, row_tokens: int) -> float:
    """Return a document's surprise, each row of it by a call of its own."""
    model = toy_model().eval()
    total = 0.0
    for start in range(0, len(ids) - 1, row_tokens):
        piece = torch.from_numpy(ids[start : start + row_tokens + 1])
        with torch.no_grad():
            logits = model(piece[None, :-1]).logits_BTV[0]
        total += float(F.cross_entropy(logits, piece[1:], reduction="sum"))
    return total


@pytest.mark.parametrize("row_tokens", [16, 1024])
def test_packed_rows_give_each_document_what_it_gets_alone(row_tokens: int) -> None:
    documents = held_out(TEXTS, toy_tokenizer())
    score = evaluate(toy_model(), documents, row_tokens)
    assert max(map(len, documents.ids)) > 16
    for nats, ids in zip(score.nats, documents.ids, strict=True):
        assert nats == pytest.approx(nats_one_by_one(ids, row_tokens), rel=1e-5)
    assert list(score.n_tokens) == [len(ids) - 1 for ids in documents.ids]


def test_with_a_begin_token_all_bytes_of_the_texts_count() -> None:
    documents = held_out(TEXTS, toy_tokenizer())
    assert documents.scored == tuple(text.encode() for text in TEXTS)
    assert list(documents.n_bytes) == [len(text.encode()) for text in TEXTS]
    assert documents.given == (b"",) * len(TEXTS)


def test_without_a_begin_token_the_first_tokens_bytes_do_not_count() -> None:
    tokenizer = toy_tokenizer(begin=False)
    documents = held_out((*TEXTS, "", "s"), tokenizer)
    kept = [text for text in TEXTS if len(tokenizer.encode(text)) > 1]
    assert [given + rest for given, rest in zip(documents.given, documents.scored, strict=True)] == [
        text.encode() for text in kept
    ]
    assert all(documents.given)
    assert list(documents.n_bytes) == [len(rest) for rest in documents.scored]


def test_a_uniform_model_pays_the_logarithm_of_its_vocabulary() -> None:
    model = toy_model()
    torch.nn.init.zeros_(model.lm_head.weight)
    documents = held_out(TEXTS, toy_tokenizer())
    score = evaluate(model, documents, 32)
    V = model.config.vocab_size
    assert score.loss == pytest.approx(math.log(V), rel=1e-6)
    n_tokens, n_bytes = sum(len(ids) - 1 for ids in documents.ids), sum(len(t.encode()) for t in TEXTS)
    assert score.bits_per_byte == pytest.approx(math.log2(V) * n_tokens / n_bytes, rel=1e-6)


def test_few_logits_at_once_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = held_out(TEXTS, toy_tokenizer())
    whole = evaluate(toy_model(), documents, 16)
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 3 * 16 * toy_model().config.vocab_size)
    assert evaluate(toy_model(), documents, 16).nats == pytest.approx(whole.nats, rel=1e-6)


def test_mode_gradients_and_random_numbers_are_left_as_they_were() -> None:
    model = toy_model()
    model.train()
    model.model.layers[0].eval()
    torch.rand(3)
    state = torch.get_rng_state()
    evaluate(model, held_out(TEXTS, toy_tokenizer()), 32)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and not model.model.layers[0].training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_text_to_score_is_told() -> None:
    with pytest.raises(UserError, match="none of 2 held-out documents"):
        held_out(("", ""), toy_tokenizer())


def test_the_fingerprint_is_of_the_bytes_and_their_borders() -> None:
    tokenizer = toy_tokenizer()
    assert held_out(("ab", "c"), tokenizer).fingerprint == held_out(("ab", "c"), tokenizer).fingerprint
    assert held_out(("ab", "c"), tokenizer).fingerprint != held_out(("a", "bc"), tokenizer).fingerprint


def test_the_interval_covers_the_value_and_is_a_point_for_equal_documents() -> None:
    score = Score(np.array([1.0, 2.0, 6.0]), np.array([1, 1, 1]), np.array([4, 4, 4]))
    interval = score.interval()
    assert interval.value == pytest.approx(9 / math.log(2) / 12)
    assert interval.low < interval.value < interval.high
    equal = Score(np.full(5, 2.0), np.full(5, 1), np.full(5, 4)).interval()
    assert equal.low == pytest.approx(equal.high)


def test_the_hook_evaluates_every_so_many_steps_and_at_the_end_and_changes_no_step(tmp_path: Path) -> None:
    plain = [report.losses for report in train(toy_run(7))]
    run = toy_run(7)
    metrics = Metrics([JsonLines(tmp_path / "metrics.jsonl")])
    documents = held_out(TEXTS, toy_tokenizer())
    evaluation = Evaluation(partial(evaluate, documents=documents, row_tokens=32), every=3, metrics=metrics)
    run.hooks = {"metrics": metrics, "evaluation": evaluation}
    assert [report.losses for report in train(run)] == plain
    metrics.close()
    found = read_metrics(tmp_path / "metrics.jsonl").evaluations
    assert [(record.step, record.n_tokens) for record in found] == [(2, 120), (5, 240), (6, 280)]
    assert found[-1].n_bytes == sum(documents.n_bytes)
    assert found[-1].n_documents == len(TEXTS)
    assert evaluation.last is not None and found[-1].bits_per_byte == evaluation.last.bits_per_byte
    assert evaluation.last.bits_per_byte == evaluate(cast(CausalLM, run.state.model), documents, 32).bits_per_byte
