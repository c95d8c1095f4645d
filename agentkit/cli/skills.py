"""`agentkit skills`: skills in folders: list, check against the format and the pins, show, and accept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentkit.cli.options import JsonOption
from agentkit.errors import UserError
from modelstack.terminal.plain_help import PlainTyper

if TYPE_CHECKING:
    from agentkit.skills.skill import SkillReading

ACCEPTED, RECORDED, CHANGED, UNKNOWN, REFUSED = "accepted", "recorded", "changed", "not pinned", "refused"
"""States of a skill; see `agentkit.skills.pins`."""
MAX_DESCRIPTION_CHARS = 300
"""Characters of a description in a list on a terminal."""
app = PlainTyper(no_args_is_help=True, help="Skills: list, check, show, pin.")

FoldersArgument = Annotated[
    list[Path], typer.Argument(metavar="FOLDER...", help="Folders of skills, or skill folders.")
]
FolderArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of skills, or a skill folder.")]
NamesArgument = Annotated[list[str] | None, typer.Argument(metavar="[SKILL]...", help="Their names; none: all.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command("list")
def list_skills(folders: FoldersArgument, as_json: JsonOption = False) -> None:
    """List skills with their state and the tokens that they take; nothing is recorded."""
    from agentkit.cli.console import count_of, one_line, print_tables
    from agentkit.history.compaction import CHARS_PER_TOKEN
    from agentkit.skills.scripts import SkillScripts, script_paths
    from modelstack.terminal.tables import Column, Table, print_json

    columns = (
        Column("skill", "name"),
        Column("state"),
        Column("files"),
        Column("scripts"),
        Column("tokens"),
        Column("description", show=lambda text: one_line(text, MAX_DESCRIPTION_CHARS), below=True),
    )
    rows = [
        (
            reading.folder.name,
            _state(reading),
            len(reading.files.files),
            len(script_paths(reading.files, SkillScripts())),
            (len(reading.text) - reading.body_start) // CHARS_PER_TOKEN,
            reading.refusal if reading.skill is None else reading.skill.description,
        )
        for reading in _readings(folders)
    ]
    table = Table(columns, rows, count_of(len(rows), "skill"))
    if as_json:
        print_json(table.records())
    else:
        print_tables(table)


@app.command()
def check(folders: FoldersArgument, as_json: JsonOption = False) -> None:
    """Check skills against the format, their pins and hidden text.

    Exit status 1: a skill is refused, breaks the format, or has changed since it was pinned. What is only a notice
    does not count.
    """
    from agentkit.cli.console import output_console, plain, print_wrapped
    from modelstack.terminal.tables import print_json

    checked: list[dict[str, Any]] = []
    for reading in _readings(folders):
        state, lines = _state(reading), _difference(reading)
        checked.append(
            {
                "name": reading.folder.name,
                "folder": str(reading.folder),
                "valid": reading.is_valid,
                "state": state,
                "problems": [{"severity": each.severity, "text": each.text} for each in reading.problems],
                "difference": lines,
            }
        )
        if as_json:
            continue
        output = output_console()
        verdict = "valid" if reading.is_valid else "not valid"
        output.print(plain(f"{reading.folder.name}: {verdict}, {state}", "" if reading.is_valid else "yellow"))
        for problem in reading.problems:
            print_wrapped(output, f"  {problem}", indent="    ")
        for line in lines:
            output.print(plain(f"  {line}"))
    if as_json:
        print_json(checked)
    if not all(each["valid"] and each["state"] != CHANGED for each in checked):
        raise typer.Exit(1)


@app.command()
def show(
    folder: FolderArgument,
    skill: Annotated[
        str | None, typer.Argument(metavar="[SKILL]", help="Its name, in a folder of several.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a skill as a model reads it: its text and the list of its files."""
    from agentkit.cli.console import output_console, plain
    from modelstack.terminal.tables import print_json

    found = _chosen([folder], [skill] if skill else None)
    if len(found) != 1:
        names = ", ".join(each.folder.name for each in found)
        raise UserError(f"{str(folder)!r} has several skills: name one of {names}.")
    reading = found[0]
    if reading.skill is None:
        raise UserError(f"the skill {reading.folder.name!r} is refused: {reading.refusal}")
    if as_json:
        print_json(
            {
                "name": reading.skill.name,
                "description": reading.skill.description,
                "license": reading.skill.license,
                "compatibility": reading.skill.compatibility,
                "metadata": dict(reading.skill.metadata),
                "allowed_tools": list(reading.skill.allowed_tools),
                "sha256": reading.skill.sha256,
                "state": _state(reading),
                "files": [each.path for each in reading.files.files],
                "text": reading.text,
            }
        )
        return
    output = output_console()
    output.print(plain(reading.text.rstrip()))
    output.print(plain("\nfiles:"))
    for file in reading.files.files:
        output.print(
            plain(f"  {file.path} ({len(file.data):,} bytes{', executable' if file.is_executable else ''})")
        )
    output.print(plain(f"sha256: {reading.files.sha256}\nstate: {_state(reading)}"))


@app.command()
def pin(folder: FolderArgument, skills: NamesArgument = None, yes: YesOption = False) -> None:
    """Accept skills with the files that they have now, so that agents trust their text.

    Shows what a person should look at, the files and the differences from the pin, and asks first.
    """
    from agentkit.cli.console import count_of, output_console, plain, print_wrapped
    from agentkit.skills.pins import DEFAULT_SKILL_PINS

    output = output_console()
    for reading in _chosen([folder], skills):
        name, state = reading.folder.name, _state(reading)
        if reading.skill is None:
            raise UserError(f"the skill {name!r} cannot be pinned: {reading.refusal}")
        output.print(plain(f"{name}: {state}"))
        if state == ACCEPTED:
            continue
        print_wrapped(output, f"  {reading.skill.description}", indent="  ")
        for problem in reading.problems:
            print_wrapped(output, f"  {problem}", indent="    ")
        difference = _difference(reading)
        for line in difference or [f"{each.path} ({len(each.data):,} bytes)" for each in reading.files.files]:
            output.print(plain(f"  {line}"))
        if not (yes or typer.confirm(f"trust {count_of(len(reading.files.files), 'file')} of {name}?")):
            raise typer.Exit(1)
        DEFAULT_SKILL_PINS.write(reading)
        output.print(plain(f"{name}: {ACCEPTED}"))


def _readings(folders: Sequence[Path]) -> list[SkillReading]:
    """Return the skills in folders as they are.

    Raises:
        UserError: a folder does not exist or has no skill.
    """
    from agentkit.skills.library import absolute_path, skill_folders
    from agentkit.skills.skill import read_skill

    for folder in folders:
        if not folder.expanduser().is_dir():
            raise UserError(f"the folder of skills {str(folder)!r} does not exist; correct the path.")
    found = skill_folders([absolute_path(each) for each in folders])
    if not found:
        raise UserError(f"{', '.join(map(repr, map(str, folders)))}: there is no folder with a SKILL.md.")
    return [read_skill(each) for each in found]


def _chosen(folders: Sequence[Path], names: Sequence[str] | None) -> list[SkillReading]:
    """Return the skills of these names; None: all.

    Raises:
        UserError: a name is unknown.
    """
    from agentkit.basics.near_names import near_names

    found = {each.folder.name: each for each in _readings(folders)}
    for name in names or ():
        if name not in found:
            near = near_names(name, found)
            hint = f"did you mean {near[0]!r}?" if near else "`agentkit skills list` shows them."
            raise UserError(f"there is no skill {name!r}; {hint}")
    return [found[name] for name in names or found]


def _state(reading: SkillReading) -> str:
    """Return the state of a skill, by its pin; records nothing."""
    from agentkit.skills.pins import DEFAULT_SKILL_PINS

    if reading.skill is None:
        return REFUSED
    pin = DEFAULT_SKILL_PINS.read(reading.folder)
    if pin is None:
        return UNKNOWN
    if pin.sha256 != reading.files.sha256:
        return CHANGED
    return ACCEPTED if pin.is_accepted else RECORDED


def _difference(reading: SkillReading) -> list[str]:
    from agentkit.skills.pins import DEFAULT_SKILL_PINS, difference

    pin = None if reading.skill is None else DEFAULT_SKILL_PINS.read(reading.folder)
    return [] if pin is None else difference(pin, reading)
