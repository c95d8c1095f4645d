"""From text to what a run reads: tokenizer, token shards, held-out documents. Each is made once and kept.

What is there from an earlier start is kept where it was made of the same: shards by the hashes of text and
tokenizer (`data.shard_writing`), the tokenizer because the run's recipe, which holds all that decides it, cannot
change.
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

Told = Callable[[str], object]
"""Is told what is being done."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run reads."""

    tokenizer: TextTokenizer
    shards: Shards
    held_out: list[Document]


def prepare(resolved: Resolved, folder: RunFolder, told: Told = lambda text: None) -> Prepared:
    """Make what is missing and open all of it.

    Raises:
        UserError: A path is wrong, a file is broken, or one side of the split has no text.
    """
    tokenizer = _tokenizer(resolved, folder, told)
    told("reading the text into token shards")
    write_shards(training_texts(resolved), tokenizer, folder.shards)
    return open_prepared(resolved, folder)


def open_prepared(resolved: Resolved, folder: RunFolder) -> Prepared:
    """Open what another process made.

    Raises:
        UserError: It is not there, or is of something else.
    """
    share, files = resolved.recipe.data.held_out, text_files(resolved)
    tokenizer = load_tokenizer(folder.tokenizer)
    held_out = [d for file in files for d in read_documents(file) if is_held_out(d.text, share)]
    if not held_out:
        raise UserError(
            f"no document of {', '.join(map(str, files))} is held out at a share of {share}: "
            f"raise data.held_out, or give the text in more documents"
        )
    return Prepared(tokenizer, Shards(folder.shards, tokenizer), held_out)


def text_files(resolved: Resolved) -> list[Path]:
    """Return the files of text, the shipped corpus where the recipe names none.

    Raises:
        UserError: A path is not there.
    """
    return find_files(resolved.recipe.data.text or [SHIPPED_CORPUS])


def training_texts(resolved: Resolved) -> Iterator[SourcedText]:
    """Give the documents that are trained on, in the order of the files.

    Raises:
        UserError: A file is broken.
    """
    for file in text_files(resolved):
        for document in read_documents(file, resolved.recipe.data.source_field):
            if not is_held_out(document.text, resolved.recipe.data.held_out):
                yield SourcedText(document.text, document.domain)


def _tokenizer(resolved: Resolved, folder: RunFolder, told: Told) -> TextTokenizer:
    recipe = resolved.recipe.tokenizer
    if folder.tokenizer.exists():
        return load_tokenizer(folder.tokenizer)
    with replacing_folder(folder.tokenizer) as temporary:
        if recipe.path:
            save_text_tokenizer(load_tokenizer(recipe.path), temporary)
        else:
            told(f"learning a tokenizer of {resolved.tokenizer.vocab_size:,} tokens")
            max_bytes = int(recipe.megabytes * 1e6) if recipe.megabytes else None
            share = resolved.recipe.data.held_out
            documents = sample_documents(text_files(resolved), max_bytes, held_out=False, share=share)
            save_tokenizer(train_tokenizer((d.text for d in documents), resolved.tokenizer), temporary)
    return load_tokenizer(folder.tokenizer)
