"""Questions about a tool's result in realistic shapes: records, lists, tables, files, messages.

In the examples of hand-written tools, the answer is one fact of a JSON object in one of two sentences. A model
trained on these alone answers "It is done." and picks the wrong line of a longer result. Here the result is longer
than the question, the question names one part of it, and the answer names the item and repeats its value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelstack.data.examples import Call, Message, Tool
from modelstack.data.tools.spoken import Scene, in_words, listed

Record = dict[str, Any]

_KINDS: Mapping[str, tuple[str, ...]] = {
    "sensor": ("room", "battery", "unit", "reading", "status"),
    "invoice": ("supplier", "total", "currency", "due", "status"),
    "parcel": ("carrier", "weight", "destination", "status"),
    "machine": ("maker", "hours", "hall", "status"),
    "course": ("teacher", "room", "seats", "level"),
    "vehicle": ("driver", "mileage", "fuel", "plate"),
    "contract": ("partner", "start", "months", "value"),
    "backup": ("host", "size", "day", "status"),
    "printer": ("floor", "pages", "toner", "status"),
    "plot": ("area", "crop", "soil", "owner"),
    "greenhouse": ("area", "plant", "temperature", "keeper"),
    "ticket": ("author", "priority", "age", "status"),
    "warehouse": ("city", "shelves", "manager", "temperature"),
    "telescope": ("diameter", "site", "year", "operator"),
    "bridge": ("river", "length", "year", "lanes"),
    "server": ("region", "memory", "load", "owner"),
    "painting": ("artist", "year", "room", "value"),
    "boat": ("captain", "berth", "length", "year"),
    "lesson": ("subject", "teacher", "minutes", "room"),
    "package": ("version", "license", "downloads", "author"),
}
_NAMES = (
    "Amber", "Birch", "Cobalt", "Delta", "Ember", "Falcon", "Garnet", "Harbor", "Indigo", "Juniper", "Kestrel",
    "Lagoon", "Maple", "Nimbus", "Onyx", "Pine", "Quartz", "Raven", "Sable", "Tundra", "Umber", "Violet", "Willow",
    "Zephyr",
)  # fmt: skip
_PEOPLE = ("Ada Novak", "Ben Ito", "Carla Rossi", "Dev Rao", "Elin Berg", "Femi Ade", "Greta Wolf", "Hugo Marin")
_PLACES = ("Lisbon", "Bergen", "Graz", "Leeds", "Turin", "Ghent", "Tampere", "Porto", "Split", "Cork")
_WORDS: Mapping[str, tuple[Any, ...]] = {
    "room": ("A1", "B12", "the cellar", "hall 3", "204"), "unit": ("C", "lux", "ppm", "bar"),
    "status": ("open", "closed", "waiting", "running", "failed", "ready", "paid", "offline"),
    "supplier": ("Northwind", "Baum & Co", "Steelworks", "Papeterie"), "currency": ("EUR", "CHF", "NOK", "USD"),
    "carrier": ("DHL", "Posten", "UPS", "GLS"), "maker": ("Bosch", "Krones", "Fanuc", "Trumpf"),
    "hall": ("north", "south", "hall 2"), "level": ("beginner", "advanced", "middle"),
    "fuel": ("diesel", "petrol", "electric"), "plate": ("KX 204", "BN 71", "TR 9912"),
    "partner": ("Lumen", "Oakfield", "Vertex", "Solara"), "host": ("db1", "web3", "mail2", "files1"),
    "crop": ("barley", "rye", "flax", "lupins"), "soil": ("clay", "sand", "loam"),
    "plant": ("basil", "orchids", "peppers", "ferns"), "priority": ("low", "normal", "high", "urgent"),
    "river": ("Rhine", "Drava", "Ebro", "Tagus"), "site": ("La Palma", "Paranal", "Calar Alto"),
    "region": ("eu-north", "us-east", "asia-south"), "artist": ("Vermeer", "Hilma af Klint", "Turner"),
    "berth": ("12", "7B", "31"), "subject": ("chemistry", "history", "music"),
    "version": ("1.4.2", "0.9.0", "3.1"), "license": ("MIT", "Apache-2.0", "GPL-3.0"),
    "destination": _PLACES, "city": _PLACES,
    "owner": _PEOPLE, "teacher": _PEOPLE, "driver": _PEOPLE, "author": _PEOPLE, "manager": _PEOPLE,
    "captain": _PEOPLE, "keeper": _PEOPLE, "operator": ("ESO", "IAC", "the university"),
}  # fmt: skip
_NUMBERS: Mapping[str, tuple[int, int]] = {
    "battery": (5, 100), "reading": (1, 900), "total": (20, 9000), "weight": (1, 80), "hours": (10, 20000),
    "seats": (6, 200), "mileage": (900, 240000), "months": (3, 60), "value": (500, 900000), "size": (1, 900),
    "floor": (0, 12), "pages": (10, 90000), "toner": (1, 100), "area": (12, 900), "temperature": (-5, 38),
    "age": (1, 90), "shelves": (4, 400), "diameter": (1, 40), "year": (1890, 2026), "length": (5, 2400),
    "lanes": (1, 8), "memory": (4, 512), "load": (1, 100), "minutes": (20, 120), "downloads": (40, 900000),
}  # fmt: skip
_DATED = ("due", "start", "day")
_UNREAD = ("created", "updated", "checksum", "flags")
"""Additional fields of a record that no question asks for."""


@dataclass(frozen=True, slots=True)
class _Read:
    """An exchange up to its answer."""

    tool: Tool
    arguments: Record
    asked: str
    result: str
    answer: str


def read_result(now: Scene) -> tuple[Tool, list[Message], str]:
    """Return a tool, the exchange up to its result, and the answer; the call is a target too."""
    read = now.one(_SHAPES)(now)
    messages = [
        Message(role="user", content=read.asked),
        Message(role="assistant", calls=(Call(name=read.tool.name, arguments=read.arguments),), train=True),
        Message(role="tool", content=read.result),
    ]
    return read.tool, messages, read.answer


def _record_in_full(now: Scene) -> _Read:
    kind, record = _record(now)
    title = record["name"]
    fields = now.some(_KINDS[kind], now.one((1, 1, 1, 2)))
    tool = _tool(now, ("get", "read", "show", "fetch"), kind, f"Get a {kind} by its name.", {"name": "Its name."})
    if len(fields) == 1:
        asked = now.one(
            ("What is the {f} of {t}?", "Which {f} does {k} {t} have?", "Tell me the {f} of the {k} {t}.",
             "{t}: what is its {f}?", "I need the {f} of {k} {t}.")
        )  # fmt: skip
        answer = now.one(
            ("The {f} of {t} is {v}.", "{t} has the {f} {v}.", "The {k} {t} has {f} {v}.", "{f} of {t}: {v}.")
        )
        words = {"f": fields[0], "t": title, "k": kind, "v": record[fields[0]]}
        return _Read(
            tool, {"name": title}, asked.format_map(words), _shaped(now, record), _upper(answer.format_map(words))
        )
    asked = f"What are the {fields[0]} and the {fields[1]} of {title}?"
    pairs = " and ".join(f"the {field} is {record[field]}" for field in fields)
    return _Read(tool, {"name": title}, asked, _shaped(now, record), f"Of {title}, {pairs}.")


def _records(now: Scene) -> _Read:
    kind = now.one(tuple(_KINDS))
    records = [_record(now, kind, title)[1] for title in now.some(_NAMES, now.one((2, 3, 3, 4, 5, 6)))]
    plural = _plural(kind)
    tool = _tool(now, ("list", "all", "find"), plural, f"List the {plural}.", {})
    result = _table(now, records)
    names = [record["name"] for record in records]
    field = now.one(_KINDS[kind])
    chosen = now.one(records)
    statement = f"The {field} of {chosen['name']} is {chosen[field]}."
    questions: list[tuple[str, str]] = [
        (f"How many {plural} are there?", f"There are {_count(now, len(records))} {plural}."),
        (f"How many {plural} do we have?", f"You have {_count(now, len(records))} {plural}: {listed(names)}."),
        (f"Which {plural} are there?", f"The {plural} are {listed(names)}."),
        (f"List the {plural}.", f"There are {_count(now, len(records))}: {listed(names)}."),
        (f"What is the {field} of {chosen['name']}?", statement),
        (f"{chosen['name']}'s {field}, please.", statement),
    ]
    if field in _NUMBERS and len({record[field] for record in records}) == len(records):
        most = max(records, key=lambda record: record[field])
        asked = f"Which {kind} has the highest {field}?"
        questions.append((asked, f"{most['name']} has the highest {field}, {most[field]}."))
    asked, answer = now.one(questions)
    return _Read(tool, {}, asked, result, answer)


def _columns(now: Scene) -> _Read:
    """Return a question about a schema: tables or forms with their fields."""
    kinds = now.some(tuple(_KINDS), now.one((2, 3, 3, 4, 5)))
    tables: dict[str, list[str]] = {}
    for kind in kinds:
        fields = now.some(("name", *_KINDS[kind]), 1 + len(_KINDS[kind]))
        tables[_plural(kind)] = ["id", *fields[: now.one((1, 2, 3, 4))]]
    what, whats = now.one((("column", "columns"), ("field", "fields"), ("column", "columns")))
    wanted = now.one(tuple(tables))
    tool = now.one(
        (
            Tool(name="show_schema", description="Show the tables and their columns."),
            Tool(name="schema", description="The structure of the database."),
            Tool(name="list_forms", description="List the forms and their fields."),
            Tool(name="database_structure", description="All tables with their columns."),
        )
    )
    result = now.one(
        (
            "\n".join(f"{table}({', '.join(fields)})" for table, fields in tables.items()),
            "\n".join(f"{table}: {', '.join(fields)}" for table, fields in tables.items()),
            json.dumps(tables),
            json.dumps([{"table": table, "columns": fields} for table, fields in tables.items()]),
        )
    )
    fields = tables[wanted]
    number = _count(now, len(fields))
    questions = [
        (f"What {whats} does {wanted} have?", f"{wanted} has the {whats} {listed(fields)}."),
        (f"Which {whats} are in {wanted}?", f"The {whats} of {wanted} are {listed(fields)}."),
        (
            f"What {whats} does the table {wanted} have?",
            f"The table {wanted} has {number} {whats}: {listed(fields)}.",
        ),
        (f"How many {whats} does {wanted} have?", f"{wanted} has {number} {whats}."),
        (f"Show me the {what} names of {wanted}.", f"They are {listed(fields)}."),
        ("Which tables are there?", f"There are {_count(now, len(tables))} tables: {listed(list(tables))}."),
    ]
    asked, answer = now.one(questions)
    return _Read(tool, {}, asked, result, answer)


def _listing(now: Scene) -> _Read:
    """Return a question about the entries of a folder."""
    folder = now.one(("photos", "reports", "src", "music", "letters", "scans", "exports", "drafts"))
    folders = now.some(("old", "2024", "images", "templates", "raw", "tests"), now.one((0, 1, 2)))
    suffix = now.one((".pdf", ".txt", ".csv", ".jpg", ".md"))
    files = [f"{word}{suffix}" for word in now.some(_FILE_WORDS, now.one((1, 2, 3, 4, 5)))]
    sizes = {file: f"{now.random.randrange(1, 900)} kB" for file in files}
    tool = _tool(
        now, ("list", "show"), now.one(("folder", "directory", "files")), "List a folder.", {"path": "Folder."}
    )
    lines = [*(f"{each}/" for each in folders), *(f"{file}  {size}" for file, size in sizes.items())]
    result = now.one(("\n".join(lines), f"{folder}: {len(lines)} entries\n" + "\n".join(lines)))
    one = now.one(files)
    number = _count(now, len(files))
    statement = (
        f"There is {number} file in {folder}." if len(files) == 1 else f"There are {number} files in {folder}."
    )
    questions = [
        (f"How many files are in {folder}?", statement),
        (f"What is in the folder {folder}?", f"{_upper(folder)} holds {listed([*folders, *files])}."),
        (f"Which files are in {folder}?", f"The files in {folder} are {listed(files)}." if len(files) > 1
         else f"The only file in {folder} is {files[0]}."),
        (f"How large is {folder}/{one}?", f"{one} has {sizes[one]}."),
        (f"Is there a file {one} in {folder}?", f"Yes, {folder} has a file {one}."),
    ]  # fmt: skip
    asked, answer = now.one(questions)
    return _Read(tool, {"path": folder}, asked, result, answer)


def _file(now: Scene) -> _Read:
    """Return a question about the lines of a text file."""
    file = f"{now.one(_FILE_WORDS)}{now.one(('.txt', '.md', '.log', '.csv', '.ini'))}"
    lines = now.some(_LINES, now.random.randrange(2, 9))
    tool = _tool(now, ("read", "open", "cat", "show"), now.one(("file", "text", "document")), "Read a text file.",
                 {"path": "Path of the file."})  # fmt: skip
    text = "\n".join(lines)
    result = now.one((text, f"{file}: {len(lines)} lines\n{text}", f"[{len(lines)} lines]\n{text}"))
    number = _count(now, len(lines))
    index = now.random.randrange(len(lines))
    questions = [
        (f"How many lines does {file} have?", f"{file} has {number} lines."),
        (f"How many lines are in {file}?", f"There are {number} lines in {file}."),
        (f"What is the first line of {file}?", f'The first line of {file} is "{lines[0]}".'),
        (f"What does the last line of {file} say?", f'The last line of {file} says "{lines[-1]}".'),
        (f"What stands in line {index + 1} of {file}?", f'Line {index + 1} of {file} is "{lines[index]}".'),
        (f'Does {file} mention "{lines[index]}"?', f'Yes, {file} has the line "{lines[index]}".'),
    ]
    asked, answer = now.one(questions)
    return _Read(tool, {"path": file}, asked, result, answer)


def _done(now: Scene) -> _Read:
    """Return a request for a change; the answer confirms it and names the changed item."""
    kind, title = now.one(tuple(_KINDS)), now.one(_NAMES)
    place, other = now.some(("drafts", "old", "photos", "letters", "backup", "inbox", "shared", "2025"), 2)
    file = f"{now.one(_FILE_WORDS)}.txt"
    name_only = {"name": "Its name."}
    changes: list[tuple[Tool, Record, str, str, str]] = [
        (_tool(now, ("make", "create", "new"), "folder", "Make a folder.", {"path": "Its path."}), {"path": place},
         now.one((f"Make a folder {place}.", f"Create a folder named {place}.", f"I need a new folder {place}.")),
         now.one((f"created: {place}", f"created {place}", json.dumps({"created": place}), "ok")),
         now.one((f"The folder {place} has been created.", f"I have created the folder {place}.",
                  f"The folder {place} is there now."))),
        (_tool(now, ("delete", "remove"), "file", "Delete a file.", {"path": "Its path."}), {"path": file},
         now.one((f"Delete {file}.", f"Please remove {file}.")),
         now.one((f"deleted: {file}", json.dumps({"deleted": file}), "done")),
         now.one((f"{file} has been deleted.", f"I have deleted {file}."))),
        (_tool(now, ("move", "relocate"), "file", "Move a file.", {"source": "From.", "target": "To."}),
         {"source": file, "target": f"{other}/{file}"},
         f"Move {file} to {other}.", now.one((f"moved: {file} -> {other}/{file}", '{"ok": true}')),
         now.one((f"{file} is in {other} now.", f"I have moved {file} to {other}."))),
        (_tool(now, ("start", "restart", "stop"), kind, f"Change whether a {kind} runs.", name_only),
         {"name": title},
         f"Please see to it that {kind} {title} is restarted.",
         now.one(('{"status": "ok"}', f"{title}: running", "accepted")),
         now.one((f"{title} has been restarted.", f"The {kind} {title} is running again."))),
        (_tool(now, ("add", "register", "insert"), kind, f"Add a {kind}.", name_only), {"name": title},
         f"Add a {kind} called {title}.",
         now.one((json.dumps({"id": now.random.randrange(10, 999), "name": title}), f"added {title}", "1 row")),
         now.one((f"The {kind} {title} has been added.", f"I have added the {kind} {title}."))),
    ]  # fmt: skip
    return _Read(*(now.one(changes)))


def _nothing(now: Scene) -> _Read:
    """Return a question with an empty result or an error, which the answer reports."""
    kind, title = now.one(tuple(_KINDS)), now.one(_NAMES)
    plural = _plural(kind)
    if now.chance(0.5):
        tool = _tool(now, ("find", "search"), plural, f"Search the {plural}.", {"query": "What to look for."})
        result = now.one(("[]", "no matches", '{"results": []}', "0 results"))
        asked = now.one((f"Find {plural} named {title}.", f"Is there a {kind} called {title}?"))
        answer = now.one((f"There is no {kind} called {title}.", f"I found no {kind} with the name {title}."))
        return _Read(tool, {"query": title}, asked, result, answer)
    tool = _tool(now, ("get", "read", "show"), kind, f"Get a {kind} by its name.", {"name": "Its name."})
    error, statement = now.one(
        (
            (f"{title}: not found", f"there is no {kind} of that name"),
            ("permission denied", "I have no permission to read it"),
            ("timed out after 30 s", "the answer took too long"),
        )
    )
    result = now.one((error, json.dumps({"error": error}), f"error: {error}"))
    field = now.one(_KINDS[kind])
    answer = f"I could not get the {field} of {title}: {statement}."
    return _Read(tool, {"name": title}, f"What is the {field} of {title}?", result, answer)


_SHAPES: tuple[Callable[[Scene], _Read], ...] = (
    _record_in_full, _record_in_full, _records, _records, _columns, _listing, _file, _file, _done, _done, _nothing,
)  # fmt: skip
_FILE_WORDS = (
    "agenda", "budget", "inventory", "minutes", "packing", "summary", "readings", "roster", "changes", "contacts",
    "ideas", "plan", "journal", "glossary", "menu",
)  # fmt: skip
_LINES = (
    "Call the plumber", "# Packing list", "- water the ferns", "status: draft", "Buy two bags of cement",
    "timeout = 30", "Meeting moved to Thursday", "- [ ] renew the passport", "- [x] return the books",
    "ERROR disk almost full", "Total: 412", "See also: harbour rules", "name,weight,colour", "All lamps replaced",
    "Next inspection in May", "Do not park here", "version: 7", "The key is with Elin", "Thanks to everybody",
)  # fmt: skip


def _record(now: Scene, kind: str | None = None, title: str | None = None) -> tuple[str, Record]:
    kind = kind or now.one(tuple(_KINDS))
    record: Record = {"id": now.random.randrange(1, 999), "name": title or now.one(_NAMES)}
    record |= {field: _value(now, field) for field in _KINDS[kind]}
    if now.chance(0.4):
        record[now.one(_UNREAD)] = f"{now.random.randrange(16**6):06x}"
    return kind, record


def _value(now: Scene, field: str) -> Any:
    if field in _NUMBERS:
        low, high = _NUMBERS[field]
        return now.random.randrange(low, high + 1)
    if field in _DATED:
        return (
            f"{now.random.randrange(2023, 2028)}-{now.random.randrange(1, 13):02}-{now.random.randrange(1, 29):02}"
        )
    return now.one(_WORDS[field])


def _shaped(now: Scene, record: Record) -> str:
    """Return one record in a typical output format."""
    lines = "\n".join(f"{key}: {value}" for key, value in record.items())
    return now.one((json.dumps(record), json.dumps({"data": record}), lines, json.dumps(record, indent=2)))


def _table(now: Scene, records: Sequence[Record]) -> str:
    """Return several records in a typical output format."""
    keys = list(dict.fromkeys(key for record in records for key in record))
    rows = [[str(record.get(key, "")) for key in keys] for record in records]
    piped = "\n".join(" | ".join(row) for row in [keys, *rows])
    lines = "\n".join(", ".join(f"{key}={value}" for key, value in record.items()) for record in records)
    return now.one((json.dumps(records), piped, lines, json.dumps({"items": records, "total": len(records)})))


def _tool(now: Scene, verbs: Sequence[str], thing: str, description: str, parameters: Mapping[str, str]) -> Tool:
    name = f"{now.one(verbs)}_{thing}".replace(" ", "_")
    return Tool(
        name=name,
        description=description,
        parameters={
            "type": "object",
            "properties": {key: {"type": "string", "description": text} for key, text in parameters.items()},
            "required": list(parameters),
        },
    )


def _count(now: Scene, n: int) -> str:
    return str(n) if n > 12 or now.chance(0.6) else in_words(n)


def _plural(noun: str) -> str:
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
