"""A skill: a folder with SKILL.md, read and judged by the rules of the Agent Skills format (agentskills.io).

`read_skill` never raises for a bad folder. It returns what is wrong, each problem in one of three classes:

    refused   the skill is not used: no name or description, or it is unsafe to read
    format    against the specification, harmless here: the skill is used (the format's guide for clients says so)
    notice    within the specification; a person should look, for example at hidden text
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from agentkit.skills.files import SkillFile, SkillFiles, SkillRefused, read_files
from agentkit.skills.front_matter import parsed_front_matter, split_front_matter
from agentkit.skills.hiding import cleaned, hiding_places

SKILL_FILE = "SKILL.md"
MAX_NAME_CHARS, MAX_DESCRIPTION_CHARS, MAX_COMPATIBILITY_CHARS = 64, 1_024, 500
"""Limits of the format."""
MAX_SKILL_FILE_BYTES = 1 << 20
RECOMMENDED_LINES = 500
"""Length of SKILL.md that the format recommends at most."""
NAME_RULE = "1 to 64 of a-z, 0-9 and single hyphens inside"
_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_FIELDS = frozenset({"name", "description", "license", "compatibility", "metadata", "allowed-tools"})
_PROSE = (".md", ".markdown", ".txt", ".rst")
_MAX_PROBLEMS = 40
_SHOWN_CHARS = 80

Severity = Literal["refused", "format", "notice"]


@dataclass(frozen=True, slots=True)
class SkillProblem:
    """A fault of a skill, or something in it that a person should look at."""

    severity: Severity
    text: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.text}"


@dataclass(frozen=True, slots=True)
class Skill:
    """A skill that can be used."""

    name: str
    description: str
    """Purpose and time of use: one line, without hidden characters and control tokens."""
    folder: Path
    sha256: str
    """Hash of all of its files (`SkillFiles.sha256`)."""
    license: str | None = None
    compatibility: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    allowed_tools: tuple[str, ...] = ()
    """Tools that the skill wants to use. They are shown to people and grant nothing."""


@dataclass(frozen=True, slots=True)
class SkillReading:
    """A folder as it was read: the skill, its files and problems."""

    folder: Path
    skill: Skill | None
    """None if the skill is refused."""
    files: SkillFiles
    text: str
    """SKILL.md for a model, without hidden characters and control tokens."""
    body_start: int
    """Position in `text` behind the front matter."""
    problems: tuple[SkillProblem, ...]

    @property
    def is_valid(self) -> bool:
        """True if the skill is used and nothing in it is against the specification."""
        return all(each.severity == "notice" for each in self.problems)

    @property
    def refusal(self) -> str:
        """Reasons why the skill is refused; "" if it is not."""
        return "; ".join(each.text for each in self.problems if each.severity == "refused")


def read_skill(folder: Path) -> SkillReading:
    """Read and judge a folder.

    Raises:
        UserError: PyYAML is not installed.
    """
    try:
        files = read_files(folder)
        written = decoded(_skill_file(files))
        yaml, written_start = split_front_matter(written)
        fields = parsed_front_matter(yaml)
    except SkillRefused as error:
        refused = SkillProblem("refused", str(error))
        return SkillReading(folder, None, SkillFiles(()), "", 0, (refused,))
    head, body = cleaned(written[:written_start])[0], cleaned(written[written_start:])[0]
    problems = list(_judged(fields, folder.name))
    skill = None if any(each.severity == "refused" for each in problems) else _skill(fields, folder, files)
    problems += (SkillProblem("notice", each) for each in _to_look_at(files, written, body, fields))
    return SkillReading(folder, skill, files, head + body, len(head), tuple(problems[:_MAX_PROBLEMS]))


def decoded(file: SkillFile) -> str:
    """Return the text of a file as it was written, with line feeds as line ends.

    Raises:
        SkillRefused: the file is not UTF-8.
    """
    try:
        return file.data.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise SkillRefused(
            f"{file.path!a} is not UTF-8 (byte {error.start}); save it in this encoding."
        ) from error


def _skill_file(files: SkillFiles) -> SkillFile:
    file = files.by_path.get(SKILL_FILE)
    if file is None:
        near = next((each.path for each in files.files if each.path.lower() == SKILL_FILE.lower()), None)
        hint = f"; rename {near!a}" if near else "; a skill is a folder with this file"
        raise SkillRefused(f"there is no {SKILL_FILE}{hint}.")
    if len(file.data) > MAX_SKILL_FILE_BYTES:
        raise SkillRefused(
            f"{SKILL_FILE} has {len(file.data):,} bytes, the limit is {MAX_SKILL_FILE_BYTES:,}; "
            f"move parts into references/."
        )
    if file.data.startswith(b"\xef\xbb\xbf"):
        raise SkillRefused(f"{SKILL_FILE} begins with a byte order mark; save it as UTF-8 without one.")
    return file


# -- rules of the format ----------------------------------------------------------------------------------------


def _judged(fields: Mapping[str, Any], folder_name: str) -> Iterator[SkillProblem]:
    yield from _judged_name(fields.get("name"), folder_name)
    yield from _judged_description(fields.get("description"))
    for unknown in sorted(set(fields) - _FIELDS):
        yield SkillProblem("format", f"field {_shown(unknown)} is not of the format; move it into metadata.")
    for key in ("license", "compatibility"):
        value = fields.get(key, "-")
        if not isinstance(value, str) or not value.strip():
            yield SkillProblem("format", f"{key} {_shown(value)} is not text; leave it out if there is none.")
    if len(str(fields.get("compatibility", ""))) > MAX_COMPATIBILITY_CHARS:
        yield SkillProblem(
            "format", f"compatibility is longer than {MAX_COMPATIBILITY_CHARS} characters; shorten it."
        )
    metadata = fields.get("metadata", {})
    if not isinstance(metadata, dict):
        yield SkillProblem("format", f"metadata {_shown(metadata)} is not a mapping of names to texts.")
    else:
        nested = [key for key, value in cast("dict[str, Any]", metadata).items() if not isinstance(value, str)]
        for key in nested:
            yield SkillProblem("format", f"metadata {_shown(key)} is not text; write one text for each name.")
    if not isinstance(fields.get("allowed-tools", ""), str):
        yield SkillProblem("format", "allowed-tools is a list; write the names in one text, separated by spaces.")


def _judged_name(value: Any, folder_name: str) -> Iterator[SkillProblem]:
    name = value.strip() if isinstance(value, str) else ""
    if not name:
        yield SkillProblem("refused", f"the front matter has no name; write `name: {folder_name.lower()[:64]!a}`.")
    elif len(name) > MAX_NAME_CHARS or not _NAME.fullmatch(name):
        yield SkillProblem("refused", f"the name {_shown(name)} is not {NAME_RULE}.")
    elif name != folder_name:
        yield SkillProblem(
            "refused", f"the name {name!a} is not that of the folder, {_shown(folder_name)}; rename one."
        )


def _judged_description(value: Any) -> Iterator[SkillProblem]:
    if not isinstance(value, str) or not cleaned(value)[0].strip():
        yield SkillProblem("refused", "the front matter has no description; write what the skill does, and when.")
    elif len(value) > MAX_DESCRIPTION_CHARS:
        yield SkillProblem(
            "format",
            f"the description has {len(value):,} characters; the format has {MAX_DESCRIPTION_CHARS:,} at most.",
        )


def _skill(fields: Mapping[str, Any], folder: Path, files: SkillFiles) -> Skill:
    """Return the skill of fields without a reason to refuse it."""
    given = fields.get("metadata", {})
    items = cast("dict[str, Any]", given).items() if isinstance(given, dict) else ()
    tools = fields.get("allowed-tools", ())
    names = tools.split() if isinstance(tools, str) else [each for each in tools if isinstance(each, str)]
    return Skill(
        name=str(fields["name"]).strip(),
        description=_one_line(str(fields["description"]))[:MAX_DESCRIPTION_CHARS],
        folder=folder,
        sha256=files.sha256,
        license=_text(fields.get("license")),
        compatibility=_text(fields.get("compatibility")),
        metadata={_one_line(key): _one_line(value) for key, value in items if isinstance(value, str)},
        allowed_tools=tuple(_one_line(each) for each in names),
    )


def _text(value: Any) -> str | None:
    return _one_line(value) or None if isinstance(value, str) else None


def _one_line(text: str) -> str:
    return " ".join(cleaned(text)[0].split())


# -- what a person should look at -------------------------------------------------------------------------------


def _to_look_at(files: SkillFiles, written: str, body: str, fields: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{SKILL_FILE}: {each}" for each in (*cleaned(written)[1], *hiding_places(written)))
    for key in ("description", "license", "compatibility"):  # escapes of YAML can spell hidden characters
        if isinstance(value := fields.get(key), str) and value not in written:
            yield from (f"{key}: {each}" for each in cleaned(value)[1])
    if not body.strip():
        yield f"{SKILL_FILE} has no instructions behind its front matter"
    if (n_lines := written.count("\n")) > RECOMMENDED_LINES:
        yield f"{SKILL_FILE} has {n_lines} lines; the format recommends at most {RECOMMENDED_LINES}"
    if fields.get("allowed-tools"):
        yield "allowed-tools grants nothing here: the rules of the run decide"
    for file in files.files:
        if file.path != SKILL_FILE and b"\0" not in file.data:
            yield from _hidden_in(file)


def _hidden_in(file: SkillFile) -> Iterator[str]:
    try:
        written = decoded(file)
    except SkillRefused:
        return  # not text: no model reads it
    found = cleaned(written)[1]
    if file.path.lower().endswith(_PROSE):
        found += hiding_places(written)
    elif found:  # code runs as it was written
        found = [f"a reader does not see all of it ({'; '.join(found)})"]
    yield from (f"{file.path!a}: {each}" for each in found)


def _shown(value: Any) -> str:
    """Return an untrusted value for a message: escaped and short."""
    shown = ascii(value)
    return shown if len(shown) <= _SHOWN_CHARS else f"{shown[:_SHOWN_CHARS]}..."
