"""Preparation of a run's data: tokenizer, token shards, held-out documents. Each is made once and kept.

Data from an earlier start are reused if they were made from the same inputs: shards by the hashes of text and
tokenizer (`data.shard_writing`); the tokenizer because the run's recipe, which determines it, cannot change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modelstack.data.shard_writing import SourcedText, write_shards
from modelstack.data.shards import Shards
from modelstack.data.shipped_corpus import SHIPPED_CORPUS
from modelstack.errors import UserError
from modelstack.files import replacing_folder
from modelstack.run_folder import RunFolder
from modelstack.tokenizer.documents import Document, find_files, is_held_out, read_documents, sample_documents
from modelstack.tokenizer.text_tokenizer import TextTokenizer
from modelstack.tokenizer.tokenizer_folder import load_tokenizer, save_text_tokenizer, save_tokenizer
from modelstack.tokenizer.training import train_tokenizer
from modelstack.train.run.recipe import Resolved

OnActivity = Callable[[str], object]
"""Callback that receives the current activity as text."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The data of a run."""

    tokenizer: TextTokenizer
    shards: Shards
    held_out: list[Document]


def prepare(resolved: Resolved, folder: RunFolder, on_activity: OnActivity = lambda text: None) -> Prepared:
    """Make missing data and open all of it.

    Raises:
        UserError: A path is wrong, a file is broken, or one side of the split has no text.
    """
    tokenizer = _tokenizer(resolved, folder, on_activity)
    on_activity("reading the text into token shards")
    write_shards(training_texts(resolved), tokenizer, folder.shards)
    return open_prepared(resolved, folder)


def open_prepared(resolved: Resolved, folder: RunFolder) -> Prepared:
    """Open the data that another process prepared.

    Raises:
        UserError: Data are missing, or were made from other inputs.
    """
    share, files = resolved.recipe.data.held_out, text_files(resolved)
    tokenizer = load_tokenizer(folder.tokenizer)
    held_out = [d for file in files for d in read_documents(file) if is_held_out(d.text, share)]
    if not held_out:
        raise UserError(
            f"no document of {', '.join(map(str, files))} is held out at a share of {share}; "
            f"increase data.held_out, or split the text into more documents"
        )
    return Prepared(tokenizer, Shards(folder.shards, tokenizer), held_out)


def text_files(resolved: Resolved) -> list[Path]:
    """Return the text files; without text in the recipe, those of the shipped corpus.

    Raises:
        UserError: A path does not exist.
    """
    return find_files(resolved.recipe.data.text or [SHIPPED_CORPUS])


def training_texts(resolved: Resolved) -> Iterator[SourcedText]:
    """Yield the training documents, in the order of the files.

    Raises:
        UserError: A file is broken.
    """
    for file in text_files(resolved):
        for document in read_documents(file, resolved.recipe.data.source_field):
            if not is_held_out(document.text, resolved.recipe.data.held_out):
                yield SourcedText(document.text, document.domain)


def _tokenizer(resolved: Resolved, folder: RunFolder, on_activity: OnActivity) -> TextTokenizer:
    recipe = resolved.recipe.tokenizer
    if folder.tokenizer.exists():
        return load_tokenizer(folder.tokenizer)
    with replacing_folder(folder.tokenizer) as temporary:
        if recipe.path:
            save_text_tokenizer(load_tokenizer(recipe.path), temporary)
        else:
            on_activity(f"training a tokenizer of {resolved.tokenizer.vocab_size:,} tokens")
            max_bytes = int(recipe.megabytes * 1e6) if recipe.megabytes else None
            share = resolved.recipe.data.held_out
            documents = sample_documents(text_files(resolved), max_bytes, held_out=False, share=share)
            save_tokenizer(train_tokenizer((d.text for d in documents), resolved.tokenizer), temporary)
    return load_tokenizer(folder.tokenizer)
