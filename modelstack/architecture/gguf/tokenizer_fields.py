"""Validation of the tokenizer's metadata, which llama.cpp requires even to compute logits.

The package `tokenizer` defines the meaning of the keys. Here only errors are found that would make llama.cpp
reject or misread the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelstack.architecture.gguf.fields import Value
from modelstack.errors import UserError

_LISTS = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores")
_MAX_NUMBER, _MAX_ITEM = 2**32 - 1, 2**31 - 1
"""Maxima of UINT32, the type of single integers in the file, and of INT32, the type of integers in lists."""
_UNUSED = 5
"""Value of `LLAMA_TOKEN_TYPE_UNUSED`."""


def checked_tokenizer_fields(fields: Mapping[str, Value], vocab_size: int) -> dict[str, Value]:
    """Return the fields, with padding tokens up to the number of rows of the embedding.

    Raises:
        UserError: A key is missing or unexpected, a list is empty or of the wrong length, or there are too many
            tokens.
    """
    found = dict(fields)
    for key in ("tokenizer.ggml.model", "tokenizer.ggml.tokens"):
        if key not in found:
            raise UserError(f"the tokenizer's fields have no {key}, which llama.cpp requires")
    for key, value in found.items():
        if not key.startswith("tokenizer."):
            raise UserError(f"the tokenizer's fields contain {key!r}; only keys tokenizer.* are allowed")
        _check_type(key, value)
        if value == []:
            raise UserError(f"the tokenizer's field {key} is an empty list, which GGUF cannot represent; omit it")
    if found["tokenizer.ggml.model"] == "gpt2" and "tokenizer.ggml.merges" not in found:
        raise UserError(
            "the tokenizer's fields have no tokenizer.ggml.merges: llama.cpp requires at least one merge"
        )
    return found | _filled_up({key: found[key] for key in _LISTS if key in found}, vocab_size)


def _check_type(key: str, value: Any) -> None:
    items = value if isinstance(value, list) else [value]
    limit = _MAX_ITEM if isinstance(value, list) else _MAX_NUMBER
    kinds = {type(item) for item in items}
    if len(kinds) > 1 or not kinds <= {bool, int, float, str}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise UserError(
            f"the tokenizer's field {key} holds {names}; it must be bool, int, float, str or a list of one type"
        )
    if kinds == {int} and not 0 <= min(items) <= max(items) <= limit:
        raise UserError(f"the tokenizer's field {key} holds integers outside 0..{limit}")


def _filled_up(lists: Mapping[str, Any], vocab_size: int) -> dict[str, Value]:
    tokens = lists["tokenizer.ggml.tokens"]
    if any(len(row) != len(tokens) for row in lists.values()):
        lengths = ", ".join(f"{key} {len(row)}" for key, row in lists.items())
        raise UserError(f"the tokenizer's lists differ in length: {lengths}")
    if len(tokens) > vocab_size:
        raise UserError(f"the tokenizer has {len(tokens)} tokens, more than the model's vocab_size {vocab_size}")
    missing = range(len(tokens), vocab_size)
    fillers = {
        "tokenizer.ggml.tokens": [f"[PAD{i}]" for i in missing],
        "tokenizer.ggml.token_type": [_UNUSED for _ in missing],
        "tokenizer.ggml.scores": [-1000.0 for _ in missing],
    }
    return {key: [*row, *fillers[key]] for key, row in lists.items()}
