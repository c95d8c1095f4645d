"""Trained tokenizers: equal to plain `tokenizers` calls, deterministic, special tokens where they were wanted."""

from __future__ import annotations

import json
import random

import pytest
from pydantic import ValidationError
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from modelstack.errors import UserError
from modelstack.tokenizer.special_tokens import SpecialTokens
from modelstack.tokenizer.text_tokenizer import byte_alphabet
from modelstack.tokenizer.training import BYTE_NAMES, TokenizerConfig, train_tokenizer
from tests.modelstack.tokenizer.texts import LINES, fuzz
from tests.modelstack.tokenizer.trained import DOCUMENTS, text_tokenizer, trained

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def reference(n_tokens: int) -> Tokenizer:
    """Return a byte-level BPE in Qwen2's manner, by the calls that the library's documentation shows."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(DOCUMENTS, trainer)
    return tokenizer


def test_ids_equal_those_of_a_tokenizer_trained_with_plain_calls() -> None:
    ours = trained()
    theirs = reference(ours.n_learnt)
    for text in (*LINES, *fuzz(2000, seed=4), ""):
        assert text_tokenizer().encode(text) == theirs.encode(text).ids
    assert ours.n_learnt == theirs.get_vocab_size()


def test_special_tokens_at_the_start_move_all_other_ids_and_change_nothing_else() -> None:
    at_end, at_start = trained(), trained(special_placement="start")
    n_special = at_start.tokenizer.get_vocab_size() - at_start.n_learnt
    assert at_start.tokenizer.token_to_id("<|begin_of_text|>") == 0
    assert at_end.tokenizer.token_to_id("<|begin_of_text|>") == at_end.n_learnt
    for text in LINES:
        assert at_start.tokenizer.encode(text, add_special_tokens=False).ids == [
            i + n_special for i in at_end.tokenizer.encode(text, add_special_tokens=False).ids
        ]


def test_the_order_of_documents_does_not_matter() -> None:
    shuffled = list(DOCUMENTS)
    random.Random(0).shuffle(shuffled)
    again = train_tokenizer(iter(shuffled), trained().config)
    assert again.tokenizer.to_str() == trained().tokenizer.to_str()
    assert (again.n_documents, again.n_bytes) == (trained().n_documents, trained().n_bytes)


@pytest.mark.parametrize("kind", ["byte-level", "byte-fallback"])
@pytest.mark.parametrize("placement", ["start", "end"])
def test_ids_have_no_gaps_and_fill_a_multiple_with_spares(kind: str, placement: str) -> None:
    made = trained(kind=kind, special_placement=placement, vocab_size=1000, pad_to_multiple_of=128)
    vocab = made.tokenizer.get_vocab()
    assert sorted(vocab.values()) == list(range(1024))
    reserved = [name for name in vocab if name.startswith("<|reserved_")]
    marks = made.config.special_tokens
    n_named = len(marks.controls()) + len(marks.frames())
    assert 16 + 24 <= len(reserved) == 1024 - n_named - made.n_learnt
    assert set(reserved) == set(marks.reserved(len(reserved)))


def test_all_bytes_are_tokens() -> None:
    assert {bytes([b]) for b in range(256)} <= set(text_tokenizer().vocabulary.token_bytes)
    assert set(BYTE_NAMES) <= set(trained(kind="byte-fallback").tokenizer.get_vocab())
    assert sorted(byte_alphabet().values()) == list(range(256))
    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())


def test_a_character_that_is_no_token_is_spelled_in_bytes() -> None:
    made = trained(kind="byte-fallback", max_alphabet=40)
    tokens = made.tokenizer.encode("\U0001f9a5", add_special_tokens=False).tokens
    assert tokens == ["<0xF0>", "<0x9F>", "<0xA6>", "<0xA5>"]


def test_no_token_holds_two_digits_where_digits_are_single() -> None:
    for made in (text_tokenizer(), text_tokenizer(kind="byte-fallback")):
        vocabulary = made.vocabulary
        texts = [t for i, t in enumerate(vocabulary.token_bytes) if i not in vocabulary.special_ids]
        assert max(sum(48 <= byte < 58 for byte in token) for token in texts) == 1
    three = text_tokenizer(digits="3").vocabulary.token_bytes
    assert max(sum(48 <= byte < 58 for byte in t) for t in three if not t.startswith(b"<|")) == 3


def test_longer_tokens_than_allowed_are_not_made() -> None:
    vocabulary = text_tokenizer(max_token_length=4).vocabulary
    assert max(len(t) for i, t in enumerate(vocabulary.token_bytes) if i not in vocabulary.special_ids) == 4


def test_the_begin_token_goes_before_a_text_when_special_tokens_are_asked_for() -> None:
    tokenizer = trained().tokenizer
    assert tokenizer.encode("a").tokens == ["<|begin_of_text|>", "a"]
    without = TokenizerConfig(vocab_size=1024, special_tokens=SpecialTokens(begin_of_text=None))
    assert train_tokenizer(DOCUMENTS, without).tokenizer.encode("a").tokens == ["a"]


def test_marks_of_calls_stay_in_decoded_text_and_marks_of_turns_do_not() -> None:
    tokenizer = trained().tokenizer
    ids = tokenizer.encode("<|im_start|>a<tool_call>b</tool_call><|im_end|>").ids
    assert tokenizer.decode(ids) == "a<tool_call>b</tool_call>"


def test_the_fingerprint_follows_every_setting() -> None:
    config = TokenizerConfig()
    assert (
        config.fingerprint() == TokenizerConfig.model_validate(json.loads(config.model_dump_json())).fingerprint()
    )
    changes: list[dict[str, object]] = [
        {"vocab_size": 999},
        {"digits": "2"},
        {"special_tokens": {"n_reserved": 3}},
    ]
    others = [TokenizerConfig.model_validate(change).fingerprint() for change in changes]
    assert len({config.fingerprint(), *others}) == 4


def test_no_text_is_an_error_that_says_so() -> None:
    with pytest.raises(UserError, match="no text to learn from: all 2 documents are empty"):
        train_tokenizer(["", ""])


def test_a_vocabulary_without_room_for_merges_is_refused() -> None:
    with pytest.raises(UserError, match="vocab_size 300 leaves no room for merges"):
        train_tokenizer(LINES, TokenizerConfig(vocab_size=300, special_tokens=SpecialTokens(n_reserved=50)))


def test_groups_of_digits_need_cuts() -> None:
    with pytest.raises(UserError, match="digits '3' is impossible for kind 'byte-fallback'"):
        train_tokenizer(LINES, TokenizerConfig(kind="byte-fallback", digits="3"))


def test_a_name_that_documents_spell_out_is_no_learnt_token() -> None:
    made = train_tokenizer(["<think> the the <think>"] * 99, TokenizerConfig(kind="byte-fallback", vocab_size=400))
    text = made.text_tokenizer()
    (mark,) = text.encode_template("<think>")
    ids = text.encode("the <think>")
    assert mark in text.vocabulary.special_ids
    assert mark not in ids
    assert text.vocabulary.decode(ids) == "the <think>"


@pytest.mark.parametrize(
    ("marks", "reason"),
    [
        ({"turn": ("<|x|>", "<|x|>")}, "'<|x|>' is named twice"),
        ({"end_of_text": "<|im_end|>"}, "named twice"),
        ({"think": (" <t>", "</t>")}, "begins or ends with a blank"),
        ({"think": ("<\n>", "</t>")}, "is not printable"),
    ],
)
def test_marks_that_could_be_confused_are_refused(marks: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason.replace("|", r"\|")):
        SpecialTokens.model_validate(marks)
