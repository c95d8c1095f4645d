"""Scripts that write, move and delete files, for the tools of `mcp_servers.filesystem`."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import PurePosixPath

from agentkit.specialise.demonstrations import file_moving
from agentkit.specialise.demonstrations.domains import FACTS, FOLDERS, ITEMS, PEOPLE
from agentkit.specialise.demonstrations.naming import named
from agentkit.specialise.demonstrations.script import Maker, Script, Step, call, sentence, several
from agentkit.specialise.demonstrations.world import World
from modelstack.data.tools.spoken import Scene, listed

_NO_MATCH = "no match"


def _make_folder(world: World, now: Scene) -> Script:
    name = now.one([f for f in (*FOLDERS, "photos", "backup", "recipes", "scans") if f not in world.folders])
    yield now.one(
        (
            f"make a folder {name}",
            f"create a new folder named {name}",
            f"I need a directory {name}",
            f"add a folder {name}",
        )
    )
    yield call("create_directory", path=name)
    world.folders.add(name)
    return now.one(
        (f"I have created the folder {name}.", f"The folder {name} is there now.", f"Done: {name} exists.")
    )


def _write(world: World, now: Scene) -> Script:
    path = world.new_path(now, now.one((".txt", ".md")))
    kind = now.one(("text", "text", "list"))
    if kind == "list":
        items = now.some(
            ("rope", "lamp oil", "nails", "tea", "two maps", "batteries", "soap", "string", "paint"), 3
        )
        text = "".join(f"- {item}\n" for item in items)
        yield now.one(
            (
                f"write a list to {path}: {listed(items)}",
                f"make {path} with the items {listed(items)}",
                f"create a list in {path} with {listed(items)}",
            )
        )
        told = f"{path} has the {len(items)} items {listed(items)}."
    else:
        said = now.one(
            (
                f"Call {now.one(PEOPLE)} on Monday",
                f"The {now.one(tuple(FACTS))} has changed",
                now.one(ITEMS).capitalize(),
                f"Ask {now.one(PEOPLE)} to {now.one(ITEMS)}",
            )
        )
        text = f"{said}\n"
        yield now.one(
            (
                f'create a file {path} that says "{said}"',
                f'write "{said}" into a new file {path}',
                f"save this as {path}: {said}",
                f"note in {path}: {said}",
                f"make a new file called {path} containing {said}",
            )
        )
        told = f'{path} says "{said}" now.'
    (found,) = yield call("write_file", path=path, text=text)
    if found.startswith("created"):
        world.files[path] = text
    return now.one((f"I have created {path}.", f"{path} is saved.", told))


def _append(world: World, now: Scene) -> Script:
    """Adds an item to a list in the format of the others, after reading the list."""
    if not world.checklists:
        return None
    path = now.one(sorted(world.checklists))
    item = now.one([i for i in ITEMS if i not in world.files[path]])
    said, lookup = named(world, now, path)
    yield now.one(
        (
            f"add {item!r} to {said}",
            f"put {item} on the list in {said}",
            f"{said} lacks something: {item}. Add it",
            f"append the item {item} to {said}",
        )
    ).replace("'", '"')
    yield from lookup
    return (yield from _appended(world, path, item, now))


def add_unplaced(world: World, now: Scene) -> Script:
    """Adds an item to a list that is named by its subject alone: find the file, read it, append."""
    stems = {path: PurePosixPath(path).stem for path in world.checklists}
    paths = [path for path, stem in stems.items() if stem.isalpha() and sum(stem in p for p in world.files) == 1]
    if not paths:
        return None
    path = now.one(sorted(paths))
    item = now.one([i for i in ITEMS if i not in world.files[path]])
    yield now.one(
        (
            f'"{item}" has to go on the {stems[path]} list',
            f"note on my {stems[path]} list: {item}",
            f"one more for the {stems[path]} list: {item}",
        )
    )
    yield call("search_files", pattern=f"*{stems[path]}*")
    return (yield from _appended(world, path, item, now))


def _appended(world: World, path: str, item: str, now: Scene) -> Generator[Step, Sequence[str], str]:
    """Append an item in the format of the others, after reading the list; return the answer."""
    yield call("read_text_file", path=path)
    new = f"- [ ] {item}"
    yield call("write_file", path=path, text=f"{new}\n", append=True)
    world.files[path] = f"{world.files[path].rstrip()}\n{new}\n"
    world.checklists[path][0].append(item)
    return now.one((f'I have added "{item}" to {path}.', f'"{item}" is on the list in {path} now.'))


def _append_line(world: World, now: Scene) -> Script:
    """Appends a given line to a text file without syntax."""
    plain = [path for path in world.with_suffix(".txt", ".md", ".log") if path not in world.checklists]
    if not plain:
        return None
    path = now.one(plain)
    said, lookup = named(world, now, path)
    line = now.one(
        (f"{now.one(PEOPLE)} knows more", f"changed on {now.today}", f"ask {now.one(PEOPLE)}", now.one(ITEMS))
    )
    yield now.one(
        (
            f'add the line "{line}" to {said}',
            f'append "{line}" to {said}',
            f'write "{line}" at the end of {said}',
            f'put "{line}" into {said}, please',
        )
    )
    yield from lookup
    yield call("write_file", path=path, text=f"{line}\n", append=True)
    world.files[path] = f"{world.files[path].rstrip()}\n{line}\n"
    world.questions.pop(path, None)
    return now.one((f'"{line}" stands at the end of {path} now.', f'I have added "{line}" to {path}.'))


def _tick_off(world: World, now: Scene) -> Script:
    paths = [path for path in sorted(world.checklists) if world.checklists[path][0]]
    if not paths:
        return None
    path = now.one(paths)
    item = now.one(world.checklists[path][0])
    said, lookup = named(world, now, path)
    yield now.one(
        (
            f"mark {item!r} as done in {said}",
            f"tick off {item} in {said}",
            f"I did this: {item}. Note it in {said}",
        )
    ).replace("'", '"')
    yield from lookup
    if now.chance(0.6):
        yield call("read_text_file", path=path)
    yield call("edit_file", path=path, old_text=f"- [ ] {item}", new_text=f"- [x] {item}")
    world.files[path] = world.files[path].replace(f"- [ ] {item}", f"- [x] {item}")
    world.checklists[path][0].remove(item)
    world.checklists[path][1].append(item)
    return now.one((f'"{item}" is marked as done in {path}.', f'Done: "{item}" is ticked off.'))


def _change_value(world: World, now: Scene) -> Script:
    """Changes a value of a settings file."""
    facts = [f for f in world.facts if f.path.endswith((".ini", ".cfg", ".env"))]
    if not facts:
        return None
    fact = now.one(facts)
    key = fact.topic.removeprefix("the ")
    old = f"{key} = {fact.value}"
    new_value = str(now.random.randrange(1, 9000))
    said, lookup = named(world, now, fact.path)
    if world.files[fact.path].count(old + "\n") != 1:
        return None
    if knows := now.chance(0.4):
        yield now.one(
            (
                f"change {key} from {fact.value} to {new_value} in {said}",
                f"in {said}, {key} is {fact.value}. Make it {new_value}",
            )
        )
    else:
        yield now.one((f"set {key} to {new_value} in {said}", f"change the {key} in {said} to {new_value}"))
    yield from lookup
    if not knows:
        yield call("read_text_file", path=fact.path)
    yield call("edit_file", path=fact.path, old_text=old, new_text=f"{key} = {new_value}")
    world.files[fact.path] = world.files[fact.path].replace(old + "\n", f"{key} = {new_value}\n")
    world.facts.remove(fact)
    return now.one((f"{key} is {new_value} in {fact.path} now.", f"I have set {key} to {new_value}."))


def _delete(world: World, now: Scene) -> Script:
    path = now.one(sorted(world.files))
    said, lookup = named(world, now, path)
    yield now.one((f"delete {said}", f"remove the file {said}", f"I don't need {said} any more, throw it away"))
    yield from lookup
    yield call("delete", path=path)
    del world.files[path]
    world.forget(path)
    return now.one((f"I have deleted {path}.", f"{path} is in the trash now."))


def _copy_to(world: World, now: Scene) -> Script:
    """Reads a fact and writes it to a new file."""
    fact = now.one(world.facts)
    path = world.new_path(now, ".txt")
    said, lookup = named(world, now, fact.path)
    yield now.one(
        (
            f"look up {fact.topic} in {said} and write it to {path}",
            f"save {fact.topic} from {said} in a new file {path}",
        )
    )
    yield from lookup
    yield call("read_text_file", path=fact.path)
    (found,) = yield call("write_file", path=path, text=f"{fact.value}\n")
    if found.startswith("created"):
        world.files[path] = f"{fact.value}\n"
    return f"{sentence(fact.topic)} is {fact.value}; it is saved in {path}."


def _count_to(world: World, now: Scene) -> Script:
    source = now.one(sorted(world.files))
    path = world.new_path(now, ".txt")
    n = len(world.lines(source))
    said, lookup = named(world, now, source)
    yield now.one(
        (
            f"count the lines of {said} and put the number into {path}",
            f"write how many lines {said} has to a new file {path}",
        )
    )
    yield from lookup
    yield call("file_info", path=source)
    (found,) = yield call("write_file", path=path, text=f"{n}\n")
    if found.startswith("created"):
        world.files[path] = f"{n}\n"
    return f"{source} has {n} {several(n, 'line')}, and {path} holds that number now."


CHANGING: Sequence[Maker] = (
    _make_folder,
    _make_folder,
    _write,
    _write,
    _write,
    _append,
    _append_line,
    _append_line,
    _append,
    _tick_off,
    _change_value,
    *file_moving.MOVING,
    _delete,
    _copy_to,
    _copy_to,
    _count_to,
    _count_to,
)
