"""Checks a release folder of anybody: signature, hashes, card against evaluation, bill, weights against record.

The folder is untrusted. Nothing in it is executed, and each file is read up to a limit. A valid signature says
that the owner of the key made the folder; the gate is asked again, since a signed release may still miss a part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modelstack.align.release.card import eval_results, front_matter, front_matter_of, parse_yaml
from modelstack.align.release.gate import BILL, CARD, EVAL_RESULTS, LICENCE, RECORD, RELEASE, faults_of
from modelstack.align.release.listing import SIGNATURE, SUMS, differences, hashes_of, read_sums
from modelstack.align.release.parts import Release
from modelstack.align.release.signature import read_public_key, verified_hashes
from modelstack.errors import UserError
from modelstack.files import read_json_object
from modelstack.posttrain.stages.stage import ADAPTER, MODEL, read_record

MAX_JSON_BYTES, MAX_TEXT_BYTES = 16 << 20, 4 << 20
_ALONE = frozenset({SUMS, SIGNATURE})


def check_release(folder: Path, key: Path, previous: Release | None = None) -> list[str]:
    """Return the faults of a release folder as sentences; none: it is whole, signed by the key, and may ship.

    Args:
        folder: The folder.
        key: Public key of the signer.
        previous: Release before, whose figures may not get worse.

    Raises:
        UserError: The folder or the key cannot be read at all.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name a release")
    public = read_public_key(key)
    found = hashes_of(folder)
    faults = differences(read_sums(folder), _without(found, _ALONE), SUMS)
    try:
        signed = verified_hashes(folder / SIGNATURE, public)
        faults += differences(signed, _without(found, {SIGNATURE}), "the signature")
    except UserError as error:
        faults.append(str(error))
    try:
        release = read_release(folder)
    except UserError as error:
        return [*faults, str(error)]
    text = _text(folder / LICENCE) if LICENCE in found else ""
    faults += map(str, faults_of(release, found.keys(), text, previous))
    faults += _contradictions(folder, release, found)
    return list(dict.fromkeys(faults))


def read_release(folder: Path) -> Release:
    """Return the parts of a release folder.

    Raises:
        UserError: `release.json` is missing, too large, or of another format.
    """
    file = folder / RELEASE
    if file.is_symlink() or not file.is_file():
        raise UserError(f"{folder} is no release: it has no {RELEASE}")
    try:
        return Release.model_validate(read_json_object(file, MAX_JSON_BYTES))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise UserError(f"{file}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error


def _contradictions(folder: Path, release: Release, found: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each paper that says something else than `release.json`."""
    for check in (_card, _results, _bill, _record):
        try:
            yield from check(folder, release, found)
        except UserError as error:
            yield str(error)


def _card(folder: Path, release: Release, found: Mapping[str, str]) -> Iterator[str]:
    if CARD not in found:
        return
    stated, expected = front_matter_of(_text(folder / CARD)), front_matter(release)
    for name, value in expected.items():
        if name != "model-index" and stated.get(name) != value:
            yield f"{CARD}: {name} is {stated.get(name)!r}, {RELEASE} says {value!r}"
    now, told = _metrics(expected), _metrics(stated)
    for key in now.keys() | told.keys():
        if now.get(key) != told.get(key):
            what = f"{key[0]}, {key[1]!r}"
            yield f"{CARD}: {what} is {told.get(key)}, the evaluation in {RELEASE} says {now.get(key)}"


def _metrics(matter: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """Return value and interval of each metric of a model index, by data set and name."""
    try:
        return {
            (str(result["dataset"]["name"]), str(metric["name"])): (metric["value"], metric.get("args"))
            for entry in matter.get("model-index", [])
            for result in entry["results"]
            for metric in result["metrics"]
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{CARD}: its model-index has another form than the Hub's: {error!r}") from error


def _results(folder: Path, release: Release, found: Mapping[str, str]) -> Iterator[str]:
    if EVAL_RESULTS in found and parse_yaml(_text(folder / EVAL_RESULTS), EVAL_RESULTS) != eval_results(release):
        yield f"{EVAL_RESULTS} contradicts the figures of {RELEASE}"


def _bill(folder: Path, release: Release, found: Mapping[str, str]) -> Iterator[str]:
    if BILL not in found:
        return
    content = read_json_object(folder / BILL, MAX_JSON_BYTES)
    try:
        if content["bomFormat"] != "CycloneDX":
            raise ValueError(f"bomFormat is {content['bomFormat']!r}")
        (model,) = (each for each in content["components"] if each.get("bom-ref") == "model")
        listed = {each["name"]: each["hashes"][0]["content"] for each in model["components"]}
        metrics = {
            each["type"]: each["value"]
            for each in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
        }
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{BILL} is no bill of a release: {error!r}") from error
    yield from differences(listed, _without(found, _ALONE | {BILL}), BILL)
    for figure in release.figures:
        if metrics.get(f"{figure.part}: {figure.name}") != repr(figure.value):
            yield f"{BILL}: {figure.part}, {figure.name!r} contradicts the evaluation in {RELEASE}"


def _record(folder: Path, release: Release, found: Mapping[str, str]) -> Iterator[str]:
    if RECORD not in found:
        return
    if (folder / RECORD).stat().st_size > MAX_JSON_BYTES:
        raise UserError(f"{RECORD} has more than {MAX_JSON_BYTES:,} bytes")
    record = read_record(folder)
    if record != release.stage:
        yield f"{RECORD} is of stage {record.name!r}, {RELEASE} is of another record"
    for name, facts in record.files.items():
        here = name.rpartition("/")[2]
        is_copied = name.startswith((ADAPTER, MODEL)) and here in found and not _is_rewritten(release, here)
        if is_copied and found[here] != facts.sha256:
            yield f"{here} is not the file that {RECORD} records as {name}"


def _is_rewritten(release: Release, name: str) -> bool:
    """Whether a file of the stage is written anew in the release: peft's files name the base by its Hub id."""
    return release.is_adapter and not name.endswith(".gguf")


def _text(file: Path) -> str:
    if file.stat().st_size > MAX_TEXT_BYTES:
        raise UserError(f"{file.name} has {file.stat().st_size:,} bytes; at most {MAX_TEXT_BYTES:,} are read")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file.name} is not UTF-8: {error}") from error


def _without(hashes: Mapping[str, str], names: frozenset[str] | set[str]) -> dict[str, str]:
    return {name: sha256 for name, sha256 in hashes.items() if name not in names}
