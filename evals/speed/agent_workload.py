"""Eight conversations of an agent with tools, and eight requests for free text.

The conversations are scripted: a request's history has the calls and results of the script, not what a model
wrote before, so that every engine gets the same prompts. All share the instructions and the tools. Each
conversation asks for a call, then for an answer that shows the tool's result, twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modelstack.inference.server.turns import PastCall, ReplyRequest, Turn
from modelstack.toolcalls.convention import ToolSpec

Kind = Literal["calls", "results shown", "free text"]
MAX_CALL, MAX_ANSWER = 64, 128
"""Maximum number of tokens of a reply."""
SYSTEM = (
    "You are the assistant of a small trading company. Use the tools for everything that depends on files, tables "
    "or the clock. Answer with the values that a tool returned, unchanged, and do not invent any."
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a reply."""

    kind: Kind
    conversation: int
    request: ReplyRequest


def _tool(name: str, description: str, **properties: str) -> ToolSpec:
    fields = {key: {"type": "string", "description": text} for key, text in properties.items()}
    return ToolSpec(name, description, {"type": "object", "properties": fields, "required": list(fields)})


TOOLS = (
    _tool("list_directory", "List the files and folders in a folder.", path="Folder, relative to the root."),
    _tool("read_file", "Return the text of a file.", path="File, relative to the root."),
    _tool("search_files", "Find files whose name contains a text.", text="Part of the name."),
    _tool("move_file", "Move or rename a file.", source="File to move.", target="New path."),
    _tool("query", "Run a SELECT statement on the company's database.", sql="One statement of SQLite."),
    _tool("describe_table", "List the columns of a table.", table="Name of the table."),
    _tool("current_time", "Return the time now in a zone.", timezone="IANA name, such as Europe/Berlin."),
    _tool("convert_time", "Convert a time.", time="HH:MM.", source="IANA zone.", target="IANA zone."),
)
NAMES = (
    "Ada",
    "Boris",
    "Chen",
    "Dora",
    "Emil",
    "Farah",
    "Goran",
    "Hana",
    "Ivo",
    "Jana",
    "Karl",
    "Lena",
    "Marek",
    "Nora",
    "Otto",
    "Petra",
)
CITIES = (
    "London",
    "Paris",
    "Berlin",
    "Madrid",
    "Rome",
    "Oslo",
    "Vienna",
    "Prague",
    "Bern",
    "Riga",
    "Kyiv",
    "Lisbon",
)
GOODS = ("lamp", "chair", "desk", "shelf", "mirror", "carpet", "vase", "clock", "kettle", "basket")


def _rows(n: int, start: int, **columns: Sequence[Any]) -> str:
    rows = [{name: values[(start + i) % len(values)] for name, values in columns.items()} for i in range(n)]
    return json.dumps({"rows": rows, "n": n})


def _listing(*names: str) -> str:
    return "\n".join(f"[FILE] {name}" for name in names)


def _script(number: int) -> list[tuple[str, str, Mapping[str, str], str]]:
    """Return the exchanges of a conversation: request, name and arguments of the call, and its result."""
    year, city, good = 2019 + number, CITIES[number], GOODS[number]
    reports = [f"{year}-{month:02}-{good}-sales.csv" for month in range(1, 11)]
    customers = _rows(
        7,
        number,
        id=range(100 * number, 100 * number + 9),
        name=NAMES,
        email=[f"{name.lower()}@{city.lower()}.example" for name in NAMES],
        city=CITIES,
    )
    orders = _rows(
        6,
        number,
        order=range(7000 + number, 7050),
        customer=NAMES[3:],
        item=GOODS,
        price=[12.5 + 3.75 * i for i in range(11)],
    )
    csv = "\n".join(
        [
            "day,item,pieces,price",
            *(f"{year}-03-{d:02},{good},{d * number % 17 + 1},{9 + d}.50" for d in range(1, 11)),
        ]
    )
    sql = f"SELECT id, name, email, city FROM customers WHERE region = '{city}' ORDER BY id"
    files = (
        f"List the files in reports/{year}, and show me the whole list.",
        "list_directory",
        {"path": f"reports/{year}"},
        _listing(*reports),
    )
    file = (
        f"Now read reports/{year}/{reports[2]} and show me its text, line by line.",
        "read_file",
        {"path": f"reports/{year}/{reports[2]}"},
        csv,
    )
    people = (
        f"Who are the customers of the region {city}? Show all rows with their columns.",
        "query",
        {"sql": sql},
        customers,
    )
    sold = (
        f"And the orders of {good}s in {year}, with customer, item and price?",
        "query",
        {"sql": f"SELECT id, customer, item, price FROM orders WHERE item = '{good}' AND year = {year}"},
        orders,
    )
    return [[files, file], [people, sold], [file, people], [sold, files]][number % 4]


def agent_requests() -> list[Asked]:
    """Return the requests of all conversations, in the order in which an agent would send them, turn by turn."""
    by_turn: list[list[Asked]] = [[], [], [], []]
    for number in range(8):
        turns = [Turn("system", SYSTEM)]
        for exchange, (text, name, arguments, result) in enumerate(_script(number)):
            turns.append(Turn("user", text))
            calling = ReplyRequest(tuple(turns), TOOLS, must_call=True, parallel=False, max_tokens=MAX_CALL)
            by_turn[2 * exchange].append(Asked("calls", number, calling))
            turns.append(Turn("assistant", "", (PastCall(f"call {exchange}", name, arguments),)))
            turns.append(Turn("tool", result, tool_name=name))
            answering = ReplyRequest(tuple(turns), TOOLS, callable=frozenset(), max_tokens=MAX_ANSWER)
            by_turn[2 * exchange + 1].append(Asked("results shown", number, answering))
            turns.append(Turn("assistant", f"Here is the result:\n{result}"))
    return [asked for turn in by_turn for asked in turn]


TOPICS = (
    "a lighthouse keeper who finds a strange bottle",
    "how bread is baked in a village oven",
    "the first day of a young doctor in a small town",
    "why the sea is salty",
    "two brothers who build a boat",
    "what makes a good teacher",
    "a winter without snow",
    "an old clockmaker and his last clock",
)


def free_requests() -> list[Asked]:
    """Return requests for text that repeats nothing of its prompt."""
    return [
        Asked("free text", number, ReplyRequest((Turn("user", f"Write about {topic}."),), max_tokens=MAX_ANSWER))
        for number, topic in enumerate(TOPICS)
    ]
