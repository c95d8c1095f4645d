"""Scripts that rename and move files; the destination is the complete new path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from agentkit.specialise.demonstrations.domains import FILE_NAMES
from agentkit.specialise.demonstrations.naming import named
from agentkit.specialise.demonstrations.script import Maker, Script, call
from agentkit.specialise.demonstrations.world import World
from modelstack.data.tools.spoken import Scene

_ADDED = ("old", "2024", "final", "copy", "draft", "backup", "v2")


def _rename(world: World, now: Scene) -> Script:
    """Gives a file another name in its folder; the request may leave out the suffix."""
    path = now.one(sorted(world.files))
    file = PurePosixPath(path)
    stem = now.one(
        (f"{now.one(FILE_NAMES)}-{now.random.randrange(2, 99)}", f"{now.one(FILE_NAMES)}_{now.one(_ADDED)}")
    )
    target = str(file.with_name(f"{stem}{file.suffix}"))
    if target in world.files:
        return None
    said, lookup = named(world, now, path)
    new = now.one((f"{stem}{file.suffix}", f"{stem}{file.suffix}", stem))
    yield now.one(
        (
            f"rename {said} to {new}",
            f"{said} should be called {new}",
            f"give {said} the name {new}",
            f"change the name of {said} to {new}",
            f"call {said} {new} from now on",
        )
    )
    yield from lookup
    yield call("move", source=path, destination=target)
    world.rename(path, target)
    return now.one(
        (
            f"{path} is called {PurePosixPath(target).name} now.",
            f"I have renamed it to {target}.",
            f"Done: {target}.",
        )
    )


def _rename_part(world: World, now: Scene) -> Script:
    """Adds a word to a name, or changes its suffix."""
    path = now.one(sorted(world.files))
    file = PurePosixPath(path)
    said, lookup = named(world, now, path)
    word = now.one(_ADDED)
    if file.suffix in (".txt", ".md") and now.chance(0.4):
        suffix = ".md" if file.suffix == ".txt" else ".txt"
        target = str(file.with_suffix(suffix))
        asked = now.one((f"change the ending of {said} to {suffix}", f"make {said} end in {suffix} instead"))
    elif now.chance(0.5):
        target = str(file.with_name(f"{file.stem}-{word}{file.suffix}"))
        asked = now.one((f"append -{word} to the name of {said}", f"put -{word} behind the name of {said}"))
    else:
        target = str(file.with_name(f"{word}-{file.name}"))
        asked = now.one((f"put {word}- before the name of {said}", f"let the name of {said} begin with {word}-"))
    if target in world.files:
        return None
    yield asked
    yield from lookup
    yield call("move", source=path, destination=target)
    world.rename(path, target)
    return now.one((f"It is called {target} now.", f"{path} is {target} now."))


def _move(world: World, now: Scene) -> Script:
    """Moves a file into another folder, some with a new name, or into the main folder."""
    path = now.one(sorted(world.files))
    file = PurePosixPath(path)
    parent = "" if str(file.parent) == "." else str(file.parent)
    folders = [folder for folder in ("", *sorted(world.folders)) if folder != parent]
    if not folders:
        return None
    folder = now.one(folders)
    where = f"the folder {folder}" if folder else now.one(("the main folder", "the root folder"))
    name = f"{now.one(FILE_NAMES)}-{now.one(_ADDED)}{file.suffix}" if now.chance(0.3) else file.name
    target = f"{folder}/{name}" if folder else name
    if target in world.files:
        return None
    said, lookup = named(world, now, path)
    if name != file.name:
        yield now.one((f"move {said} to {where} as {name}", f"put {said} into {where} and call it {name}"))
    else:
        yield now.one(
            (
                f"move {said} to {folder or where}",
                f"put {said} into {where}",
                f"{said} belongs into {where}, move it",
                f"{said} should be in {where}",
            )
        )
    yield from lookup
    yield call("move", source=path, destination=target)
    world.rename(path, target)
    return now.one((f"It is {target} now.", f"I have moved {path} to {target}.", f"{name} is in {where} now."))


MOVING: Sequence[Maker] = (_rename, _rename, _rename_part, _move, _move)
