"""Small tokenizers that tests share, trained once a process."""

from __future__ import annotations

import functools

from modelstack.tokenizer.text_tokenizer import TextTokenizer
from modelstack.tokenizer.training import TokenizerConfig, TrainedTokenizer, train_tokenizer
from tests.modelstack.tokenizer.texts import LINES, fuzz

DOCUMENTS = (*LINES * 2, *fuzz(500, seed=3))


@functools.cache
def trained(**options: object) -> TrainedTokenizer:
    """Return a tokenizer of a thousand ids; options of `TokenizerConfig` that can be hashed."""
    return train_tokenizer(DOCUMENTS, TokenizerConfig.model_validate({"vocab_size": 1024, **options}))


@functools.cache
def text_tokenizer(**options: object) -> TextTokenizer:
    """Return it with its two encoders."""
    return trained(**options).text_tokenizer()
