"""Files of texts: JSON lines with text, source, license and url, and the held-out side of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modelstack.files import replacing
from modelstack.pipeline.job import StepJob

ABOUT_FILE = "about.json"


@dataclass(frozen=True, slots=True)
class Text:
    """A document with its origin."""

    text: str
    source: str
    license: str
    url: str = ""

    def line(self) -> str:
        """Return the document as a line of JSON."""
        fields = {"text": self.text, "source": self.source, "license": self.license, "url": self.url}
        return json.dumps(fields, ensure_ascii=False) + "\n"


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Write lines atomically; return their number."""
    n = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(line)
            n += 1
    return n


def corpus_texts(domain: str, megabytes: float) -> list[Text]:
    """Return documents of a domain of the package's corpus, those with the smallest hashes first.

    Raises:
        UserError: There is no such domain.
    """
    from modelstack.data.shipped_corpus import SHIPPED_CORPUS, SUFFIX, domain_file
    from modelstack.errors import UserError
    from modelstack.tokenizer.documents import sample_of

    if not domain_file(domain).is_file():
        known = sorted(file.name.removesuffix(SUFFIX) for file in SHIPPED_CORPUS.glob(f"*{SUFFIX}"))
        raise UserError(f"data.megabytes names {domain!r}; the corpus of the package has {', '.join(known)}")
    from modelstack.tokenizer.documents import read_documents

    origins = {text.text: text for text in _with_origins(domain_file(domain))}
    chosen = sample_of(read_documents(domain_file(domain)), int(1e6 * megabytes))
    return [origins[document.text] for document in chosen]


def _with_origins(file: Path) -> Iterator[Text]:
    from modelstack.data.documents import Document
    from modelstack.data.reading import JsonlInput, open_input

    for found in open_input(JsonlInput(path=file)):
        if isinstance(found, Document):
            yield Text(found.text, found.source, found.license, found.url)


def held_out_share(job: StepJob) -> float:
    """Return the share of documents that the data step keeps for evaluation."""
    return float(job.read_json(f"data/text/{ABOUT_FILE}")["held_out"])
