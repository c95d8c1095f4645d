"""Stage: the result of one training step, as a folder with a record of its origin.

`stage.json` is the record: recipe, data with licences, parents, measurements before and after, and size and
SHA-256 of every other file. Its fingerprint is the SHA-256 of all of that, by which children identify their
parent. Any later change of a weight, the card or a figure is therefore detected. A record holds the whole ancestry
by names and hashes, so the lineage is known even if the folders of parents are deleted. The hashes guard against
accidents and against figures that are improved afterwards; they are not a signature.

The record is written last: a folder without one is an unfinished run, not a partial stage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from modelstack.errors import UserError
from modelstack.files import replacing
from modelstack.posttrain.stages.card import CARD_FILE, card
from modelstack.posttrain.stages.record import FileFacts, Origin, StageRecord

STAGE_FILE = "stage.json"
ADAPTER, ADAPTER_GGUF = "adapter", "adapter.gguf"
"""LoRA adapter: folder in peft's format, and file for llama.cpp."""
MODEL, MODEL_GGUF = "model", "model.gguf"
"""All weights: checkpoint folder, and file for llama.cpp."""
DRAFTER = "drafter"
"""Folder of a module that drafts tokens for the stage's parent (`architecture.draft_module`)."""
_WEIGHTS = (ADAPTER, MODEL)
"""Folders that may hold only recorded files, because a loader would take any other file for weights."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Stage whose files match its record."""

    path: Path
    record: StageRecord

    @property
    def origin(self) -> Origin:
        """The stage as its children record it."""
        return self.record.origin

    @property
    def weights(self) -> Path:
        """Folder of the stage's adapter or model.

        Raises:
            UserError: The stage has neither.
        """
        for name in _WEIGHTS:
            if (self.path / name).is_dir():
                return self.path / name
        raise UserError(f"stage {self.path} holds neither {ADAPTER!r} nor {MODEL!r}: it has no weights of its own")


def seal(folder: Path, record: StageRecord, parts: Iterable[str]) -> Stage:
    """Turn a folder into a stage: hash its files, write the card, then the record.

    Args:
        folder: Folder with the weights and logs.
        record: Record without files.
        parts: Names of the files and folders that belong to the stage; others are not recorded.

    Raises:
        UserError: A part is missing, or the folder is already a stage, which never changes.
    """
    if (folder / STAGE_FILE).exists():
        raise UserError(f"{folder} is already a stage, and a stage never changes: give another folder")
    files = {name: FileFacts.of(folder / name) for part in parts for name in _names(folder, part)}
    with replacing(folder / CARD_FILE) as temporary:
        temporary.write_text(card(record.model_copy(update={"files": files})), encoding="utf-8")
    files[CARD_FILE] = FileFacts.of(folder / CARD_FILE)
    whole = record.model_copy(update={"files": files})
    content = {"fingerprint": whole.fingerprint, "stage": whole.model_dump(mode="json")}
    with replacing(folder / STAGE_FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return Stage(folder, whole)


def is_stage(folder: Path) -> bool:
    """Return whether a folder has a record, valid or not."""
    return (folder / STAGE_FILE).is_file()


def open_stage(folder: Path) -> Stage:
    """Return a stage after checking every file against its record.

    Raises:
        UserError: The folder is not a stage, or was damaged or changed; the message names each file.
    """
    record = read_record(folder)
    if faults := list(faults_of(folder, record)):
        raise UserError(
            f"stage {folder} differs from its record: {'; '.join(faults)}. Copy it again from an intact source, "
            f"or train it again by the recipe in {STAGE_FILE}"
        )
    return Stage(folder, record)


def read_record(folder: Path) -> StageRecord:
    """Return the record of a stage after checking its fingerprint; files are not checked.

    Raises:
        UserError: The record is missing, has another version, or was changed.
    """
    file = folder / STAGE_FILE
    if not file.is_file():
        raise UserError(f"{folder} is not a stage: it has no {STAGE_FILE}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        record = StageRecord.model_validate(content["stage"])
        fingerprint = content["fingerprint"]
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise UserError(
            f"{file} is not a record of a stage: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a record of a stage: {error!r}") from error
    if record.fingerprint != fingerprint:
        raise UserError(f"{file} was changed after the stage was made: its fingerprint does not match its content")
    return record


def faults_of(folder: Path, record: StageRecord) -> Iterator[str]:
    """Yield a sentence for each file that differs from the record; none if the stage is intact."""
    for name, facts in record.files.items():
        fault = facts.fault_of(folder, name)
        if fault is not None:
            yield fault
    for part in _WEIGHTS:
        if (folder / part).is_dir():
            for name in _names(folder, part):
                if name not in record.files:
                    yield f"{name} was added"


def _names(folder: Path, part: str) -> list[str]:
    """Return the paths of a part's files relative to the folder, with forward slashes."""
    path = folder / part
    if path.is_file():
        return [part]
    files = sorted(file for file in path.rglob("*") if file.is_file())
    if not files:
        raise UserError(f"{folder} has no {part!r}, which should be part of the stage")
    return [str(PurePosixPath(file.relative_to(folder))) for file in files]
