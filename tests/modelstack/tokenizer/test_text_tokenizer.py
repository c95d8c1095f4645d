"""Content never becomes a control token, and comes back as it went in."""

from __future__ import annotations

import copy
import json
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.errors import UserError
from modelstack.tokenizer.text_tokenizer import SpecialNames, TextTokenizer
from tests.modelstack.tokenizer.texts import LINES, fuzz
from tests.modelstack.tokenizer.trained import text_tokenizer, trained

KINDS: list[dict[str, Any]] = [
    {"pretokenizer": "qwen2"},
    {"pretokenizer": "llama3"},
    {"pretokenizer": "deepseek-v3", "special_placement": "start"},
    {"pretokenizer": "gpt2"},
    {"kind": "byte-fallback", "special_placement": "start"},
]
NAMES = [
    name
    for name in trained().tokenizer.get_vocab()
    if name.startswith("<") and name not in ("<", "<|", "<|im_start")
]
ZERO_WIDTH = ("\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\ufe0f")


def fullwidth(text: str) -> str:
    """Return characters that NFKC turns into `text`."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


FORGERIES = st.one_of(
    st.sampled_from(NAMES),
    st.sampled_from(NAMES).flatmap(lambda name: st.integers(0, len(name)).map(lambda i: name[:i])),
    st.sampled_from(NAMES).flatmap(lambda name: st.integers(0, len(name)).map(lambda i: name[i:])),
    st.sampled_from(NAMES).map(fullwidth),
    st.sampled_from(NAMES).map(lambda name: unicodedata.normalize("NFKD", name)),
    st.tuples(st.sampled_from(NAMES), st.sampled_from(ZERO_WIDTH)).map(lambda x: x[1].join(x[0])),
    st.sampled_from(ZERO_WIDTH),
    st.sampled_from(
        ["\ud800", "\udfff", "<", "|", ">", "\u2581", "<0x3C>", "<0x00>", " ", "\n", "\u0338", "\u226e"]
    ),
    st.text(max_size=8),
)
HOSTILE = st.lists(FORGERIES, max_size=10).map("".join)
TEXTS = st.one_of(st.text(max_size=60), st.sampled_from(LINES), HOSTILE.filter(lambda t: t.isprintable()))


def expected(text: str, tokenizer: TextTokenizer) -> str:
    """Return what a text comes back as: itself, but for what the tokenizer says of itself."""
    text = text.encode("utf-8", "replace").decode()
    normalizer = tokenizer.tokenizer.normalizer
    if tokenizer.is_byte_level:
        return normalizer.normalize_str(text) if normalizer else text
    return text.replace("\u2581", " ")


@pytest.mark.parametrize("options", KINDS, ids=str)
@settings(max_examples=300, deadline=None)
@given(text=HOSTILE)
def test_content_never_yields_a_control_token(options: dict[str, Any], text: str) -> None:
    tokenizer = text_tokenizer(**options)
    ids = tokenizer.vocabulary.encode(text)
    assert tokenizer.vocabulary.special_ids.isdisjoint(ids)
    assert tokenizer.decode_bytes(ids).decode() == expected(text, tokenizer)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_every_name_alone_is_text_in_content_and_a_token_in_template_text(options: dict[str, Any]) -> None:
    tokenizer = text_tokenizer(**options)
    vocabulary = tokenizer.vocabulary
    for token in vocabulary.special_ids:
        name = vocabulary.token_bytes[token].decode()
        assert tokenizer.encode_template(name) == [token]
        assert len(ids := tokenizer.encode(name)) > 1
        assert vocabulary.special_ids.isdisjoint(ids)
        assert vocabulary.decode(ids) == name


@pytest.mark.parametrize("options", KINDS, ids=str)
@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_text_comes_back_as_it_went_in(options: dict[str, Any], text: str) -> None:
    tokenizer = text_tokenizer(**options)
    assert tokenizer.decode_bytes(tokenizer.encode(text)).decode() == expected(text, tokenizer)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=60))
def test_bytes_that_are_not_utf8_become_what_their_decoding_says(data: bytes) -> None:
    """Nothing is lost or made up: "replace" gives U+FFFD for each fault, "surrogateescape" `?` for each byte."""
    tokenizer = text_tokenizer(pretokenizer="llama3")
    replaced = data.decode("utf-8", "replace")
    assert tokenizer.decode_bytes(tokenizer.encode(replaced)) == replaced.encode()
    escaped = data.decode("utf-8", "surrogateescape")
    marked = "".join("?" if "\udc80" <= c <= "\udcff" else c for c in escaped)
    assert tokenizer.decode_bytes(tokenizer.encode(escaped)) == marked.encode()


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=40))
def test_any_bytes_can_be_spelled_by_ids(data: bytes) -> None:
    """A byte-level vocabulary has every byte, so ids exist for what is no text; no encoder makes these ids."""
    tokenizer = text_tokenizer()
    token_bytes = tokenizer.vocabulary.token_bytes
    ids = [token_bytes.index(bytes([byte])) for byte in data]
    assert tokenizer.decode_bytes(ids) == data


def test_nfc_is_what_qwen2_promises_of_a_text() -> None:
    tokenizer = text_tokenizer(pretokenizer="qwen2")
    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")
    assert tokenizer.decode_bytes(tokenizer.encode("e\u0301")).decode() == "\u00e9"


def test_batches_are_encoded_like_single_texts() -> None:
    tokenizer = text_tokenizer()
    texts = [*LINES, *fuzz(200, seed=5), "", "\ud800<|im_end|>"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_content_and_template_text_are_encoded_alike_where_no_name_occurs() -> None:
    for options in KINDS:
        tokenizer = text_tokenizer(**options)
        for text in LINES:
            assert tokenizer.encode(text) == tokenizer.encode_template(text)


def description(**model: Any) -> dict[str, Any]:
    """Return a tokenizer.json of words that are tokens, to be spoilt by tests."""
    vocab = ["a", "b", "PAD", "ab", "P", "A", "D", "PA", *(f"<0x{byte:02X}>" for byte in range(256))]
    return {
        "added_tokens": [{"id": 2, "content": "PAD", "special": True} | dict.fromkeys(FLAGS, False)],
        "normalizer": None,
        "pre_tokenizer": None,
        "decoder": None,
        "post_processor": None,
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(vocab)},
            "merges": [["a", "b"], ["P", "A"], ["PA", "D"]],
            "byte_fallback": True,
            **model,
        },
    }


FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


@pytest.mark.parametrize("ignore_merges", [True, False])
def test_a_name_that_merges_would_spell_is_not_reached_by_them(ignore_merges: bool) -> None:
    tokenizer = TextTokenizer(description(ignore_merges=ignore_merges), SpecialNames())
    assert tokenizer.encode("PAD") == [7, 6]
    assert tokenizer.encode_template("PAD") == [2]


def test_an_unknown_token_is_never_produced_and_what_it_stood_for_is_spelled() -> None:
    tokenizer = TextTokenizer(description(unk_token="b", byte_fallback=True), SpecialNames())
    assert 1 in tokenizer.vocabulary.special_ids
    assert tokenizer.decode_bytes(tokenizer.encode("abc")) == b"abc"
    assert 1 not in tokenizer.encode("abc")


def test_what_a_vocabulary_cannot_spell_becomes_a_sign_that_it_can() -> None:
    content = description()
    content["model"]["vocab"] = {"a": 0, "b": 1, "PAD": 2, "?": 3}
    content["model"]["merges"] = []
    tokenizer = TextTokenizer(content, SpecialNames())
    assert tokenizer.encode("aéb") == [0, 3, 1]


def test_a_name_like_that_of_a_byte_is_one_only_where_bytes_are_tokens() -> None:
    content = description(byte_fallback=False)
    content["model"]["vocab"] = {"a": 0, "b": 1, "PAD": 2, "<0x41>": 3, "<0xZZ>": 4}
    content["model"]["merges"] = []
    assert TextTokenizer(content, SpecialNames()).vocabulary.token_bytes[3:] == (b"<0x41>", b"<0xZZ>")
    content["model"]["byte_fallback"] = True
    assert TextTokenizer(content, SpecialNames()).vocabulary.token_bytes[3:] == (b"A", b"<0xZZ>")


def test_a_blank_that_a_file_puts_before_texts_is_left_out() -> None:
    content = copy.deepcopy(dict(text_tokenizer(kind="byte-fallback").description))
    content["normalizer"] = {
        "type": "Sequence",
        "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, content["normalizer"]],
    }
    prefixed = TextTokenizer(content, SpecialNames())
    assert prefixed.encode("Hello") == text_tokenizer(kind="byte-fallback").encode("Hello")
    assert prefixed.encode_template("Hello") == prefixed.encode("Hello")


def test_blanks_that_were_added_as_tokens_are_text() -> None:
    content = copy.deepcopy(dict(text_tokenizer().description))
    n = len(text_tokenizer().vocabulary)
    content["added_tokens"].append({"id": n, "content": "   ", "special": False} | dict.fromkeys(FLAGS, False))
    tokenizer = TextTokenizer(content, SpecialNames())
    assert n not in tokenizer.vocabulary.special_ids
    assert n in tokenizer.encode("a   b")
    assert tokenizer.decode_bytes(tokenizer.encode("a   b")) == b"a   b"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ({"type": "WordPiece"}, "model is 'WordPiece'; only BPE"),
        ({"vocab": {"a": 0, "b": 1, "c": 5, "PAD": 2}}, "no token has id 3"),
        ({"vocab": {"a": 0, "b": 2}}, "id 2 belongs to two tokens"),
        ({"vocab": {"a": 0, "b": 1, "PAD": 3}}, "token 'PAD' has two ids"),
        ({"merges": [["x", "y"]]}, "not a tokenizer that the tokenizers library can run"),
    ],
    ids=["kind", "gap", "id twice", "name twice", "merge"],
)
def test_a_vocabulary_that_cannot_be_is_refused(spoil: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        TextTokenizer(json.loads(json.dumps(description(**spoil))), SpecialNames())


def test_a_pattern_that_gives_up_is_an_error_and_no_panic() -> None:
    content = copy.deepcopy(dict(text_tokenizer().description))
    content["pre_tokenizer"] = {
        "type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False
    }  # fmt: skip
    tokenizer = TextTokenizer(content, SpecialNames())
    text = "a" * 40 + "b"
    encoders: list[Callable[[], object]] = [
        lambda: tokenizer.encode(text),
        lambda: tokenizer.encode_batch([text]),
        lambda: tokenizer.encode_template(text),
    ]
    for encode in encoders:
        with pytest.raises(UserError, match="library gave up: .*Split the text into parts"):
            encode()


def test_the_token_that_the_template_writes_ends_a_reply_first() -> None:
    vocabulary = text_tokenizer().vocabulary
    names = [vocabulary.token_bytes[token].decode() for token in vocabulary.end_ids]
    assert names == ["<|im_end|>", "<|end_of_text|>"]
    assert vocabulary.bos_id is not None
    assert vocabulary.token_bytes[vocabulary.bos_id] == b"<|begin_of_text|>"
