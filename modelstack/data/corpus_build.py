"""Choose the corpus that ships with the package from a folder of larger ones; the same bytes whenever it is built.

    python -m modelstack.data.corpus_build CORPUS --evaluation FOLDER --evaluation FILE ...

Of each source the records with the smallest hash of their text are taken up to its megabytes, so no beginning of a
file is favoured. Records that share 13 words with an evaluation are dropped, and counted. A record keeps its text,
source, license and url, and a file is sorted by source and url.

What is held out of training is a matter of the text (`modelstack.tokenizer.documents.is_held_out`), not of a list.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from modelstack.data.corpus_sources import (
    CORPUS,
    LEFT_OUT_SOURCES,
    LEFT_OUT_URLS,
    LICENSE_LINKS,
    NOTICES,
    SOURCES,
    Source,
)
from modelstack.data.decontaminate import index_of, is_contaminated, texts_of_evaluation
from modelstack.errors import UserError
from modelstack.files import replacing

SUFFIX = ".jsonl.zst"
LEVEL = 19
"""zstd's best before it needs more memory to unpack."""
FIELDS = ("text", "source", "license", "url")
MAY_BE_TRAINED_ON = frozenset({"gsm8k_train.jsonl"})
"""Files in folders of evaluations that are none."""

Record = dict[str, str]


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was taken of one source."""

    source: Source
    records: tuple[Record, ...]
    n_bytes: int
    n_contaminated: int


def build(
    corpus: Path, evaluations: Iterable[Path], out: Path, sources: Sequence[Source] = SOURCES
) -> list[Chosen]:
    """Write the corpus and its SOURCES.md to a folder.

    Raises:
        UserError: A file is missing or broken, a source is empty, or a record's licence is not its source's.
    """
    files = evaluation_files(evaluations)
    index = index_of(text for file in files for text in texts_of_evaluation(file))
    chosen: list[Chosen] = []
    sizes: dict[str, int] = {}
    out.mkdir(parents=True, exist_ok=True)
    for domain in dict.fromkeys(source.domain for source in sources):
        by_source: dict[str, list[Record]] = {}
        for record in read_records(corpus / f"{domain}{SUFFIX}"):
            by_source.setdefault(record["source"], []).append(record)
        parts = [
            choose(source, by_source.get(source.name, ()), index) for source in sources if source.domain == domain
        ]
        packed = packed_records(record for part in parts for record in part.records)
        sizes[domain] = len(packed)
        with replacing(out / f"{domain}{SUFFIX}") as temporary:
            temporary.write_bytes(packed)
        chosen += parts
    with replacing(out / "SOURCES.md") as temporary:
        temporary.write_text(sources_page(chosen, sizes, [file.name for file in files]), encoding="utf-8")
    return chosen


def choose(source: Source, records: Iterable[Record], index: frozenset[str]) -> Chosen:
    """Return the records of a source with the smallest hashes that are clean, up to its size.

    Raises:
        UserError: There is none, or one has another licence than its source.
    """
    taken: list[Record] = []
    n_bytes = n_contaminated = 0
    allowed = (record for record in records if not any(part in record["url"] for part in LEFT_OUT_URLS))
    for record in sorted(allowed, key=_hash):
        if record["license"] != source.license and not record["license"].startswith(f"{source.license} ("):
            raise UserError(
                f"{record['url']} has licence {record['license']!r}, {source.name} {source.license!r}; "
                f"correct SOURCES"
            )
        size = len(record["text"].encode())
        if n_bytes + size > source.megabytes * 1e6:
            break
        if is_contaminated(record["text"], index):
            n_contaminated += 1
            continue
        taken.append(record)
        n_bytes += size
    if not taken:
        raise UserError(f"no record of source {source.name!r} in domain {source.domain!r}; remove it from SOURCES")
    taken.sort(key=lambda record: (record["url"], record["text"]))
    return Chosen(source, tuple(taken), n_bytes, n_contaminated)


def read_records(path: Path) -> Iterator[Record]:
    """Read records of text, source, license and url.

    Raises:
        UserError: The file is missing or broken, or a record lacks a field.
    """
    import zstandard

    if not path.is_file():
        raise UserError(f"{path} is not there; name the folder with a {SUFFIX} file for each domain")
    try:
        with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
            for number, line in enumerate(io.TextIOWrapper(stream, encoding="utf-8"), 1):
                record = json.loads(line)
                if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in FIELDS):
                    raise UserError(f"{path}, line {number}: a record needs the texts {', '.join(FIELDS)}")
                yield {key: record[key] for key in FIELDS}
    except (zstandard.ZstdError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is broken: {error}") from error


def packed_records(records: Iterable[Mapping[str, str]]) -> bytes:
    """Return records as compressed JSONL; the bytes depend on them and on zstd's version alone."""
    import zstandard

    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return zstandard.ZstdCompressor(level=LEVEL).compress(lines.encode())


def evaluation_files(paths: Iterable[Path], may_be_trained_on: Collection[str] = MAY_BE_TRAINED_ON) -> list[Path]:
    """Return the files that are named or lie below a folder that is, but for those that may be trained on.

    Raises:
        UserError: A path is not there.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} is not there; name files and folders of evaluation sets")
        found = sorted(path.rglob("*.json*")) if path.is_dir() else [path]
        files += [file for file in found if file.name not in may_be_trained_on]
    return files


def sources_page(chosen: Iterable[Chosen], sizes: Mapping[str, int], evaluations: Iterable[str]) -> str:
    """Return the page on sources, licences and counts that lies beside the corpus."""
    chosen = list(chosen)
    n_documents, n_bytes = sum(len(part.records) for part in chosen), sum(part.n_bytes for part in chosen)
    per_domain: Counter[str] = Counter()
    for part in chosen:
        per_domain[part.source.domain] += part.n_bytes
    return "\n".join(
        [
            "# Sources of the corpus",
            "",
            f"{n_documents:,} documents, {n_bytes / 1e6:.2f} MB of text, {sum(sizes.values()):,} bytes "
            "compressed. One JSON object a line: text, source, license, url; the url is each document's origin. "
            "Written by `python -m modelstack.data.corpus_build`, which is also where the shares are; "
            "the texts are excerpts of the works, turned into plain text and cut into pieces; WordNet's are "
            "rewritten as dictionary entries, GSM8K's are without its calculator marks.",
            "",
            "Each text stays under its own licence, which its record names; those that say share alike (CC-BY-SA) "
            "may be passed on only under the same. The licence of the code around them does not cover them.",
            "",
            "| domain | MB | % of the text | bytes compressed |",
            "|---|---|---|---|",
            *(
                f"| {domain} | {n / 1e6:.2f} | {100 * n / n_bytes:.1f} | {sizes[domain]:,} |"
                for domain, n in per_domain.items()
            ),
            "",
            "| domain | source | documents | MB | dropped | licence | text of the licence | credit | url |",
            "|---|---|---|---|---|---|---|---|---|",
            *(_source_line(part) for part in chosen),
            "",
            "Dropped: documents that have 13 words in a row in common with an evaluation: "
            f"{', '.join(sorted(set(evaluations)))}.",
            "",
            "## Left out",
            "",
            *(f"- {name}: {why}." for name, why in (LEFT_OUT_SOURCES | LEFT_OUT_URLS).items()),
            "",
            "## Notices",
            "",
            NOTICES,
        ]
    )


def _source_line(part: Chosen) -> str:
    source = part.source
    cells = (
        source.domain,
        source.name,
        f"{len(part.records):,}",
        f"{part.n_bytes / 1e6:.2f}",
        str(part.n_contaminated),
        source.license,
        LICENSE_LINKS[source.license],
        source.credit,
        part.records[0]["url"],
    )
    return f"| {' | '.join(cells)} |"


def _hash(record: Record) -> bytes:
    return hashlib.blake2b(record["text"].encode(), digest_size=16, person=b"corpus").digest()


def main(
    corpus: Annotated[Path, typer.Argument(help="Folder with a JSONL.zst file for each domain.")],
    evaluation: Annotated[list[Path], typer.Option(help="File or folder of evaluations; may be given often.")],
    out: Annotated[Path, typer.Option(help="Where to write.")] = CORPUS,
) -> None:
    """Choose the corpus that ships with the package."""
    for part in build(corpus, evaluation, out):
        typer.echo(
            f"{part.source.name}: {len(part.records):,} documents, {part.n_bytes / 1e6:.2f} MB, "
            f"{part.n_contaminated} dropped"
        )


if __name__ == "__main__":
    typer.run(main)
