"""Record of a finished step: what it was made from, and the hash of every file that it wrote.

`step.json` is written last, so a folder without one is an unfinished step. There are two kinds of files. The bytes
of the `content` follow from the inputs alone: weights, data, figures. Their hashes identify the output for later
steps, and are the same in a run that was killed and resumed. Other files (logs, plots, records with times) are
checked against alterations too, but nothing depends on them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from modelstack.errors import UserError
from modelstack.files import replacing
from modelstack.posttrain.stages.record import FileFacts, canonical

RECORD_FILE = "step.json"
UNRECORDED = ("checkpoints",)
"""Folders whose files are of no use once a step has finished."""
Fact = float | int | str


class StepResult(BaseModel, frozen=True, extra="forbid"):
    """Report of a finished step."""

    what: str
    """Sentence about the outcome, for the status line and the card."""
    content: tuple[str, ...]
    """Files and folders in the step's folder whose bytes follow from its inputs alone."""
    facts: dict[str, Fact] = {}
    """Figures by name."""
    model: str | None = None
    """Model that later steps continue with, as a path in the step's folder; "." is a stage."""
    table: tuple[tuple[str, ...], ...] = ()
    """Table of the page, its head first."""
    notes: tuple[str, ...] = ()
    """Sentences about what did not go as wished."""


class StepRecord(BaseModel, frozen=True, extra="forbid"):
    """Record of a finished step."""

    version: Literal[1] = 1
    step: str
    key: str
    """Hash of everything that the output follows from."""
    package: str
    """Version of the package."""
    inputs: dict[str, str]
    """Hash of each input by name."""
    config: dict[str, object]
    """Sections of the recipe that the step read."""
    result: StepResult
    hashes: dict[str, str]
    """SHA-256 of each file of the content."""
    files: dict[str, FileFacts]
    """Size and SHA-256 of all files."""
    seconds: float
    """Seconds of work, those of killed processes included where the step measures them."""
    peak_memory_bytes: int

    @property
    def digest(self) -> str:
        """SHA-256 of the content's names and hashes: the same in every run with the same inputs."""
        return digest_of(self.hashes)

    def part(self, name: str) -> str:
        """Return the hash of a file or folder of the content.

        Raises:
            UserError: The step wrote no such part.
        """
        own = {path: found for path, found in self.hashes.items() if path == name or path.startswith(f"{name}/")}
        if not own:
            raise UserError(f"step {self.step} has no part {name!r}; it has {', '.join(self.result.content)}")
        return digest_of(own)


def digest_of(hashes: Mapping[str, str]) -> str:
    """Return the SHA-256 of names and hashes."""
    return hashlib.sha256("".join(f"{sha}  {name}\n" for name, sha in sorted(hashes.items())).encode()).hexdigest()


def key_of(step: str, version: int, package: str, config: Mapping[str, object], inputs: Mapping[str, str]) -> str:
    """Return the key of a step: equal keys have equal outputs."""
    return hashlib.sha256(
        canonical(
            {"step": step, "version": version, "package": package, "config": dict(config), "inputs": dict(inputs)}
        ).encode()
    ).hexdigest()


def seal_step(folder: Path, record: StepRecord) -> StepRecord:
    """Hash the files of a finished step and write its record, which is the last file.

    Raises:
        UserError: A part of the content is missing.
    """
    files = {name: FileFacts.of(path) for name, path in _files(folder)}
    hashes: dict[str, str] = {}
    for part in record.result.content:
        own = {name: facts.sha256 for name, facts in files.items() if name == part or name.startswith(f"{part}/")}
        if not own:
            raise UserError(f"step {record.step} wrote no {part!r}, which belongs to its output")
        hashes |= own
    sealed = record.model_copy(update={"files": files, "hashes": hashes})
    with replacing(folder / RECORD_FILE) as temporary:
        temporary.write_text(sealed.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return sealed


def read_record(folder: Path) -> StepRecord | None:
    """Return the record of a step; None: it is unfinished.

    Raises:
        UserError: The record was changed by hand, or is of another version.
    """
    file = folder / RECORD_FILE
    if not file.is_file():
        return None
    try:
        return StepRecord.model_validate_json(file.read_bytes())
    except (ValidationError, OSError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise UserError(f"{file} is not a record of a step: {first}") from error


def faults_of(folder: Path, record: StepRecord) -> Iterator[str]:
    """Yield a sentence for each file that differs from the record."""
    for name, facts in record.files.items():
        fault = facts.fault_of(folder, name)
        if fault is not None:
            yield fault
    known = record.files.keys()
    for part in record.result.content:
        if (folder / part).is_dir():
            for name, _ in _below(folder, folder / part):
                if name not in known:
                    yield f"{name} was added"
    for name in record.hashes.keys() - known:
        yield f"{RECORD_FILE} names {name} in its content alone"
    for name, sha in record.hashes.items():
        if name in known and record.files[name].sha256 != sha:
            yield f"{RECORD_FILE} has two hashes of {name}"


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _files(folder: Path) -> list[tuple[str, Path]]:
    return [
        (name, path)
        for name, path in _below(folder, folder)
        if name != RECORD_FILE and not any(part in UNRECORDED for part in Path(name).parts[:-1])
    ]


def _below(root: Path, folder: Path) -> list[tuple[str, Path]]:
    found: Iterable[Path] = sorted(folder.rglob("*"))
    return [
        (path.relative_to(root).as_posix(), path)
        for path in found
        if path.is_file() and not path.name.startswith(".")
    ]


def differences(before: StepRecord, package: str, config: Mapping[str, object], inputs: Mapping[str, str]) -> str:
    """Return why a step's key differs from its record: the first reason in plain words."""
    if before.package != package:
        return f"made by version {before.package} of the package, this is {package}"
    for name, value in config.items():
        if before.config.get(name) != value:
            return f"the recipe's {_changed_key(name, before.config.get(name), value)} changed"
    changed = [name for name, sha in inputs.items() if before.inputs.get(name) != sha]
    return f"its input {changed[0]} changed" if changed else "the step itself has a new version"


def _changed_key(name: str, before: object, now: object) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        keys: Sequence[str] = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        if keys:
            return _changed_key(f"{name}.{keys[0]}", before.get(keys[0]), now.get(keys[0]))
    return name
