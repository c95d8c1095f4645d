"""Scripts that read files and folders, for the tools of `mcp_servers.filesystem`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from agentkit.specialise.demonstrations import close_reading
from agentkit.specialise.demonstrations.close_reading import ask_notes
from agentkit.specialise.demonstrations.domains import FACTS, FILE_NAMES
from agentkit.specialise.demonstrations.naming import named
from agentkit.specialise.demonstrations.script import (
    Maker,
    Script,
    call,
    calls,
    count,
    mistake,
    search,
    sentence,
    several,
    trial,
)
from agentkit.specialise.demonstrations.world import World
from modelstack.data.tools.spoken import Scene, listed

_NO_MATCH = "no match"


def _count_lines(world: World, now: Scene) -> Script:
    path = now.one(sorted(world.files))
    said, lookup = named(world, now, path)
    yield now.one(
        (
            f"how many lines are in {said}?",
            f"How many lines has {said}?",
            f"count the lines of {said}",
            f"number of lines in {said}?",
            f"{said}: how many lines?",
        )
    )
    yield from lookup
    yield call("file_info", path=path)
    n = len(world.lines(path))
    return now.one((f"{path} has {n} {several(n, 'line')}.", f"There are {n} {several(n, 'line')} in {path}."))


def _size(world: World, now: Scene) -> Script:
    path = now.one(sorted(world.files))
    said, lookup = named(world, now, path)
    yield now.one((f"how big is {said}?", f"What is the size of {said}?", f"how many bytes does {said} take up?"))
    yield from lookup
    yield call("file_info", path=path)
    n = len(world.files[path].encode())
    return now.one((f"{path} is {n} bytes large.", f"The size of {path} is {n} bytes."))


def _folder(world: World, now: Scene) -> Script:
    folder = now.one(("", *sorted(world.folders)))
    where = f"the folder {folder}" if folder else now.one(("this folder", "the main folder", "the root folder"))
    files = [PurePosixPath(path).name for path in world.names(folder)]
    inside = [] if folder else sorted(world.folders)
    kind = now.one(("count", "list", "list"))
    if kind == "count":
        yield now.one((f"how many files are in {where}?", f"count the files in {where}"))
    else:
        yield now.one(
            (
                f"what's in {where}?",
                f"show me what {where} holds",
                f"list {where}",
                f"which files are in {where}?",
                f"ls {folder or '.'}",
            )
        )
    yield call("list_directory", path=folder) if folder else call("list_directory")
    n = len(files)
    if kind == "count":
        names = f": {listed(files)}" if 0 < n <= 4 and now.chance(0.5) else ""
        verb = "is" if n == 1 else "are"
        return f"There {verb} {count(now, n)} {several(n, 'file')} in {where}{names}."
    if not files and not inside:
        return sentence(f"{where} is empty.")
    folders = f"{several(len(inside), 'the folder', 'the folders')} {listed(inside)}" if inside else ""
    held = listed([part for part in (folders, listed(files)) if part])
    return sentence(f"{where} holds {held}.")


def _read_fact(world: World, now: Scene) -> Script:
    fact = now.one(world.facts)
    said, lookup = named(world, now, fact.path)
    asked = now.one(
        (
            f"what is {fact.topic} in {said}?",
            f"look into {said} and tell me {fact.topic}",
            f"what does {said} say about {fact.topic}?",
            f"I need {fact.topic} from {said}",
            f"read {said}. What is {fact.topic}?",
        )
    )
    yield asked
    yield from lookup
    yield call("read_text_file", path=fact.path)
    world.show(fact.path)
    return now.one(
        (
            f"{sentence(fact.topic)} is {fact.value}.",
            f"According to {fact.path}, {fact.topic} is {fact.value}.",
            f"{fact.path} says that {fact.topic} is {fact.value}.",
        )
    )


def _find_fact(world: World, now: Scene) -> Script:
    """Asks for a fact without its file: search, then answer from the line."""
    fact = now.one([f for f in world.facts if f.topic.removeprefix("the ") in FACTS] or world.facts)
    topic = fact.topic.removeprefix("the ")
    paths = sorted({f.path for f in world.facts if f.topic == fact.topic})
    if len(paths) != 1 or topic not in world.files[fact.path]:
        return None
    yield now.one(
        (
            f"what is {fact.topic}?",
            f"can you find out {fact.topic}?",
            f"which file has {fact.topic}, and what is it?",
            f"look through my files: what's {fact.topic}?",
            f"I forgot {fact.topic}, it's in one of the files",
        )
    )
    yield from search(world, topic)
    return now.one(
        (
            f"{sentence(fact.topic)} is {fact.value}; it stands in {fact.path}.",
            f"{fact.path} says it: {fact.topic} is {fact.value}.",
        )
    )


def _search(world: World, now: Scene) -> Script:
    words = sorted({word for text in world.files.values() for word in re.findall(r"\b[A-Za-z]{5,}\b", text)})
    word = now.one(words) if now.chance(0.8) else now.one(("platypus", "Zanzibar", "invoice", "marmalade"))
    yield now.one(
        (
            f"which files mention {word}?",
            f"where do I write about {word}?",
            f"find {word} in the files",
            f"is there anything about {word} in my notes?",
            f'search for "{word}"',
        )
    )
    (found,) = yield call("search_text", text=word)
    paths = list(dict.fromkeys(re.findall(r"^(.+?):\d+: ", found, re.MULTILINE)))
    if found.startswith(_NO_MATCH) or not paths:
        return now.one((f"No file mentions {word}.", f"I found nothing about {word}."))
    if len(paths) == 1:
        line = re.search(r":(\d+): (.*)", found)
        assert line is not None
        return f'{paths[0]} mentions {word} in line {line[1]}: "{line[2].strip()}"'
    return sentence(f"{count(now, len(paths))} files mention {word}: {listed(paths)}.")


def _find_file(world: World, now: Scene) -> Script:
    suffix = now.one((".md", ".txt", ".csv", ".log", ".ini", ".pdf"))
    said = {".csv": "CSV", ".log": "log", ".md": "Markdown", ".txt": "text", ".ini": "ini", ".pdf": "PDF"}[suffix]
    yield now.one(
        (
            f"which {said} files are there?",
            f"find all {suffix} files",
            f"how many {said} files do I have?",
            f"list the {suffix} files",
        )
    )
    yield call("search_files", pattern=f"*{suffix}")
    paths = world.with_suffix(suffix)
    n = len(paths)
    if not paths:
        return f"There are no {suffix} files."
    return f"There {'is' if n == 1 else 'are'} {count(now, n)} {suffix} {several(n, 'file')}: {listed(paths)}."


def _find_then_read(world: World, now: Scene) -> Script:
    """Names a file by its name or topic, without its folder: find it, then read it."""
    facts = [fact for fact in world.facts if "/" in fact.path]
    if not facts:
        return None
    fact = now.one(facts)
    name = PurePosixPath(fact.path).name
    stem = PurePosixPath(fact.path).stem
    if sum(PurePosixPath(path).stem == stem for path in world.files) > 1:
        return None
    loosely = now.chance(0.5)
    thing = f"the {stem.replace('-', ' ').replace('_', ' ')} file" if loosely else name
    yield now.one(
        (
            f"what is {fact.topic} in {thing}?",
            f"open {thing} and tell me {fact.topic}",
            f"there's {thing} somewhere. What is {fact.topic}?",
        )
    )
    if not loosely and now.chance(0.5):
        yield mistake("read_text_file", path=name)
    yield call("search_files", pattern=f"*{stem}*" if loosely else name)
    yield call("read_text_file", path=fact.path)
    return f"{sentence(fact.topic)} is {fact.value}, as {fact.path} says."


def _missing_file(world: World, now: Scene) -> Script:
    name = f"{now.one(FILE_NAMES)}-{now.one(('old', '1999', 'final'))}.txt"
    if name in world.files:
        return None
    yield now.one((f"what does {name} say?", f"show me {name}", f"read {name}", f"how many lines has {name}?"))
    yield trial("read_text_file", path=name)
    return now.one(
        (f"There is no file {name}.", f"I could not find {name}: it does not exist.", f"{name} does not exist.")
    )


def _show(world: World, now: Scene) -> Script:
    paths = [path for path in sorted(world.files) if len(world.lines(path)) <= 7]
    if not paths:
        return None
    path = now.one(paths)
    said, lookup = named(world, now, path)
    yield now.one((f"show me {said}", f"what's in {said}?", f"read {said} to me", f"cat {said}"))
    yield from lookup
    yield call("read_text_file", path=path)
    world.show(path)
    return f"{path} says:\n{world.files[path].rstrip()}"


def _edge_line(world: World, now: Scene) -> Script:
    path = now.one(sorted(world.files))
    lines = world.lines(path)
    if now.chance(0.6):
        yield now.one(
            (f"what's the last line of {path}?", f"show the last line in {path}", f"how does {path} end?")
        )
        yield call("read_text_file", path=path, tail=1)
        return f'The last line of {path} is "{lines[-1]}".'
    yield now.one((f"what's the first line of {path}?", f"how does {path} begin?"))
    yield call("read_text_file", path=path, limit=1)
    return f'The first line of {path} is "{lines[0]}".'


def _checklist(world: World, now: Scene) -> Script:
    if not world.checklists:
        return None
    path = now.one(sorted(world.checklists))
    still_open, done = world.checklists[path]
    stem = PurePosixPath(path).stem.replace("-", " ").replace("_", " ")
    kind = now.one(("n_open", "open", "n_done", "done"))
    items = still_open if kind.endswith("open") else done
    state = "open" if kind.endswith("open") else "done"
    said, lookup = named(world, now, path)
    if kind.startswith("n_"):
        yield now.one(
            (
                f"how many things are {state} in {said}?",
                f"how many items of {said} are {state}?",
                f"count what is {state} on the list {said}",
            )
        )
    else:
        yield now.one(
            (
                f"what is {state} in {said}?",
                f"which items of {said} are {state}?",
                f"what's still to do for {stem}? It's in {said}"
                if state == "open"
                else f"what is finished in {said}?",
            )
        )
    yield from lookup
    yield call("read_text_file", path=path)
    n = len(items)
    if not items:
        return f"Nothing is {state} in {path}."
    if kind.startswith("n_"):
        return sentence(f"{count(now, n)} {several(n, 'item')} {'is' if n == 1 else 'are'} {state} in {path}.")
    return now.one(
        (
            f"{state.capitalize()} in {path}: {listed(items)}.",
            f"{n} {several(n, 'item')} {'is' if n == 1 else 'are'} {state}: {listed(items)}.",
        )
    )


def _csv_question(world: World, now: Scene) -> Script:
    tables = [
        path
        for path in world.with_suffix(".csv")
        if world.files[path].startswith("name,") and path not in world.questions
    ]
    if not tables:
        return None
    path = now.one(tables)
    head, *rows = [line.split(",") for line in world.lines(path)]
    at = now.one((1, 2))
    row = now.one(rows)
    highest = max(rows, key=lambda each: int(each[at]))
    is_clear = sum(each[at] == highest[at] for each in rows) == 1
    kinds = ["cell", "rows", "columns"] + ["highest"] * is_clear
    kind = now.one(kinds)
    said, lookup = named(world, now, path)
    if kind == "cell":
        yield now.one((f"what is the {head[at]} of {row[0]} in {said}?", f"{row[0]}'s {head[at]} in {said}?"))
        answer = f"The {head[at]} of {row[0]} is {row[at]}."
    elif kind == "rows":
        yield now.one((f"how many people are in {said}?", f"how many rows of data does {said} have?"))
        answer = f"{said} has {len(rows)} {several(len(rows), 'row')} of data."
    elif kind == "columns":
        yield now.one((f"which columns does {said} have?", f"what are the column names in {said}?"))
        answer = f"The columns of {said} are {listed(head)}."
    else:
        yield now.one((f"who has the highest {head[at]} in {said}?", f"highest {head[at]} in {said}?"))
        answer = f"{highest[0]} has the highest {head[at]}, {highest[at]}."
    yield from lookup
    yield call("read_text_file", path=path)
    return answer


def _log_question(world: World, now: Scene) -> Script:
    logs = world.with_suffix(".log")
    if not logs:
        return None
    path = now.one(logs)
    level = now.one(("ERROR", "WARNING"))
    hits = [(n, line) for n, line in enumerate(world.lines(path), 1) if f" {level} " in line.upper()]
    kind = now.one(("count", "last"))
    said, lookup = named(world, now, path)
    if kind == "count":
        yield now.one((f"how many {level.lower()}s are in {said}?", f"count the {level} lines of {said}"))
    else:
        yield now.one((f"what was the last {level.lower()} in {said}?", f"latest {level} in {said}?"))
    yield from lookup
    written = hits[0][1].split(" ")[2] if hits else level
    yield call("search_text", text=now.one((written, level)), path=path)
    if not hits:
        return f"{path} has no {level.lower()}s."
    if kind == "count":
        n = len(hits)
        what = several(n, level.lower())
        if n <= 4 and now.chance(0.5):
            days = [" ".join(line.split(" ")[:2]) for _, line in hits]
            return f"There {'is' if n == 1 else 'are'} {n} {what} in {path}: {listed(days)}."
        return f"There {'is' if n == 1 else 'are'} {count(now, n)} {what} in {path}."
    day, clock, _, event = hits[-1][1].split(" ", 3)
    return f"The last {level.lower()} in {path} was {event!r} on {day} at {clock}.".replace("'", '"')


def _two_at_once(world: World, now: Scene) -> Script:
    first, second = now.some(sorted(world.files), 2)
    yield now.one(
        (
            f"how many lines do {first} and {second} have?",
            f"compare {first} and {second}: which has more lines?",
            f"which is longer, {first} or {second}?",
        )
    )
    yield calls(call("file_info", path=first), call("file_info", path=second))
    n, m = len(world.lines(first)), len(world.lines(second))
    told = f"{first} has {n} {several(n, 'line')} and {second} has {m}"
    return (
        f"{told}, so {first if n > m else second} is longer." if n != m else f"{told}, so they are equally long."
    )


def _largest(world: World, now: Scene) -> Script:
    folder = now.one(("", *sorted(world.folders)))
    paths = world.names(folder)
    sizes = {path: len(world.files[path].encode()) for path in paths}
    if len(paths) < 2 or len(set(sizes.values())) < len(sizes):
        return None
    word, pick = now.one((("largest", max), ("smallest", min)))
    best = pick(sizes, key=lambda path: sizes[path])
    where = f" in {folder}" if folder else ""
    yield now.one((f"which file{where} is the {word}?", f"what's the {word} file{where or ' here'}?"))
    yield call("list_directory", path=folder) if folder else call("list_directory")
    return f"The {word} file is {best} with {sizes[best]} bytes."


def _newest(world: World, now: Scene) -> Script:
    """Asks for the newest or oldest file of a folder: list it, then get each file's time."""
    folders = [folder for folder in ("", *sorted(world.folders)) if 2 <= len(world.names(folder)) <= 4]
    if not folders:
        return None
    folder = now.one(folders)
    paths = world.names(folder)
    where = f"in {folder}" if folder else now.one(("in the main folder", "here"))
    word, pick = now.one((("newest", max), ("newest", max), ("oldest", min)))
    yield now.one(
        (f"which file {where} is the {word}?", f"what is the {word} file {where}?", f"{word} file {where}?")
    )
    yield call("list_directory", path=folder) if folder else call("list_directory")
    found = yield calls(*(call("file_info", path=path) for path in paths))
    times = {path: _modified(text) for path, text in zip(paths, found, strict=True)}
    if len(set(times.values())) < len(times):
        return None
    best = pick(times, key=lambda path: times[path])
    return f"The {word} file is {best}, changed on {times[best][:10]}."


def _modified(info: str) -> str:
    """Return the modification time from the text of `file_info`."""
    found = re.search(r"modified: (\S+)", info)
    assert found is not None
    return found[1]


def _read_largest(world: World, now: Scene) -> Script:
    """Asks for the first or last line of the largest file of a folder."""
    folder = now.one(("", *sorted(world.folders)))
    sizes = {path: len(world.files[path].encode()) for path in world.names(folder)}
    if len(sizes) < 2 or len(set(sizes.values())) < len(sizes):
        return None
    word, pick = now.one((("largest", max), ("biggest", max), ("smallest", min)))
    best = pick(sizes, key=lambda path: sizes[path])
    where = f"in {folder}" if folder else "in the main folder"
    lines = world.lines(best)
    end, options, line = now.one((("first", {"limit": 1}, lines[0]), ("last", {"tail": 1}, lines[-1])))
    yield now.one(
        (
            f"what is the {end} line of the {word} file {where}?",
            f"show me the {end} line of the {word} file {where}",
        )
    )
    yield call("list_directory", path=folder) if folder else call("list_directory")
    yield call("read_text_file", path=best, **options)
    return f'The {end} line of {best}, the {word} file, is "{line}".'


READING: Sequence[Maker] = (
    _count_lines,
    _count_lines,
    _size,
    _folder,
    _folder,
    _folder,
    _read_fact,
    _read_fact,
    _read_fact,
    _find_fact,
    _find_fact,
    _search,
    _search,
    _find_file,
    _find_then_read,
    _find_then_read,
    _missing_file,
    _show,
    _edge_line,
    _checklist,
    _checklist,
    ask_notes,
    ask_notes,
    ask_notes,
    ask_notes,
    ask_notes,
    _csv_question,
    _csv_question,
    _log_question,
    _two_at_once,
    _largest,
    _newest,
    _read_largest,
    ask_notes,
    ask_notes,
    *close_reading.READING,
)
