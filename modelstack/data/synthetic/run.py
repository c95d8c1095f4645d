"""A run: each template after each document, checked, noted at once, and packed when all is written.

What became of an attempt is on the disk before the next one begins: a run that is killed loses the document that
was being written and nothing else. An attempt's key, and the seed of its sampling, follow from its seed document,
template and number, so a run that was stopped ends as one that was not, if its writer is deterministic. The
documents are then a file that `modelstack data run` reads as any other.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from modelstack.data.documents import Broken, Document
from modelstack.data.pipeline.records import Writer as DocumentFile
from modelstack.data.reading import open_input
from modelstack.data.synthetic.checks import Check
from modelstack.data.synthetic.journal import Journal
from modelstack.data.synthetic.recipe import SyntheticRecipe
from modelstack.data.synthetic.template import Template
from modelstack.errors import UserError
from modelstack.files import replacing, sha256_of

RECIPE_FILE, MANIFEST_FILE = "recipe.json", "manifest.json"
ATTEMPTS_FILE, DOCUMENTS_FILE = "attempts.jsonl", "documents.jsonl.zst"
KEPT = "kept"
"""The outcome of an attempt that has a document; the others are reasons why there is none."""
Progress = Callable[[Counter[str]], object]
"""Told how many attempts have had which outcome."""


class NotWritten(Exception):
    """A writer cannot write one document; it is counted under the reason, and the next one is asked for."""

    def __init__(self, reason: str) -> None:
        """Give a few words that are the same for all documents of the kind."""
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Request:
    """What a writer is asked for."""

    prompt: str
    schema: Mapping[str, Any]
    """Of the reply, which is JSON."""
    max_tokens: int
    seed: int
    """Of the sampling."""


class Writer(Protocol):
    """A model that writes."""

    @property
    def name(self) -> str:
        """What documents say wrote them."""
        ...

    @property
    def sha256(self) -> str:
        """Hash of its weights, and of whatever else decides what it writes."""
        ...

    def __call__(self, request: Request) -> str:
        """Return a reply.

        Raises:
            NotWritten: This one cannot be written; another may.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Attempt:
    seed: Document
    template: Template
    key: str


def write_documents(
    recipe: SyntheticRecipe, writer: Writer, folder: Path, progress: Progress = lambda outcomes: None
) -> dict[str, Any]:
    """Write what is not written yet, and return the manifest.

    Raises:
        UserError: The folder holds documents of another recipe or model, or an input is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _claim(recipe, writer, folder)
    check = recipe.checks.build()
    outcomes: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    taken: set[str] = set()
    with Journal(folder / ATTEMPTS_FILE) as journal:
        for attempt in islice(_attempts(recipe, passed, taken), recipe.max_attempts):
            if attempt.key not in journal.outcomes:
                journal.note(_attempted(attempt, recipe, writer, check))
            outcomes[journal.outcomes[attempt.key]] += 1
            progress(outcomes)
        _pack(folder / DOCUMENTS_FILE, (a["document"] for a in journal.attempts() if _is_kept(a, taken)))
    manifest = {
        "name": recipe.name,
        "recipe_sha256": _fingerprint(recipe),
        "model": {"name": writer.name, "sha256": writer.sha256},
        "n_attempts": outcomes.total(),
        "n_documents": outcomes[KEPT],
        "outcomes": dict(outcomes.most_common()),
        "seeds_passed": dict(passed.most_common()),
        "is_held_against_evaluations": recipe.checks.decontaminate is not None,
        "files": {DOCUMENTS_FILE: sha256_of(folder / DOCUMENTS_FILE)},
    }
    with replacing(folder / MANIFEST_FILE) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def _attempts(recipe: SyntheticRecipe, passed: Counter[str], taken: set[str]) -> Iterator[_Attempt]:
    """Give each attempt once, in the order of the inputs; count the seed documents that give none."""
    for item in (item for config in recipe.inputs for item in open_input(config)):
        if isinstance(item, Broken):
            passed[item.reason] += 1
            continue
        if not item.text.strip():
            passed["no_text"] += 1
            continue
        for template in recipe.templates:
            for number in range(template.per_seed):
                key = _digest(item.id, item.text, template.name, str(number))
                if key in taken:
                    passed["repeated"] += 1
                    continue
                taken.add(key)
                yield _Attempt(item, template, key)


def _attempted(attempt: _Attempt, recipe: SyntheticRecipe, writer: Writer, check: Check) -> dict[str, Any]:
    """Return the line of an attempt, made now."""
    seed, template = attempt.seed, attempt.template
    sampling_seed = int(_digest(str(recipe.seed), attempt.key)[:8], 16)
    request = Request(template.asked(seed.text), template.schema_of_reply, template.max_tokens, sampling_seed)
    try:
        reply = writer(request)
    except NotWritten as error:
        return {"key": attempt.key, "outcome": error.reason}
    text = template.text_of(reply)
    if text is None:
        return {"key": attempt.key, "outcome": "other_form"}
    metadata = {
        "synthetic": True,
        "template": template.name,
        "seed_id": seed.id,
        "seed_source": seed.source,
        "seed_license": seed.license,
        "seed_url": seed.url,
        "model": writer.name,
        "model_sha256": writer.sha256,
    }
    document = Document(
        id=attempt.key,
        text=text,
        source=f"synthetic/{recipe.name}",
        license=seed.license if recipe.license is None else recipe.license,
        metadata=metadata,
    )
    reason = check(document, seed.text)
    if reason is not None:
        return {"key": attempt.key, "outcome": reason}
    kept = {"id": document.id, "text": text, "source": document.source, "license": document.license}
    return {"key": attempt.key, "outcome": KEPT, "document": kept | {"metadata": document.metadata}}


def _is_kept(attempt: Mapping[str, Any], taken: set[str]) -> bool:
    """Whether there is a document, of a seed that the inputs still hold."""
    return attempt["outcome"] == KEPT and attempt["key"] in taken


def _pack(path: Path, documents: Iterator[dict[str, Any]]) -> None:
    with replacing(path) as temporary:
        file = DocumentFile(temporary)
        try:
            for fields in documents:
                file.write(Document(**fields))
        finally:
            file.close()


def _claim(recipe: SyntheticRecipe, writer: Writer, folder: Path) -> None:
    """Make a folder that of a recipe and a model, or find that it is."""
    path = folder / RECIPE_FILE
    model = {"name": writer.name, "sha256": writer.sha256}
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        for what, now in (("sha256", _fingerprint(recipe)), ("model", model)):
            if found[what] != now:
                raise UserError(
                    f"{folder} holds documents of another {'recipe' if what == 'sha256' else 'model'} "
                    f"({path.name} in it); name another --out, or remove it"
                )
        return
    if any(not file.name.startswith(".") for file in folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no {path.name}; name a new folder with --out")
    content = {"sha256": _fingerprint(recipe), "model": model, "recipe": recipe.model_dump(mode="json")}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _fingerprint(recipe: SyntheticRecipe) -> str:
    return hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()


def _digest(*parts: str) -> str:
    """Return a hash of texts, which tells ("ab", "c") from ("a", "bc")."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
