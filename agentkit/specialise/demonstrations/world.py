"""Worlds to act on: a folder with files and a database, generated from stocks of things, places and people.

A world's contents are known, so questions are drawn from them. Files have lines with facts to ask for; tables have
rows of plausible kinds and at most one key to another table.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path, PurePosixPath
from typing import TypeVar
from zlib import crc32

from agentkit.specialise.demonstrations.domains import (
    DOMAINS,
    FACTS,
    FILE_NAMES,
    FOLDERS,
    ITEMS,
    PEOPLE,
    Domain,
    Table,
)
from agentkit.specialise.demonstrations.file_questions import Question
from agentkit.specialise.demonstrations.notes import make_notes
from agentkit.specialise.demonstrations.widening import further_tables, widened
from modelstack.data.tools.spoken import Scene

T = TypeVar("T")

_LEVELS = ("INFO", "INFO", "INFO", "WARNING", "ERROR")
_EVENTS = (
    "pump started", "valve closed", "backup finished", "sensor offline", "door opened", "battery low",
    "connection lost", "connection restored", "job queued", "job finished", "disk almost full", "user logged in",
)  # fmt: skip
_P_MENTIONS = 0.6
"""Probability that a world has a file that mentions the topics of other files."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact stated in a file."""

    path: str
    topic: str
    """Noun phrase of the question, such as "the gate code"."""
    value: str


@dataclass(slots=True)
class World:
    """A folder and a database. Scripts that change it on the servers change it here as well."""

    files: dict[str, str] = field(default_factory=dict[str, str])
    """Text of each file, by path."""
    folders: set[str] = field(default_factory=set[str])
    facts: list[Fact] = field(default_factory=list[Fact])
    checklists: dict[str, tuple[list[str], list[str]]] = field(
        default_factory=dict[str, tuple[list[str], list[str]]]
    )
    """Open and finished items, by path."""
    questions: dict[str, tuple[Question, ...]] = field(default_factory=dict[str, tuple[Question, ...]])
    """Questions about files of notes, by path."""
    kinds: set[str] = field(default_factory=set[str])
    """Makers of the files of notes: one file of each, so that a question has one answer."""
    domain: Domain = DOMAINS[0]
    further_tables: tuple[Table, ...] = ()
    """Tables that questions about rows do not use."""
    rows: dict[str, list[tuple[object, ...]]] = field(default_factory=dict[str, list[tuple[object, ...]]])
    """Rows by table."""
    known_tables: bool = False
    """True once the conversation has shown the tables."""
    servers: tuple[str, ...] = ()
    """Names of the conversation's servers."""
    known_files: bool = False
    """True once the conversation has shown a tree of the folder."""
    shown: dict[str, str] = field(default_factory=dict[str, str])
    """Text of each file shown completely, at the time of showing."""

    def names(self, folder: str) -> list[str]:
        """Return the files directly inside a folder; "" is the root."""
        return sorted(path for path in self.files if _parent(path) == folder)

    def lines(self, path: str) -> list[str]:
        """Return the lines of a file."""
        return self.files[path].splitlines()

    def with_suffix(self, *suffixes: str) -> list[str]:
        """Return the files with names that end in one of `suffixes`."""
        return [path for path in sorted(self.files) if path.endswith(suffixes)]

    def show(self, path: str) -> None:
        """Note that the conversation shows a file completely."""
        self.shown[path] = self.files[path]

    def forget(self, path: str) -> None:
        """Drop the facts and questions of a file that was removed or changed."""
        self.facts = [fact for fact in self.facts if fact.path != path]
        self.checklists.pop(path, None)
        self.questions.pop(path, None)

    def rename(self, path: str, target: str) -> None:
        """Change a file's path, together with its facts and questions."""
        self.files[target] = self.files.pop(path)
        self.facts = [replace(fact, path=target) if fact.path == path else fact for fact in self.facts]
        _rename(self.checklists, path, target)
        _rename(self.questions, path, target)
        _rename(self.shown, path, target)

    def questions_alone(self) -> list[tuple[str, Question]]:
        """Return the questions that can be asked without naming their file, with its path."""
        return [(path, each) for path, several in sorted(self.questions.items()) for each in several if each.alone]

    def new_path(self, now: Scene, suffix: str) -> str:
        """Return an unused path in an existing folder."""
        for _ in range(50):
            name = f"{now.one(FILE_NAMES)}{now.one(('', '', '-2', '_new', '-draft'))}{suffix}"
            folder = now.one(("", "", *sorted(self.folders)))
            path = f"{folder}/{name}" if folder else name
            if path not in self.files:
                return path
        raise ValueError("every name is taken")

    def table(self, now: Scene) -> Table:
        """Return one of the domain's tables."""
        return now.one(self.domain.tables)

    @property
    def tables(self) -> tuple[Table, ...]:
        """All tables of the database."""
        return (*self.domain.tables, *self.further_tables)


def _rename(known: dict[str, T], path: str, target: str) -> None:
    if path in known:
        known[target] = known.pop(path)


def make_world(now: Scene) -> World:
    """Return a world of a few files and one domain's tables."""
    domain = widened(now.one(DOMAINS), now)
    world = World(domain=domain, further_tables=further_tables(domain, now))
    world.folders = set(now.some(FOLDERS, now.one((1, 2, 2, 3))))
    names = now.some(FILE_NAMES, now.one((5, 6, 7, 8, 9)))
    makers = (_checklist, _facts, _notes, _csv, _notes, _log, _settings, _letter, _notes)
    for number, name in enumerate(names):
        maker = makers[number] if number < len(makers) else now.one(makers)
        folder = now.one(("", *sorted(world.folders), *sorted(world.folders)))
        maker(world, now, f"{folder}/{name}" if folder else name)
    if now.chance(_P_MENTIONS):
        _mentions(world, now)
    for table in world.tables:
        world.rows[table.name] = _rows(world, table, now)
    return world


def write_world(world: World, folder: Path, database: Path) -> None:
    """Write `world` to a folder and a database; servers may hold both open."""
    clear_world(folder, database)
    for name in sorted(world.folders):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for path, text in world.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
        changed = _changed_at(path, text)
        os.utime(folder / path, (changed, changed))
    with world_database(database) as connection:
        for table in world.tables:
            connection.execute(table.sql)
            marks = ", ".join("?" for _ in table.columns)
            connection.executemany(f"INSERT INTO {table.name} VALUES ({marks})", world.rows.get(table.name, ()))


def _changed_at(path: str, text: str) -> int:
    """Return a file's modification time: a second of 2025 derived from its path and text."""
    return 1735689600 + crc32(f"{path}\n{text}".encode()) % (365 * 86400)


@contextmanager
def world_database(path: Path) -> Generator[sqlite3.Connection]:
    """Open a world's database to write in one transaction; a world is temporary, so nothing waits for the disk."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        with connection:
            yield connection


def clear_world(folder: Path, database: Path) -> None:
    """Empty a folder and a database; servers may hold both open."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
    with world_database(database) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        for kind, name in connection.execute(
            "SELECT type, name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%'"
        ).fetchall():
            connection.execute(f'DROP {kind} "{name}"')


def _parent(path: str) -> str:
    parent = str(PurePosixPath(path).parent)
    return "" if parent == "." else parent


def _checklist(world: World, now: Scene, stem: str) -> None:
    path = f"{stem}{now.one(('.md', '.txt'))}"
    items = now.some(ITEMS, now.random.randrange(3, 9))
    n_done = now.random.randrange(0, len(items) - 1)
    done, still_open = items[:n_done], items[n_done:]
    lines = [*(f"- [x] {item}" for item in done), *(f"- [ ] {item}" for item in still_open)]
    now.random.shuffle(lines)
    still_open = [line[6:] for line in lines if line.startswith("- [ ]")]
    done = [line[6:] for line in lines if line.startswith("- [x]")]
    world.files[path] = "\n".join([f"# {_title(stem)}", "", *lines]) + "\n"
    world.checklists[path] = (still_open, done)


def _facts(world: World, now: Scene, stem: str) -> None:
    path = f"{stem}{now.one(('.md', '.txt', '.txt'))}"
    drawn = now.some(tuple(FACTS), now.random.randrange(2, 7))
    lines = [f"# {_title(stem)}", ""] if path.endswith(".md") else []
    for topic in drawn:
        value = now.one(FACTS[topic])
        lines.append(now.one((f"{topic}: {value}", f"- {topic}: {value}", f"The {topic} is {value}.")))
        world.facts.append(Fact(path, f"the {topic}", value))
    world.files[path] = "\n".join(lines) + "\n"


def _notes(world: World, now: Scene, stem: str) -> None:
    made = make_notes(_title(stem), now, world.kinds)
    suffix = now.one(made.suffixes)
    path = f"{stem}{suffix}"
    if made.stems:
        named = str(PurePosixPath(stem).with_name(f"{now.one(made.stems)}{suffix}"))
        path = path if named in world.files else named
    world.files[path], world.questions[path] = made.text, made.questions


def _mentions(world: World, now: Scene) -> None:
    """Create a file with lines that share words with questions but answer none of them."""
    keywords = sorted({each.keyword for several in world.questions.values() for each in several if each.alone})
    lines = [
        now.one(
            (
                f"ask {now.one(PEOPLE)} again: {keyword}",
                f"{keyword}: talk about it next week",
                f"- {keyword}, no news yet",
                f"{now.one(PEOPLE)} had a question ({keyword})",
            )
        )
        for keyword in now.some(keywords, now.random.randrange(3, 8))
    ]
    path = world.new_path(now, now.one((".txt", ".md")))
    world.files[path] = "\n".join(lines) + "\n"


def _csv(world: World, now: Scene, stem: str) -> None:
    heads = now.some(("weight", "height", "score", "price", "amount", "age", "points"), 2)
    lines = [",".join(["name", *heads])]
    for person in now.some(PEOPLE, now.random.randrange(3, 10)):
        values = [str(now.random.randrange(2, 400)) for _ in heads]
        lines.append(",".join([person, *values]))
    world.files[f"{stem}.csv"] = "\n".join(lines) + "\n"


def _log(world: World, now: Scene, stem: str) -> None:
    day = now.today
    lines: list[str] = []
    write = now.one((str.upper, str.lower, str.capitalize))
    for _ in range(now.random.randrange(4, 14)):
        day += timedelta(days=now.one((0, 0, 1)))
        clock = f"{now.random.randrange(24):02}:{now.random.randrange(60):02}"
        lines.append(f"{day} {clock} {write(now.one(_LEVELS))} {now.one(_EVENTS)}")
    world.files[f"{stem}.log"] = "\n".join(lines) + "\n"


def _settings(world: World, now: Scene, stem: str) -> None:
    path = f"{stem}{now.one(('.ini', '.cfg', '.env'))}"
    keys = now.some(("timeout", "retries", "port", "workers", "volume", "interval", "brightness", "limit"), 4)
    pairs = [(key, str(now.random.randrange(1, 9000))) for key in keys]
    world.files[path] = "[main]\n" + "".join(f"{key} = {value}\n" for key, value in pairs)
    world.facts += [Fact(path, f"the {key}", value) for key, value in pairs]


def _letter(world: World, now: Scene, stem: str) -> None:
    path = f"{stem}.txt"
    writer, reader = now.some(PEOPLE, 2)
    topic = now.one(tuple(FACTS))
    value = now.one(FACTS[topic])
    lines = [
        f"Dear {reader},",
        "",
        now.one(("thank you for your letter.", "I hope you are well.", "it was good to see you last week.")),
        f"The {topic} is {value} now, please tell the others.",
        now.one(("See you soon,", "Best regards,", "Yours,")),
        writer,
    ]
    world.files[path] = "\n".join(lines) + "\n"
    world.facts += [Fact(path, f"the {topic}", value), Fact(path, "the name of the person who wrote it", writer)]


def _title(stem: str) -> str:
    return PurePosixPath(stem).name.replace("-", " ").replace("_", " ").capitalize()


def _rows(world: World, table: Table, now: Scene) -> list[tuple[object, ...]]:
    n_rows = now.random.randrange(4, 10) if table.parent is None else now.random.randrange(8, 24)
    names = now.some(table.names, n_rows) if table.names else []
    rows: list[tuple[object, ...]] = []
    for number in range(1, (len(names) or n_rows) + 1):
        row: list[object] = [number]
        for column in table.columns[1:]:
            if column.kind == "name":
                row.append(names[number - 1])
            elif column.kind == "key":
                row.append(now.one(world.rows[table.parent or ""])[0])
            elif column.kind == "number":
                row.append(now.random.randrange(column.low, column.high))
            elif column.kind == "date":
                row.append(str(date(2025, 1, 1) + timedelta(days=now.random.randrange(600))))
            else:
                row.append(now.one(column.words))
        rows.append(tuple(row))
    return rows
