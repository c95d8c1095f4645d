"""Baselines: each pays for the bytes that it says, with the training text and nothing else."""

import math
import zlib

import numpy as np
import pytest

from modelstack.errors import UserError
from modelstack.train.evaluation import HeldOut, held_out
from modelstack.train.run.baselines import Baseline, baselines, byte_ngram, token_ngram
from modelstack.train.run.ngram import fit
from tests.modelstack.train.toy_runs import TEXTS, toy_tokenizer

TRAINING = ("the dog sat on the cat, and the cat ran. " * 6, "größer als die Katze; 24 houses. " * 3)


def documents(*, begin: bool = True) -> HeldOut:
    return held_out(TEXTS[:3], toy_tokenizer(begin=begin))


def ids_of(texts: tuple[str, ...]) -> list[np.ndarray]:
    tokenizer = toy_tokenizer()
    return [np.array([tokenizer.vocabulary.bos_id, *tokenizer.encode(text)]) for text in texts]


def all_of(**options: object) -> dict[str, Baseline]:
    return {one.name: one for one in baselines(TRAINING, documents(), **options)}  # pyright: ignore


def test_deflate_pays_for_each_document_alone() -> None:
    texts = [text.encode() for text in TEXTS[:3]]
    # zlib's own frame is 2 bytes before and 4 behind the deflated data.
    expected = sum(8 * (len(zlib.compress(text, 9)) - 6) for text in texts) / sum(map(len, texts))
    found = all_of()["gzip"]
    assert found.bits_per_byte == pytest.approx(expected)
    assert found.n_bytes == sum(map(len, texts))
    assert found.low is not None and found.high is not None and found.low <= found.bits_per_byte <= found.high


def test_a_dictionary_of_the_training_text_saves_bits() -> None:
    seen = {one.name: one.bits_per_byte for one in baselines(TEXTS[:3], documents())}
    assert seen["zstd, trained"] < 0.5 * seen["gzip"]
    assert seen["zstd, trained"] < 0.7 * all_of()["zstd, trained"].bits_per_byte


def test_a_stream_has_no_interval_over_documents() -> None:
    found = all_of()["xz"]
    assert (found.low, found.high) == (None, None)
    assert found.n_bytes == sum(len(text.encode()) for text in TEXTS[:3])


def test_ngrams_are_fitted_on_the_training_text_alone() -> None:
    found = all_of(byte_order=3)["3-gram, bytes"]
    model = fit([np.frombuffer(text.encode(), np.uint8) for text in TRAINING], 256, 3)
    texts = [np.frombuffer(text.encode(), np.uint8) for text in TEXTS[:3]]
    bits = -sum(model.log2_probabilities(text).sum() for text in texts)
    assert found.bits_per_byte == pytest.approx(bits / sum(map(len, texts)))


def test_what_is_given_to_the_model_is_given_to_the_bytes_too() -> None:
    asked = documents(begin=False)
    score = byte_ngram([text.encode() for text in TRAINING], asked, 3)
    model = fit([np.frombuffer(text.encode(), np.uint8) for text in TRAINING], 256, 3)
    for nats, given, scored in zip(score.nats, asked.given, asked.scored, strict=True):
        bits = -model.log2_probabilities(np.frombuffer(given + scored, np.uint8))
        assert len(given) > 0
        assert nats == pytest.approx(bits[len(given) :].sum() * math.log(2))
    assert list(score.n_bytes) == list(asked.n_bytes)


def test_tokens_pay_for_the_bytes_that_they_stand_for() -> None:
    asked, V = documents(), len(toy_tokenizer().vocabulary)
    found = all_of(training_ids=ids_of(TRAINING), vocab_size=V)["3-gram, tokens"]
    score = token_ngram(ids_of(TRAINING), V, asked, 3)
    assert found.bits_per_byte == score.bits_per_byte
    assert list(score.n_tokens) == [len(ids) - 1 for ids in asked.ids]
    bits = -sum(fit(ids_of(TRAINING), V, 3).log2_probabilities(ids)[1:].sum() for ids in asked.ids)
    assert found.bits_per_byte == pytest.approx(bits / sum(asked.n_bytes))


def test_without_training_text_there_is_no_baseline() -> None:
    with pytest.raises(UserError, match="there is none"):
        baselines(("",), documents())
