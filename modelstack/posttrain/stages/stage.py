"""A stage: what one step of training made of a model, as a folder that says where it came from.

`stage.json` is the record: recipe, data with licences, what it was trained from, measurements before and after,
and size and SHA-256 of every other file. Its fingerprint is the SHA-256 of all of that, and is what children call
their parent by, so a weight, a word of the card or a figure that is changed later shows. A record carries its
whole ancestry, by names and hashes: lineage can be told where the folders of parents are long gone. The hashes
guard against accidents and against figures that are improved afterwards; they are no signature.

The record is written last: a folder without one is a run that is under way, not half a stage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from modelstack.errors import UserError
from modelstack.files import replacing, sha256_of
from modelstack.posttrain.stages.card import CARD_FILE, card
from modelstack.posttrain.stages.record import FileFacts, Origin, StageRecord

STAGE_FILE = "stage.json"
ADAPTER, ADAPTER_GGUF = "adapter", "adapter.gguf"
"""A LoRA adapter: peft's folder, and the file that llama.cpp reads."""
MODEL, MODEL_GGUF = "model", "model.gguf"
"""All weights: a checkpoint folder, and a file for llama.cpp."""
_WEIGHTS = (ADAPTER, MODEL)
"""Folders in which nothing may lie that the record does not name: a loader would take it for weights."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage whose files are what its record says."""

    path: Path
    record: StageRecord

    @property
    def origin(self) -> Origin:
        """The stage as its children remember it."""
        return self.record.origin

    @property
    def weights(self) -> Path:
        """Its adapter, or its model: the folder that there is.

        Raises:
            UserError: It has neither.
        """
        for name in _WEIGHTS:
            if (self.path / name).is_dir():
                return self.path / name
        raise UserError(f"stage {self.path} holds neither {ADAPTER!r} nor {MODEL!r}: it has no weights of its own")


def seal(folder: Path, record: StageRecord, parts: Iterable[str]) -> Stage:
    """Make a folder a stage: hash what it holds, draw the card, and write the record.

    Args:
        folder: Where weights and logs lie already.
        record: Without files.
        parts: Files and folders that belong to the stage, by name; others stay out of it.

    Raises:
        UserError: A part is missing, or the folder is a stage already, which never changes.
    """
    if (folder / STAGE_FILE).exists():
        raise UserError(f"{folder} is a stage already, and a stage never changes: give another folder")
    files = {name: _facts(folder / name) for part in parts for name in _names(folder, part)}
    with replacing(folder / CARD_FILE) as temporary:
        temporary.write_text(card(record.model_copy(update={"files": files})), encoding="utf-8")
    files[CARD_FILE] = _facts(folder / CARD_FILE)
    whole = record.model_copy(update={"files": files})
    content = {"fingerprint": whole.fingerprint, "stage": whole.model_dump(mode="json")}
    with replacing(folder / STAGE_FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return Stage(folder, whole)


def is_stage(folder: Path) -> bool:
    """Say whether a folder has a record, sound or not."""
    return (folder / STAGE_FILE).is_file()


def open_stage(folder: Path) -> Stage:
    """Return a stage, every file of it held against its record.

    Raises:
        UserError: It is none, or it was damaged or changed; the message names each file.
    """
    record = read_record(folder)
    if faults := list(faults_of(folder, record)):
        raise UserError(
            f"stage {folder} is not what was written: {'; '.join(faults)}. Take it from where it is whole, "
            f"or train it again by the recipe in {STAGE_FILE}"
        )
    return Stage(folder, record)


def read_record(folder: Path) -> StageRecord:
    """Return a stage's record, which is as it was written; files are not looked at.

    Raises:
        UserError: There is none, it is of another version, or it was changed.
    """
    file = folder / STAGE_FILE
    if not file.is_file():
        raise UserError(f"{folder} is no stage: it has no {STAGE_FILE}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        record = StageRecord.model_validate(content["stage"])
        fingerprint = content["fingerprint"]
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise UserError(
            f"{file} is no record of a stage: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is no record of a stage: {error!r}") from error
    if record.fingerprint != fingerprint:
        raise UserError(f"{file} was changed after the stage was made: its fingerprint does not fit its content")
    return record


def faults_of(folder: Path, record: StageRecord) -> Iterator[str]:
    """Give a sentence for each file that is not as the record says; none: the stage is whole."""
    for name, facts in record.files.items():
        file = folder / name
        if not file.is_file():
            yield f"{name} is missing"
        elif file.stat().st_size != facts.n_bytes:
            yield f"{name} has {file.stat().st_size} bytes, written were {facts.n_bytes}"
        elif sha256_of(file) != facts.sha256:
            yield f"{name} has another content (SHA-256)"
    for part in _WEIGHTS:
        if (folder / part).is_dir():
            for name in _names(folder, part):
                if name not in record.files:
                    yield f"{name} was added"


def _names(folder: Path, part: str) -> list[str]:
    """Return the files of a part by their paths in the folder, written with slashes."""
    path = folder / part
    if path.is_file():
        return [part]
    files = sorted(file for file in path.rglob("*") if file.is_file())
    if not files:
        raise UserError(f"{folder} has no {part!r}, which the stage is to hold")
    return [str(PurePosixPath(file.relative_to(folder))) for file in files]


def _facts(file: Path) -> FileFacts:
    return FileFacts(n_bytes=file.stat().st_size, sha256=sha256_of(file))
