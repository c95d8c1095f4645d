"""GGUF both ways: ids equal to llama.cpp's for the real SmolLM2 and for what is trained here; broken files."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.errors import UserError
from modelstack.gguf_file import read_gguf_fields
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.tokenizer.gguf_tokenizer import gguf_fields, read_gguf_tokenizer, tokenizer_from_fields
from modelstack.tokenizer.text_tokenizer import SpecialNames, TextTokenizer
from modelstack.tokenizer.tokenizer_folder import load_tokenizer
from tests.modelstack.tokenizer.llama_ids import llama_ids, write_vocabulary_gguf
from tests.modelstack.tokenizer.texts import LINES, fuzz
from tests.modelstack.tokenizer.trained import text_tokenizer

CODE = tuple(Path(__file__).read_text(encoding="utf-8").splitlines(keepends=True))
KINDS: list[dict[str, Any]] = [
    {"pretokenizer": "gpt2"},
    {"pretokenizer": "smollm", "special_placement": "start"},
    {"pretokenizer": "llama3"},
    {"pretokenizer": "llama3", "digits": "1"},
    {"pretokenizer": "qwen2"},
    {"pretokenizer": "deepseek-v3"},
    {"kind": "byte-fallback", "special_placement": "start"},
    {"kind": "byte-fallback", "digits": "runs"},
]


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> TextTokenizer:
    return load_tokenizer(smollm2_gguf)


def test_ids_of_smollm2_equal_llama_cpps(smollm2: TextTokenizer, smollm2_gguf: Path) -> None:
    # A character without its bytes in the vocabulary is dropped by llama.cpp; here it becomes U+FFFD.
    texts = [
        t
        for t in (*LINES, *CODE, *fuzz(4000, seed=6))
        if "\ufffd" not in smollm2.vocabulary.decode(smollm2.encode(t))
    ]
    assert len(texts) > 3500
    theirs = llama_ids(smollm2_gguf, texts)
    assert [text for text, ids in zip(texts, theirs, strict=True) if smollm2.encode(text) != ids] == []


def test_template_text_of_smollm2_is_encoded_as_llama_cpp_does(smollm2: TextTokenizer, smollm2_gguf: Path) -> None:
    texts = ["<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "<|im_end|><|endoftext|> a<|im_start|>b"]
    assert [smollm2.encode_template(text) for text in texts] == llama_ids(smollm2_gguf, texts, parse_special=True)


def test_the_vocabulary_of_smollm2_is_the_one_that_the_engine_has(
    smollm2: TextTokenizer, smollm2_gguf: Path
) -> None:
    with LlamaCppEngine(smollm2_gguf, n_threads=1, n_threads_prefill=1, context_window=64) as engine:
        theirs = engine.vocabulary
        ours = smollm2.vocabulary
        assert ours.fingerprint == theirs.fingerprint
        assert (ours.end_ids, ours.bos_id, ours.special_ids) == (theirs.end_ids, theirs.bos_id, theirs.special_ids)
        assert smollm2.chat_template == engine.chat_template
        for text in (*LINES, *fuzz(500, seed=7), "\x04 <|im_end|>", "\ud800"):
            assert ours.encode(text) == theirs.encode(text)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_ids_of_a_trained_tokenizer_equal_llama_cpps(options: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python (extra `local`)")
    tokenizer = text_tokenizer(**options)
    normalizer = tokenizer.tokenizer.normalizer if tokenizer.is_byte_level else None
    # llama.cpp itself is no safe encoder of content: it finds user-defined tokens in any text, and SentencePiece
    # merges may spell a control token there.
    names = [tokenizer.vocabulary.token_bytes[token].decode() for token in tokenizer.vocabulary.special_ids]
    texts = [t for t in (*LINES, *CODE, *fuzz(2000, seed=8)) if not any(name in t for name in names)]
    assert len(texts) > 1900
    texts = [normalizer.normalize_str(text) if normalizer else text for text in texts]
    path = write_vocabulary_gguf(tmp_path / "vocabulary.gguf", gguf_fields(tokenizer))
    theirs = llama_ids(path, texts)
    assert [text for text, ids in zip(texts, theirs, strict=True) if tokenizer.encode(text) != ids] == []
    rendered = "<|begin_of_text|><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<tool_call>{}</tool_call>"
    assert llama_ids(path, [rendered], parse_special=True) == [tokenizer.encode_template(rendered)]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_tokenizer_comes_back_from_its_metadata(options: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = text_tokenizer(**options)
    path = write_vocabulary_gguf(tmp_path / "vocabulary.gguf", gguf_fields(tokenizer))
    again = read_gguf_tokenizer(path)
    assert again.vocabulary.fingerprint == tokenizer.vocabulary.fingerprint
    assert (again.vocabulary.bos_id, again.chat_template) == (tokenizer.vocabulary.bos_id, tokenizer.chat_template)
    assert gguf_fields(again) == gguf_fields(tokenizer)
    for text in (*LINES, *fuzz(300, seed=9)):
        normal = tokenizer.decode_bytes(tokenizer.encode(text)).decode()
        assert again.encode(normal) == tokenizer.encode(text)


def test_metadata_name_every_token_and_its_role() -> None:
    tokenizer = text_tokenizer(pretokenizer="smollm")
    fields = gguf_fields(tokenizer)
    tokens, types, merges = (fields[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type", "merges"))
    assert isinstance(tokens, list)
    assert isinstance(types, list)
    assert merges
    role = dict(zip(tokens, types, strict=True))
    assert (role["<|im_end|>"], role["<tool_call>"], role["<|reserved_0|>"], role["a"]) == (3, 4, 3, 1)
    named = {key: tokens[fields[f"tokenizer.ggml.{key}_token_id"]] for key in ("bos", "eos", "padding", "eot")}  # pyright: ignore
    assert named == {
        "bos": "<|begin_of_text|>",
        "eos": "<|end_of_text|>",
        "padding": "<|end_of_text|>",
        "eot": "<|im_end|>",
    }
    assert fields["tokenizer.ggml.add_bos_token"] is True


@pytest.mark.parametrize("options", [{"pretokenizer": "gpt4"}, {"digits": "2"}, {"digits": "right-3"}], ids=str)
def test_a_cut_that_llama_cpp_cannot_make_is_not_written(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="no name for this way to split text.*Presets that it supports"):
        gguf_fields(text_tokenizer(**options))


def test_a_normaliser_that_llama_cpp_lacks_is_not_written() -> None:
    content = {**text_tokenizer(pretokenizer="gpt2").description, "normalizer": {"type": "Lowercase"}}
    with pytest.raises(UserError, match="no normaliser like .*Lowercase"):
        gguf_fields(TextTokenizer(content, SpecialNames()))


def test_a_vocabulary_without_merges_is_not_written() -> None:
    content = dict(text_tokenizer(pretokenizer="gpt2").description)
    content["model"] = {**content["model"], "merges": []}
    with pytest.raises(UserError, match="has no merges"):
        gguf_fields(TextTokenizer(content, SpecialNames()))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ({"model": "bert"}, "is 'bert'; known models: 'gpt2' and 'llama'"),
        ({"pre": "kimi-k2"}, "'kimi-k2', whose pattern is not known"),
        ({"merges": ["a"]}, "merge 'a' does not consist of tokens"),
        ({"merges": ["a q\u0100"]}, "does not consist of tokens, or its result is not a token"),
        ({"tokens": None}, "tokens is missing or not a list of str"),
        ({"token_type": [1]}, "token_type has 1 entries for 1024 tokens"),
        ({"tokens": ["a"] * 1024}, "two tokens have the same name"),
        ({"tokens": ["a" * 2000, *map(str, range(1023))]}, "is empty or longer than"),
    ],
    ids=str,
)
def test_metadata_that_make_no_tokenizer_are_refused(spoil: dict[str, Any], reason: str) -> None:
    fields = gguf_fields(text_tokenizer(pretokenizer="gpt2")) | {
        f"tokenizer.ggml.{name}": value for name, value in spoil.items()
    }
    with pytest.raises(UserError, match=reason):
        tokenizer_from_fields(fields, Path("some.gguf"))


def header(*values: bytes, n_keys: int = 1) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, n_keys) + b"".join(values)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GGUX" + bytes(40), "does not begin with b'GGUF'"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 1), "version .* is not known"),
        (header(n_keys=1 << 40), "1,099,511,627,776 keys"),
        (header(struct.pack("<Q", 1 << 62)), "cut off, or declares"),
        (header(text(b"tokenizer.x"), struct.pack("<IIQ", 9, 8, 1 << 50)), "cut off, or declares"),
        (header(text(b"other"), struct.pack("<IIQ", 9, 4, 1 << 50)), "cut off, or declares"),
        (header(text(b"other"), struct.pack("<IQ", 8, 1 << 50)), "cut off, or declares"),
        (header(text(b"tokenizer.x"), struct.pack("<IIQ", 9, 9, 3)), "value type 9 is not known"),
        (header(text(b"tokenizer.x"), struct.pack("<IIQ", 9, 4, 3)), "cut off"),
        (header(text(b"tokenizer.x")), "cut off"),
    ],
    ids=[
        "magic",
        "byte order",
        "keys",
        "text",
        "items",
        "skipped items",
        "skipped text",
        "nested",
        "short",
        "end",
    ],
)
def test_a_broken_or_hostile_file_is_refused_before_anything_large_is_read(
    data: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(data)
    with pytest.raises(UserError, match=reason):
        read_gguf_fields(path, "tokenizer.")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_file_with_any_byte_changed_or_cut_loads_or_says_why_not(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    whole = folder / "whole.gguf"
    if not whole.exists():
        write_vocabulary_gguf(whole, gguf_fields(text_tokenizer(pretokenizer="gpt2", vocab_size=320)))
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    spoilt = folder / "spoilt.gguf"
    spoilt.write_bytes(content)
    try:
        tokenizer = read_gguf_tokenizer(spoilt)
    except UserError as error:
        assert str(error)
    else:
        assert tokenizer.vocabulary.special_ids.isdisjoint(tokenizer.encode("a <|im_end|> b"))


def test_all_kinds_of_values_are_read(tmp_path: Path) -> None:
    fields = {"x.a": True, "x.b": 7, "x.c": "é", "x.d": [1, -2], "x.e": [0.5, 1.5], "x.f": ["a", ""], "y.g": "no"}
    path = write_vocabulary_gguf(tmp_path / "values.gguf", fields)
    read = read_gguf_fields(path, "x.")
    assert read == {key: value for key, value in fields.items() if key.startswith("x.")}


def test_a_missing_file_names_its_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.gguf does not exist"):
        load_tokenizer(tmp_path / "nowhere.gguf")


def test_more_metadata_than_any_tokenizer_has_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_vocabulary_gguf(tmp_path / "long.gguf", {"x.a": "b" * 5_000})
    monkeypatch.setattr("modelstack.gguf_file.MAX_METADATA_BYTES", 4_000)
    with pytest.raises(UserError, match="more than 4,000 bytes of metadata"):
        read_gguf_fields(path)
