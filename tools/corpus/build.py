"""Write the shipped corpus from a run of its recipe: a file for each domain, SOURCES.md and the data card.

    modelstack data run corpus ... --out RUN
    python -m tools.corpus.build RUN

The recipe chooses the documents. A record keeps its text, source, license and url, and a file is sorted by source
and url, so the same documents give the same bytes. No list says what is held out of training: a hash of the text
decides (`modelstack.tokenizer.documents.is_held_out`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from modelstack.data.allowed_sources import AllowedSources
from modelstack.data.pipeline.recipe import DataRecipe
from modelstack.data.pipeline.records import read_documents
from modelstack.data.pipeline.report import CARD_FILE, MANIFEST_FILE, data_card
from modelstack.data.pipeline.run import RECIPE_FILE
from modelstack.data.shipped_corpus import SHIPPED_CORPUS, SUFFIX
from modelstack.errors import UserError
from modelstack.files import replacing, sha256_of
from tools.corpus.credits import LICENSE_LINKS, NOTICES, SOURCES, Source

LEVEL = 19
"""Highest level of zstd that needs no more memory to unpack."""

Record = dict[str, str]


@dataclass(frozen=True, slots=True)
class Part:
    """Records of one source."""

    source: Source
    records: tuple[Record, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of the texts."""
        return sum(len(record["text"].encode()) for record in self.records)


def build(run: Path, out: Path, sources: Sequence[Source] = SOURCES) -> list[Part]:
    """Write the corpus, its SOURCES.md and its data card to a folder.

    Raises:
        UserError: the run is not finished or was changed since, or its sources are not those of `sources`.
    """
    manifest = _finished(run)
    parts = _parts(run, manifest, sources)
    out.mkdir(parents=True, exist_ok=True)
    files: dict[str, bytes] = {}
    for domain in dict.fromkeys(source.domain for source in sources):
        files[f"{domain}{SUFFIX}"] = packed_records(
            record for part in parts if part.source.domain == domain for record in part.records
        )
    files["SOURCES.md"] = sources_page(
        parts, {name.removesuffix(SUFFIX): len(data) for name, data in files.items()}, _left_out(run)
    ).encode()
    for name, data in files.items():
        with replacing(out / name) as temporary:
            temporary.write_bytes(data)
    of_files = {name: sha256_of(out / name) for name in files}
    with replacing(out / CARD_FILE) as temporary:
        temporary.write_text(
            data_card(manifest | {"files": of_files}, made_by="recipes/data/run/corpus.toml"), encoding="utf-8"
        )
    return parts


def _finished(run: Path) -> dict[str, Any]:
    """Return the manifest of a run after a check of its files."""
    path = run / MANIFEST_FILE
    if not path.is_file():
        raise UserError(
            f"{run} has no {path.name}: it is not the folder of a finished run; `modelstack data run` resumes it"
        )
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for name, sha256 in manifest["files"].items():
        if not (run / name).is_file() or sha256_of(run / name) != sha256:
            raise UserError(f"{run / name} is missing or was changed since the run; run its recipe again")
    return manifest


def _parts(run: Path, manifest: Mapping[str, Any], sources: Sequence[Source]) -> list[Part]:
    by_source: dict[str, list[Record]] = {source.name: [] for source in sources}
    for name in manifest["files"]:
        for document in read_documents(run / name):
            if document.source not in by_source:
                raise UserError(
                    f"{document.id} is of source {document.source!r}, which SOURCES in credits.py does not "
                    f"know; give its domain and credit there"
                )
            record = {
                "text": document.text,
                "source": document.source,
                "license": document.license,
                "url": document.url,
            }
            by_source[document.source].append(record)
    for source in sources:
        if not by_source[source.name]:
            raise UserError(f"{run} has no document of source {source.name!r}; take it out of SOURCES")
        by_source[source.name].sort(key=lambda record: (record["url"], record["text"]))
    return [Part(source, tuple(by_source[source.name])) for source in sources]


def _left_out(run: Path) -> dict[str, str]:
    """Return sources and urls that the run's recipe leaves out, each with the reason."""
    content = json.loads((run / RECIPE_FILE).read_text(encoding="utf-8"))
    recipe = DataRecipe.model_validate(content["recipe"])
    left_out: dict[str, str] = {}
    for step in recipe.steps:
        if isinstance(step, AllowedSources):
            left_out |= step.left_out_sources | step.left_out_urls
    return left_out


def packed_records(records: Iterable[Mapping[str, str]]) -> bytes:
    """Return records as compressed JSONL; the bytes depend on the records and on zstd's version alone."""
    import zstandard

    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return zstandard.ZstdCompressor(level=LEVEL).compress(lines.encode())


def sources_page(parts: Sequence[Part], sizes: Mapping[str, int], left_out: Mapping[str, str]) -> str:
    """Return the page on sources, licences and counts that lies beside the corpus.

    Args:
        parts: Records of each source.
        sizes: Compressed bytes of each domain.
        left_out: Sources and urls that are left out, each with the reason.
    """
    n_documents, n_bytes = sum(len(part.records) for part in parts), sum(part.n_bytes for part in parts)
    per_domain: Counter[str] = Counter()
    for part in parts:
        per_domain[part.source.domain] += part.n_bytes
    return "\n".join(
        [
            "# Sources of the corpus",
            "",
            f"{n_documents:,} documents, {n_bytes / 1e6:.2f} MB of text, {sum(sizes.values()):,} bytes "
            "compressed. One JSON object a line: text, source, license, url; the url is each document's origin. "
            "Chosen by `modelstack/recipes/data/run/corpus.toml`, where the shares are, and written by "
            "`python -m tools.corpus.build`; the texts are excerpts of the works, turned into plain "
            "text and cut into pieces; WordNet's are rewritten as dictionary entries, GSM8K's are without its "
            f"calculator marks. {CARD_FILE} is the data card: what was left out by which step, and the "
            "evaluations that no document repeats.",
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
            "| domain | source | documents | MB | licence | text of the licence | credit | url |",
            "|---|---|---|---|---|---|---|---|",
            *(_source_line(part) for part in parts),
            "",
            "## Left out",
            "",
            *(f"- {name}: {why}." for name, why in left_out.items()),
            "",
            "## Notices",
            "",
            NOTICES,
        ]
    )


def license_name(license: str) -> str:
    """Return a record's licence without the names of author and illustrator that African Storybook's have."""
    return license.partition(" (text:")[0]


def _source_line(part: Part) -> str:
    licenses = {license_name(record["license"]) for record in part.records}
    if len(licenses) > 1 or not licenses <= LICENSE_LINKS.keys():
        raise UserError(
            f"{part.source.name} has {', '.join(sorted(licenses))}: one licence that LICENSE_LINKS in "
            f"credits.py knows is expected"
        )
    (license,) = licenses
    cells = (
        part.source.domain,
        part.source.name,
        f"{len(part.records):,}",
        f"{part.n_bytes / 1e6:.2f}",
        license,
        LICENSE_LINKS[license],
        part.source.credit,
        part.records[0]["url"],
    )
    return f"| {' | '.join(cells)} |"


def main(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run of the recipe `data/run/corpus`.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = SHIPPED_CORPUS,
) -> None:
    """Write the corpus that ships with the package."""
    for part in build(run, out):
        typer.echo(f"{part.source.name}: {len(part.records):,} documents, {part.n_bytes / 1e6:.2f} MB")


if __name__ == "__main__":
    typer.run(main)
