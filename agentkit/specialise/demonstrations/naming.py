"""References to a file in a request: by path, by name alone, or by topic."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from pathlib import PurePosixPath

from agentkit.specialise.demonstrations.script import Step, call, mistake
from agentkit.specialise.demonstrations.world import World
from modelstack.data.tools.spoken import Scene

Lookup = Generator[Step, Sequence[str], None]
"""Steps that find a file."""
_P_PATH, _P_NAME = 0.45, 0.2
_THINGS = {
    ".csv": ("table", "spreadsheet", "CSV"),
    ".log": ("log", "log file"),
    ".md": ("notes", "note", "file"),
    ".py": ("script", "Python file", "program"),
    ".eml": ("file", "correspondence"),
}
_SETTINGS = ("settings", "configuration", "config file")


def named(world: World, now: Scene, path: str) -> tuple[str, Lookup]:
    """Return a request's words for a file, and the steps that find it if they are not its path."""
    file = PurePosixPath(path)
    draw = now.random.random()
    if draw < _P_PATH or sum(PurePosixPath(other).stem == file.stem for other in world.files) > 1:
        return path, _found(world, now, ())
    if draw < _P_PATH + _P_NAME:
        if "/" not in path:
            return path, _found(world, now, ())
        tried = (mistake("read_text_file", path=file.name),) if now.chance(0.3) else ()
        return file.name, _found(world, now, (*tried, call("search_files", pattern=file.name)))
    topic = file.stem.replace("-", " ").replace("_", " ")
    things = _THINGS.get(file.suffix, ("file", "text file", "notes"))
    if file.suffix in (".ini", ".cfg", ".env", ".json", ".yaml", ".yml"):
        things = _SETTINGS
    elif path in world.checklists:
        things = ("list", "checklist", "to-do list")
    said = f"{now.one(('the', 'the', 'my'))} {topic} {now.one(things)}"
    step = now.one((call("search_files", pattern=f"*{file.stem}*"), call("tree"), call("tree")))
    if "/" not in path and now.chance(0.5):
        step = call("list_directory")
    return said, _found(world, now, (step,))


def _found(world: World, now: Scene, steps: Iterable[Step]) -> Lookup:
    """Look up a file, unless a tree of the folder was shown before."""
    if world.known_files and now.chance(0.7):
        return
    for step in steps:
        yield step
        world.known_files = world.known_files or step.calls[0].name == "tree"
