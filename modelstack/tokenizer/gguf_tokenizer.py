"""Tokenizers in GGUF files, import and export (keys: ggml's docs/gguf.md; meaning: llama.cpp's `llama-vocab.cpp`).

`tokenizer.ggml.model` "gpt2" is byte-level BPE: ordered merges, split by the pattern named `tokenizer.ggml.pre`.
"llama" is SentencePiece: no merges but a score for each token; the neighbours whose union has the best score are
joined first. This equals BPE with all ways to spell a token as merges, best score first, and is imported as such.

Features that the format cannot express are rejected: a pattern without a name in llama.cpp, a normaliser other
than NFC. NFC itself is dropped without an error, as in every GGUF of Qwen: llama.cpp encodes text unnormalised.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelstack.errors import UserError
from modelstack.gguf_file import read_gguf_fields
from modelstack.tokenizer.pretokenizers import ggml_name, ggml_pretokenizer, pretokenizer
from modelstack.tokenizer.text_tokenizer import BLANK, BYTE_NAMES, SpecialNames, TextTokenizer, token_names
from modelstack.tokenizer.vocabulary import check_tokens

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Token types, `enum llama_token_type` of llama.h."""
_KEY = "tokenizer.ggml."
_TEMPLATE_KEY = "tokenizer.chat_template"


def read_gguf_tokenizer(path: str | os.PathLike[str]) -> TextTokenizer:
    """Return the tokenizer inside a GGUF file; its ids are those of llama.cpp.

    Raises:
        UserError: The file contains no tokenizer, is broken, or has a tokenizer of an unknown kind.
    """
    path = Path(path)
    fields = read_gguf_fields(path, "tokenizer.")
    return tokenizer_from_fields(fields, path)


def tokenizer_from_fields(fields: Mapping[str, Any], path: Path) -> TextTokenizer:
    """Return the tokenizer that metadata describe; `path` is used in messages.

    Raises:
        UserError: A field is missing or has the wrong type, or the tokenizer's kind is unknown.
    """
    tokens = _list(fields, "tokens", str, path)
    check_tokens(tokens, path)
    if len(set(tokens)) != len(tokens):
        raise UserError(f"{path}: two tokens have the same name")
    types = _list(fields, "token_type", int, path, n=len(tokens))
    model = fields.get(_KEY + "model")
    if model == "gpt2":
        description = _byte_level(fields, tokens, path)
    elif model == "llama":
        description = _sentencepiece(_list(fields, "scores", float, path, n=len(tokens)), tokens, types)
    else:
        raise UserError(
            f"{path}: tokenizer.ggml.model is {model!r}; known models: 'gpt2' and 'llama' (SentencePiece)"
        )
    description["added_tokens"] = [
        {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        | {"special": types[i] != USER_DEFINED}
        for i, token in enumerate(tokens)
        if types[i] in (UNKNOWN, CONTROL, USER_DEFINED, UNUSED)
    ]
    template = fields.get(_TEMPLATE_KEY)
    template = template if isinstance(template, str) else None
    begin, end, pad = (_token(fields, role, tokens) for role in ("bos", "eos", "padding"))
    adds = fields.get(_KEY + "add_bos_token", model == "llama" or fields.get(_KEY + "pre") == "llama-bpe")
    names = SpecialNames(begin, end, pad, adds_begin=bool(adds) or "bos_token" in (template or ""))
    return TextTokenizer(description, names, template)


def gguf_fields(tokenizer: TextTokenizer) -> dict[str, str | int | bool | list[str] | list[int] | list[float]]:
    """Return the metadata with which llama.cpp encodes like this tokenizer: GGUF keys and plain values.

    Raises:
        UserError: llama.cpp would encode differently, because it has no name for the pattern or no such
            normaliser; or the vocabulary has no merges, which llama.cpp requires.
    """
    description, names = tokenizer.description, tokenizer.names
    tokens = token_names(description)
    fields: dict[str, str | int | bool | list[str] | list[int] | list[float]] = {_KEY + "tokens": list(tokens)}
    if tokenizer.is_byte_level:
        merges = [" ".join(merge) for merge in description["model"]["merges"]]
        if not merges:
            raise UserError("the vocabulary has no merges; llama.cpp requires at least one")
        fields |= {_KEY + "model": "gpt2", _KEY + "pre": _pre(description), _KEY + "merges": merges}
    else:
        _require_sentencepiece(description)
        fields |= {_KEY + "model": "llama", _KEY + "add_space_prefix": False}
        fields[_KEY + "scores"] = _scores(description, tokens)
    fields[_KEY + "token_type"] = _types(tokenizer, tokens)
    end = names.end or next((tokens[i] for i in tokenizer.vocabulary.end_ids), None)
    # Without these keys, llama.cpp would use token 11 of a byte-level vocabulary for both.
    for role, name in (("bos", names.begin or end), ("eos", end), ("padding", names.pad or end)):
        if name in tokens:
            fields[f"{_KEY}{role}_token_id"] = tokens.index(name)
    written = next(iter(tokenizer.vocabulary.end_ids), None)
    if written is not None and tokens[written] != end:
        fields[_KEY + "eot_token_id"] = written
    fields[_KEY + "add_bos_token"] = names.adds_begin
    if tokenizer.chat_template is not None:
        fields[_TEMPLATE_KEY] = tokenizer.chat_template
    return fields


def _byte_level(fields: Mapping[str, Any], tokens: Sequence[str], path: Path) -> dict[str, Any]:
    merges = [merge.split(" ", 1) for merge in _list(fields, "merges", str, path)]
    known = set(tokens)
    for merge in merges:
        if len(merge) != 2 or not {*merge, "".join(merge)} <= known:
            raise UserError(
                f"{path}: merge {' '.join(merge)!r} does not consist of tokens, or its result is not a token"
            )
    cut = ggml_pretokenizer(str(fields.get(_KEY + "pre", "")))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    stages = [
        {"type": "Split", "pattern": {"Regex": stage}, "behavior": "Isolated", "invert": False}
        for stage in cut.stages
    ]
    return _description(
        tokens,
        merges,
        ignore_merges=cut.ignore_merges,
        byte_fallback=False,
        normalizer=None,
        pre_tokenizer={"type": "Sequence", "pretokenizers": [*stages, byte_level]},
        decoder=byte_level,
    )


def _sentencepiece(scores: Sequence[float], tokens: Sequence[str], types: Sequence[int]) -> dict[str, Any]:
    score_of = {token: scores[i] for i, token in enumerate(tokens) if types[i] == NORMAL}
    best_first = sorted(score_of, key=lambda token: -score_of[token])  # ties are sorted by lower id
    merges = [
        [token[:i], token[i:]]
        for token in best_first
        for i in range(1, len(token))
        if token[:i] in score_of and token[i:] in score_of
    ]
    decoders = [
        {"type": "Replace", "pattern": {"String": BLANK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    return _description(
        tokens,
        merges,
        ignore_merges=False,
        byte_fallback=True,
        normalizer={"type": "Replace", "pattern": {"String": " "}, "content": BLANK},
        pre_tokenizer=None,
        decoder={"type": "Sequence", "decoders": decoders},
    )


def _description(
    tokens: Sequence[str],
    merges: Sequence[Sequence[str]],
    *,
    ignore_merges: bool,
    byte_fallback: bool,
    **parts: Any,
) -> dict[str, Any]:
    """Return the content of a `tokenizer.json`."""
    model = {
        "type": "BPE",
        "vocab": {token: i for i, token in enumerate(tokens)},
        "merges": merges,
        "ignore_merges": ignore_merges,
        "byte_fallback": byte_fallback,
    }
    return {"version": "1.0", "truncation": None, "padding": None, "post_processor": None, "model": model, **parts}


def _pre(description: Mapping[str, Any]) -> str:
    """Return llama.cpp's name for the splits of a byte-level tokenizer.

    Raises:
        UserError: There is no such name, or the tokenizer changes the text first.
    """
    normalizer = description.get("normalizer")
    parts = normalizer.get("normalizers", [normalizer]) if normalizer else []
    if any(part.get("type") != "NFC" for part in parts):
        raise UserError(f"llama.cpp has no normaliser like {normalizer}; a GGUF file would encode differently")
    cuts = description.get("pre_tokenizer") or {}
    stages = _stages(cuts.get("pretokenizers", [cuts]))
    name = ggml_name(stages, ignore_merges=bool(description["model"].get("ignore_merges"))) if stages else None
    if name is None:
        raise UserError(
            f"llama.cpp has no name for this way to split text: {cuts}. Presets that it supports, "
            f"with their own digits: gpt2, smollm, llama3, qwen2, deepseek-v3, o200k"
        )
    return name


def _stages(cuts: Sequence[Mapping[str, Any]]) -> tuple[str, ...] | None:
    """Return the patterns of a list of pre-tokenisers; None if one of them does not split by a pattern."""
    stages: list[str] = []
    for cut in cuts:
        kind = cut.get("type")
        if kind == "Split" and cut.get("behavior") == "Isolated" and not cut.get("invert"):
            stages.append(cut["pattern"].get("Regex", ""))
        elif kind == "Digits" and cut.get("individual_digits"):
            stages.append(r"\p{N}")
        elif kind == "ByteLevel":
            stages += pretokenizer("gpt2").stages if cut.get("use_regex", True) else ()
        else:
            return None
    return tuple(stages)


def _require_sentencepiece(description: Mapping[str, Any]) -> None:
    blanks = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
    normalizer, cut = description.get("normalizer"), description.get("pre_tokenizer")
    parts = [p for p in (normalizer or {}).get("normalizers", [normalizer]) if p and p.get("normalizers") != []]
    replaces = parts == [blanks] and cut is None
    joins = not parts and (cut or {}).get("type") == "Metaspace" and not (cut or {}).get("split", True)
    if not (replaces or joins) or not description["model"].get("byte_fallback"):
        raise UserError(
            "llama.cpp's SentencePiece form replaces blanks by U+2581, does not split text and has byte fallback; "
            f"this tokenizer has normaliser {normalizer} and pre-tokeniser {cut}"
        )


def _scores(description: Mapping[str, Any], tokens: Sequence[str]) -> list[float]:
    """Return a score for each token: earlier merges have higher scores; single characters have the lowest."""
    merges = description["model"]["merges"]
    rank: dict[str, int] = {}
    for i, (first, second) in enumerate(merges):
        rank.setdefault(first + second, i)
    return [-float(rank.get(token, len(merges))) for token in tokens]


def _types(tokenizer: TextTokenizer, tokens: Sequence[str]) -> list[int]:
    unknown = tokenizer.description["model"].get("unk_token")
    added = {t["id"]: CONTROL if t["special"] else USER_DEFINED for t in tokenizer.description["added_tokens"]}
    is_byte = set() if tokenizer.is_byte_level else set(BYTE_NAMES)
    return [
        UNKNOWN if token == unknown else added.get(i, BYTE if token in is_byte else NORMAL)
        for i, token in enumerate(tokens)
    ]


def _list(fields: Mapping[str, Any], name: str, kind: type, path: Path, n: int | None = None) -> list[Any]:
    """Return a list from the fields.

    Raises:
        UserError: The list is missing, has items of another type, or does not have length `n`.
    """
    values = fields.get(_KEY + name)
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise UserError(f"{path}: {_KEY}{name} is missing or not a list of {kind.__name__}")
    if n is not None and len(values) != n:
        raise UserError(f"{path}: {_KEY}{name} has {len(values)} entries for {n} tokens")
    return values


def _token(fields: Mapping[str, Any], role: str, tokens: Sequence[str]) -> str | None:
    token = fields.get(f"{_KEY}{role}_token_id")
    return tokens[token] if type(token) is int and 0 <= token < len(tokens) else None
