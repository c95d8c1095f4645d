"""Token shards: what was written is read, a stopped run goes on, a broken or foreign folder is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from modelstack.data.shard_writing import SourcedText, write_shards
from modelstack.data.shards import INDEX_FILE, Shards, tokenizer_sha256
from modelstack.errors import UserError
from modelstack.tokenizer.text_tokenizer import SpecialNames
from modelstack.tokenizer.tokenizer_folder import load_tokenizer, save_tokenizer
from modelstack.tokenizer.training import TokenizerConfig, train_tokenizer
from tests.modelstack.data.toy_shards import BEGIN, END, ByteTokenizer, toy_documents, toy_shards


def test_documents_come_back_between_their_border_tokens_with_their_source(tmp_path: Path) -> None:
    documents = toy_documents()
    shards = toy_shards(tmp_path / "shards", documents)
    assert len(shards.index.shards) > 2
    assert shards.n_documents == len(documents)
    for i, document in enumerate(documents):
        assert shards.tokens(i).tolist() == [BEGIN, *document.text.encode(), END]
        assert shards.sources[shards.source_of[i]] == document.source
    assert shards.n_tokens == sum(len(d.text) + 2 for d in documents) == shards.lengths.sum()
    shards.verify()


def test_a_run_of_a_documents_tokens_stops_at_its_end(tmp_path: Path) -> None:
    shards = toy_shards(tmp_path, [SourcedText("abc", "a"), SourcedText("xyz", "a")])
    assert shards.tokens(0, 1, 3).tolist() == list(b"ab")
    assert shards.tokens(0, 3, 99).tolist() == [ord("c"), END]


def test_ids_are_two_bytes_wide_until_the_vocabulary_needs_four(tmp_path: Path) -> None:
    for n_ids, dtype in ((1 << 16, "uint16"), ((1 << 16) + 1, "uint32")):
        write_shards(toy_documents(3), ByteTokenizer(n_ids=n_ids), tmp_path)
        assert Shards(tmp_path).tokens(0).dtype == dtype


def test_a_tokenizer_that_adds_no_begin_token_gets_none(tmp_path: Path) -> None:
    write_shards([SourcedText("hi", "a")], ByteTokenizer(adds_begin=False), tmp_path)
    assert Shards(tmp_path).tokens(0).tolist() == [*b"hi", END]


def test_a_trained_tokenizers_documents_decode_to_their_texts(tmp_path: Path) -> None:
    texts = ["A hen sat on a wall.", "<|end_of_text|> is no end here.", ""]
    save_tokenizer(train_tokenizer(texts * 4, TokenizerConfig(vocab_size=330)), tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    write_shards([SourcedText(text, "a") for text in texts], tokenizer, tmp_path / "shards")
    shards = Shards(tmp_path / "shards", tokenizer)
    begin, end = (
        tokenizer.encode_template(name or "")[0] for name in (tokenizer.names.begin, tokenizer.names.end)
    )
    for i, text in enumerate(texts):
        ids = shards.tokens(i).tolist()
        assert (ids[0], ids[-1]) == (begin, end)
        assert end not in ids[:-1]
        assert tokenizer.decode_bytes(ids[1:-1]).decode() == text


def test_a_stopped_run_tokenises_only_what_is_missing(tmp_path: Path) -> None:
    documents = toy_documents()
    whole = toy_shards(tmp_path / "whole", documents)

    def stopped() -> Iterator[SourcedText]:
        yield from documents[:100]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(stopped(), ByteTokenizer(), tmp_path / "parts", shard_bytes=2000)
    with pytest.raises(UserError, match="interrupted; write them again"):
        Shards(tmp_path / "parts")
    tokenizer, seen = ByteTokenizer(), []
    write_shards(documents, tokenizer, tmp_path / "parts", shard_bytes=2000, on_documents=seen.append)
    assert 0 < tokenizer.n_encoded < 60
    assert len(seen) > 1
    assert sum(seen) == len(documents)
    assert Shards(tmp_path / "parts").fingerprint == whole.fingerprint


def test_a_folder_that_holds_the_same_already_stays_open_to_readers(tmp_path: Path) -> None:
    documents = toy_documents()
    toy_shards(tmp_path, documents)

    def reading() -> Iterator[SourcedText]:
        for document in documents:
            Shards(tmp_path)
            yield document

    tokenizer = ByteTokenizer()
    write_shards(reading(), tokenizer, tmp_path, shard_bytes=2000)
    assert tokenizer.n_encoded == 0


def test_shards_of_changed_documents_or_another_tokenizer_are_made_anew(tmp_path: Path) -> None:
    documents = toy_documents()
    toy_shards(tmp_path, documents)
    # As long as before: the shards' borders stay, only a text differs.
    text = documents[0].text.upper()
    assert text != documents[0].text
    changed = [SourcedText(text, documents[0].source), *documents[1:100]]
    shards = toy_shards(tmp_path, changed)
    assert shards.tokens(0).tolist() == [BEGIN, *text.encode(), END]
    changed[0] = SourcedText(text, "new")
    shards = toy_shards(tmp_path, changed)
    assert shards.sources[shards.source_of[0]] == "new"
    assert len(list(tmp_path.glob("*.tokens.npy"))) == len(shards.index.shards)
    tokenizer = ByteTokenizer(adds_begin=False)
    write_shards(changed, tokenizer, tmp_path, shard_bytes=2000)
    assert tokenizer.n_encoded == len(changed)


def test_a_damaged_shard_is_made_anew_by_the_writer(tmp_path: Path) -> None:
    documents = toy_documents()
    fingerprint = toy_shards(tmp_path, documents).fingerprint
    path = tmp_path / "00001.tokens.npy"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(UserError, match="shard 1 of .* has been changed"):
        Shards(tmp_path).verify()
    assert toy_shards(tmp_path, documents).fingerprint == fingerprint
    Shards(tmp_path).verify()


def test_another_tokenizers_shards_are_refused(tmp_path: Path) -> None:
    toy_shards(tmp_path)
    Shards(tmp_path, ByteTokenizer())
    with pytest.raises(UserError, match="another tokenizer"):
        Shards(tmp_path, ByteTokenizer(adds_begin=False))
    assert tokenizer_sha256(ByteTokenizer()) != tokenizer_sha256(ByteTokenizer(n_ids=300))


@pytest.mark.parametrize("kind", ["tokens", "offsets", "sources"])
def test_a_truncated_or_missing_file_names_its_path(tmp_path: Path, kind: str) -> None:
    toy_shards(tmp_path)
    path = tmp_path / f"00000.{kind}.npy"
    content = path.read_bytes()
    for broken in (content[:-10], content[:20], b""):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=f"00000.{kind}.npy is truncated"):
            Shards(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=f"00000.{kind}.npy is missing"):
        Shards(tmp_path)


def test_files_of_another_folder_do_not_fit(tmp_path: Path) -> None:
    toy_shards(tmp_path)
    path = tmp_path / "00000.tokens.npy"
    np.save(path, np.zeros(7, np.uint16))
    with pytest.raises(UserError, match=r"shape \(7,\)"):
        Shards(tmp_path)
    toy_shards(tmp_path)
    offsets = tmp_path / "00000.offsets.npy"
    wrong = np.load(offsets)
    wrong[-1] += 1
    np.save(offsets, wrong)
    with pytest.raises(UserError, match="does not fit its tokens"):
        Shards(tmp_path)


def test_an_index_that_is_none_is_told(tmp_path: Path) -> None:
    toy_shards(tmp_path)
    (tmp_path / INDEX_FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="not an index of token shards"):
        Shards(tmp_path)


def test_no_document_and_no_end_token_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no documents to write"):
        write_shards([], ByteTokenizer(), tmp_path)
    tokenizer = ByteTokenizer()
    tokenizer.names = SpecialNames("<b>", None, None, True)
    with pytest.raises(UserError, match="no end-of-text token"):
        write_shards(toy_documents(2), tokenizer, tmp_path)


def test_tokens_are_counted_over_all_shards(tmp_path: Path) -> None:
    shards = toy_shards(tmp_path)
    ids = [int(i) for d in range(shards.n_documents) for i in shards.tokens(d)]
    counts = shards.token_counts(300)
    assert counts.sum() == len(ids) == shards.n_tokens
    assert all(counts[i] == ids.count(i) for i in set(ids))
