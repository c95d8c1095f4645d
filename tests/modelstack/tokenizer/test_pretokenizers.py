"""Presets cut as the originals do: tiktoken's and transformers' patterns in another regex engine; llama.cpp."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any, cast

import pytest

from modelstack.errors import UserError
from modelstack.tokenizer.gguf_tokenizer import gguf_fields
from modelstack.tokenizer.pretokenizers import GGML_NAMES, Digits, PresetName, PreTokenizer, ggml_pretokenizer
from modelstack.tokenizer.pretokenizers import pretokenizer as preset
from modelstack.tokenizer.text_tokenizer import SpecialNames, TextTokenizer
from tests.modelstack.tokenizer.llama_ids import llama_ids, write_vocabulary_gguf
from tests.modelstack.tokenizer.texts import LINES, fuzz

LONG_S = "'\u017f"


def pieces(cut: PreTokenizer, text: str) -> list[str]:
    """Return where a preset cuts, in characters."""
    return [text[start:end] for _, (start, end) in built(cut).pre_tokenize_str(text)]


@functools.cache
def built(cut: PreTokenizer) -> Any:
    """Return what cuts: to compile its pattern takes longer than to cut a text."""
    return cut.build()


def tiktoken_pattern(encoding: str) -> str:
    """Return the pattern that tiktoken has for an encoding, without the ranks, which it would download."""
    public = pytest.importorskip("tiktoken_ext.openai_public", reason="needs tiktoken (extra `evals`)")
    nothing: dict[str, Any] = {"load_tiktoken_bpe": lambda *_args, **_named: {}}
    nothing["data_gym_to_mergeable_bpe_ranks"] = nothing["load_tiktoken_bpe"]
    with pytest.MonkeyPatch.context() as patch:
        for name, function in nothing.items():
            patch.setattr(public, name, function)
        return public.ENCODING_CONSTRUCTORS[encoding]()["pat_str"]


def other_engine(pattern: str, text: str) -> list[str]:
    """Return the cuts that the package `regex` makes, which is no Oniguruma."""
    regex = pytest.importorskip("regex", reason="comes with transformers (extra `dev`)")
    return regex.findall(pattern, text)


def transformers_pattern(name: PresetName) -> str:
    if name == "qwen2":
        from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

        return PRETOKENIZE_REGEX
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    return GGUF_PRE_TOKENIZER_SPLITS[{"llama3": "llama-bpe", "o200k": "gpt-4o"}[name]]


@pytest.mark.parametrize(
    ("name", "encoding"), [("gpt2", "gpt2"), ("gpt4", "cl100k_base"), ("o200k", "o200k_base")]
)
def test_openais_presets_cut_as_tiktokens_patterns_do(name: PresetName, encoding: str) -> None:
    pattern = tiktoken_pattern(encoding)
    for text in (*LINES, *fuzz(2000), "a\n  ", "a  \n\n", "12345"):
        assert pieces(preset(name), text) == other_engine(pattern, text)


@pytest.mark.parametrize("name", ["llama3", "qwen2", "o200k"])
def test_presets_cut_as_the_patterns_in_transformers_do(name: PresetName) -> None:
    pytest.importorskip("transformers", reason="the reference; extra `dev`")
    pattern = transformers_pattern(name)
    for text in (*LINES, *fuzz(2000)):
        assert pieces(preset(name), text) == other_engine(pattern, text)


def test_smollm_cuts_as_tokenizers_own_digits_and_gpt2_parts_do() -> None:
    from tokenizers import pre_tokenizers

    parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    own = pre_tokenizers.Sequence(parts)
    for text in (*LINES, *fuzz(2000)):
        assert built(preset("smollm")).pre_tokenize_str(text) == own.pre_tokenize_str(text)


def test_nanochat_is_llama3_with_two_digits_in_its_own_spelling() -> None:
    # karpathy/nanochat, tokenizer.py: SPLIT_PATTERN
    pattern = (
        r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"""
        r"""|\s+(?!\S)|\s+"""
    )
    for text in (*LINES, *fuzz(2000)):
        assert pieces(preset("nanochat"), text) == other_engine(pattern, text)


def test_gpt4_keeps_blanks_at_the_end_whole_where_llama3_cuts_at_the_line_break() -> None:
    assert pieces(preset("gpt4"), "a\n  ") == ["a", "\n  "]
    assert pieces(preset("llama3"), "a\n  ") == ["a", "\n", "  "]


@pytest.mark.parametrize("name", ["gpt2", "gpt4", "llama3", "deepseek-v3", "qwen2", "o200k", "smollm", "nanochat"])
@pytest.mark.parametrize(
    ("digits", "groups"),
    [
        ("1", ["1", "2", "3", "4", "5", "6", "7"]),
        ("2", ["12", "34", "56", "7"]),
        ("3", ["123", "456", "7"]),
        ("right-3", ["1", "234", "567"]),
        ("runs", ["1234567"]),
    ],
)
def test_digits_are_grouped_as_asked_under_every_preset(
    name: PresetName, digits: Digits, groups: list[str]
) -> None:
    cut = preset(name, digits)
    assert pieces(cut, "1234567") == groups
    assert [p.strip() for p in pieces(cut, "x=1234567km") if re.search("[0-9]", p)] == groups
    assert "".join(pieces(cut, "Pay 1234567 or 89 €\n")) == "Pay 1234567 or 89 €\n"


def test_an_option_that_makes_another_preset_takes_its_name() -> None:
    assert (preset("gpt2", "1").preset, preset("gpt2", "1").ggml_pre) == ("smollm", "smollm")
    assert (preset("smollm", "runs").preset, preset("smollm", "runs").ggml_pre) == ("gpt2", "gpt-2")
    assert preset("llama3", "2").preset == "nanochat"
    three = preset("nanochat", "3")
    assert (three.preset, three.ggml_pre, three.ignore_merges) == ("llama3", "llama-bpe", True)
    assert preset("deepseek-v3", "3") == preset("deepseek-v3")


def test_a_cut_keeps_llama_cpps_name_where_only_the_normaliser_differs() -> None:
    one = preset("llama3", "1")
    assert (one.preset, one.ggml_pre, one.nfc) == (None, "qwen2", False)
    assert preset("qwen2").nfc


@pytest.mark.parametrize("name", ["gpt4", "nanochat"])
def test_what_llama_cpp_does_not_know_has_no_name(name: PresetName) -> None:
    assert preset(name).ggml_pre is None
    assert preset("o200k", "right-3").ggml_pre is None


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="'gpt5' is not known; known: gpt2"):
        preset(cast(PresetName, "gpt5"))
    with pytest.raises(UserError, match="'4' is not a grouping; known: 1, 2"):
        preset("gpt2", cast(Digits, "4"))
    with pytest.raises(UserError, match="'kimi-k2', whose pattern is not known"):
        ggml_pretokenizer("kimi-k2")


@functools.cache
def merges_across_cuts() -> dict[str, Any]:
    """Return a model trained on text that was not cut at all, so that a missing or additional cut shows in ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=2500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([*LINES, *LINES, *fuzz(8000, seed=1), *[LONG_S + "Hello"] * 4], trainer)
    return json.loads(tokenizer.to_str())


def crossing_tokenizer(cut: PreTokenizer) -> TextTokenizer:
    description = merges_across_cuts()
    description["pre_tokenizer"] = json.loads(cut.build().__getstate__())
    description["decoder"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    description["model"]["ignore_merges"] = cut.ignore_merges
    return TextTokenizer(description, SpecialNames(end="<|end|>"))


def differing(name: PresetName, texts: list[str], folder: Path) -> list[str]:
    """Return the texts that llama.cpp encodes differently under the preset's name."""
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python (extra `local`)")
    cut = preset(name)
    tokenizer = crossing_tokenizer(cut)
    fields = gguf_fields(tokenizer)
    assert fields["tokenizer.ggml.pre"] == cut.ggml_pre
    theirs = llama_ids(write_vocabulary_gguf(folder / "vocabulary.gguf", fields), texts)
    return [text for text, ids in zip(texts, theirs, strict=True) if tokenizer.encode(text) != ids]


@pytest.mark.parametrize("name", ["gpt2", "smollm", "deepseek-v3", "llama3", "qwen2"])
def test_ids_equal_llama_cpps_under_the_presets_name(name: PresetName, tmp_path: Path) -> None:
    assert differing(name, [*LINES, *fuzz(3000, seed=2)], tmp_path) == []


@pytest.mark.parametrize("name", ["llama3", "qwen2"])
def test_llama_cpp_takes_no_long_s_for_a_contraction(name: PresetName, tmp_path: Path) -> None:
    assert pieces(preset(name), LONG_S + "Hello") == [LONG_S, "Hello"]
    assert differing(name, [LONG_S + "Hello", "'sHello"], tmp_path) == [LONG_S + "Hello"]


def test_llama_cpps_o200k_differs_only_where_combining_marks_are(tmp_path: Path) -> None:
    import unicodedata

    texts = [*LINES, *fuzz(3000, seed=2)]
    differ = differing("o200k", texts, tmp_path)
    assert differ
    assert all(any(unicodedata.category(c).startswith("M") for c in text) for text in differ)


def test_a_wrong_name_shows_in_the_ids(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python (extra `local`)")
    texts = fuzz(300, seed=2)
    tokenizer = crossing_tokenizer(preset("gpt2"))
    for other in ("smollm", "llama-bpe", "qwen2", "deepseek-v3"):
        fields = {**gguf_fields(tokenizer), "tokenizer.ggml.pre": other}
        theirs = llama_ids(write_vocabulary_gguf(tmp_path / "vocabulary.gguf", fields), texts)
        assert sum(tokenizer.encode(text) != ids for text, ids in zip(texts, theirs, strict=True)) > 5


def test_every_name_of_llama_cpp_gives_the_cut_of_a_preset() -> None:
    for name in GGML_NAMES:
        cut = ggml_pretokenizer(name)
        assert cut.ggml_pre == name
        assert "".join(pieces(cut, LINES[0])) == LINES[0]
