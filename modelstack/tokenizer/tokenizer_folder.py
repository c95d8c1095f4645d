"""Tokenizers as folders: `tokenizer.json` and `tokenizer_config.json` as in transformers, and the training record.

Files are untrusted. Sizes are checked before a file is read, and the structure before it is used. A chat template
is only text here; only `template_sandbox` runs it. A pattern in a `tokenizer.json` does run: Oniguruma gives up a
match with too much backtracking, which `text_tokenizer` converts to an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelstack.errors import UserError
from modelstack.files import read_json_object, replacing
from modelstack.tokenizer.template_sandbox import MAX_TEMPLATE_CHARACTERS
from modelstack.tokenizer.text_tokenizer import SpecialNames, TextTokenizer
from modelstack.tokenizer.training import TrainedTokenizer
from modelstack.tokenizer.vocabulary import MAX_TOKENS, check_tokens

TOKENIZER_FILE, CONFIG_FILE, TRAINING_FILE = "tokenizer.json", "tokenizer_config.json", "tokenizer_training.json"
TEMPLATE_FILE = "chat_template.jinja"
"""File of the chat template in newer models."""
MAX_FILE_BYTES = 128 << 20
"""Maximum bytes of a file; Gemma's file, with 262,144 tokens one of the largest, has 33 MB."""
"""Maximum characters of a token; the longest known ones are runs of some hundred blanks or dashes."""


def save_tokenizer(trained: TrainedTokenizer, folder: str | os.PathLike[str]) -> Path:
    """Write a trained tokenizer as a folder that transformers' `AutoTokenizer` loads; return its path."""
    marks = trained.config.special_tokens
    adds_begin = marks.begin_of_text is not None
    names = SpecialNames(marks.begin_of_text, marks.end_of_text, marks.end_of_text, adds_begin)
    made_from = {
        "config": trained.config.model_dump(mode="json"),
        "config_sha256": trained.config.fingerprint(),
        "n_documents": trained.n_documents,
        "n_bytes": trained.n_bytes,
        "n_ids": trained.tokenizer.get_vocab_size(),
        "n_learnt": trained.n_learnt,
    }
    folder = _write_folder(folder, trained.tokenizer.to_str(pretty=True), names, marks.chat_template())
    write_text(folder / TRAINING_FILE, _pretty(made_from))
    return folder


def save_text_tokenizer(tokenizer: TextTokenizer, folder: str | os.PathLike[str]) -> Path:
    """Write a loaded tokenizer, for example from GGUF, as a folder for `AutoTokenizer`; return its path."""
    return _write_folder(folder, _pretty(tokenizer.description), tokenizer.names, tokenizer.chat_template)


def _write_folder(
    folder: str | os.PathLike[str], description: str, names: SpecialNames, chat_template: str | None
) -> Path:
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": names.begin,
        "eos_token": names.end,
        "pad_token": names.pad,
        "add_bos_token": names.adds_begin,
        "clean_up_tokenization_spaces": False,
        "chat_template": chat_template,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / TOKENIZER_FILE, description)
    write_text(folder / CONFIG_FILE, _pretty({key: value for key, value in config.items() if value is not None}))
    return folder


def load_tokenizer(path: str | os.PathLike[str]) -> TextTokenizer:
    """Load a folder of transformers, a `tokenizer.json`, or the tokenizer inside a GGUF file.

    Raises:
        UserError: It does not exist, is too large, is broken, or is of an unknown kind.
    """
    path = Path(path)
    if path.suffix == ".gguf":
        from modelstack.tokenizer.gguf_tokenizer import read_gguf_tokenizer

        return read_gguf_tokenizer(path)
    file = path / TOKENIZER_FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"{file} does not exist; give a folder with a {TOKENIZER_FILE}, such a file, or a GGUF file"
        )
    description = _checked(read_json_object(file, MAX_FILE_BYTES), file)
    config = (
        read_json_object(file.parent / CONFIG_FILE, MAX_FILE_BYTES)
        if (file.parent / CONFIG_FILE).is_file()
        else {}
    )
    template = _template(file.parent, config)
    begin, end, pad = (_name(config.get(f"{role}_token")) for role in ("bos", "eos", "pad"))
    adds_begin = (
        config.get("add_bos_token") is True or "bos_token" in (template or "") or _adds(description, begin)
    )
    return TextTokenizer(description, SpecialNames(begin, end, pad, adds_begin), template)


def write_text(path: Path, text: str) -> None:
    """Write a file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _pretty(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _checked(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the content of a `tokenizer.json` after checking its structure and size."""
    model, added = content.get("model"), content.setdefault("added_tokens", [])
    if not isinstance(model, dict) or not isinstance(added, list):
        raise UserError(f"{path} is not a tokenizer.json: it has no model, or its added_tokens are not a list")
    model.setdefault("type", "BPE" if "merges" in model else "unknown")
    vocab, merges = model.get("vocab"), model.get("merges")
    if model["type"] == "BPE" and not (isinstance(vocab, dict) and isinstance(merges, list)):
        raise UserError(f"{path}: a BPE model must have a vocab (object) and merges (list)")
    if isinstance(vocab, dict):
        check_tokens(vocab, path)
        if not all(type(token) is int and 0 <= token < MAX_TOKENS for token in vocab.values()):
            raise UserError(f"{path}: an id in the vocab is not an integer from 0 to {MAX_TOKENS - 1}")
    for merge in merges or ():
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(parts, list) and len(parts) == 2 and all(isinstance(part, str) for part in parts)):
            raise UserError(f"{path}: {merge!r} is not a merge; two tokens are expected")
    for token in added:
        if not (
            isinstance(token, dict) and isinstance(token.get("content"), str) and type(token.get("id")) is int
        ):
            raise UserError(f"{path}: {token!r} is not an added token; content and id are expected")
        token.setdefault("special", False)
    check_tokens([token["content"] for token in added], path)
    return content


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Return the chat template; from a list of templates, the one named "default".

    Raises:
        UserError: It is too long.
    """
    template = config.get("chat_template")
    file = folder / TEMPLATE_FILE
    if file.is_file():
        if file.stat().st_size > MAX_FILE_BYTES:
            raise UserError(f"{file} has {file.stat().st_size:,} bytes, too many for a chat template")
        template = file.read_text(encoding="utf-8")
    if isinstance(template, list):
        named = [t for t in template if isinstance(t, dict) and t.get("name") == "default"]
        template = named[0].get("template") if named else None
    if not isinstance(template, str):
        return None
    if len(template) > MAX_TEMPLATE_CHARACTERS:
        raise UserError(f"chat template of {len(template):,} characters; at most {MAX_TEMPLATE_CHARACTERS:,}")
    return template


def _name(token: Any) -> str | None:
    """Return a token's name; older files wrap it in an object."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _adds(description: Mapping[str, Any], begin: str | None) -> bool:
    """Whether the tokenizer's own post-processor adds the begin token before a text."""
    processor = json.dumps(description.get("post_processor"))
    return begin is not None and f'"SpecialToken": {{"id": {json.dumps(begin)}' in processor
