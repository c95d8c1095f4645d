"""Questions that do not mention where the answer is: search for it, read it, or report that it is missing.

A model with files and a database tends to use one of them for every question. Here the first look often fails or
leads to the wrong place; the next look is at another place, never the same call again.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from pathlib import PurePosixPath

from agentkit.specialise.demonstrations.domains import DOMAINS
from agentkit.specialise.demonstrations.file_questions import Question
from agentkit.specialise.demonstrations.script import (
    Maker,
    Script,
    Step,
    answer_to,
    call,
    detour,
    mistake,
    quoted,
    search,
)
from agentkit.specialise.demonstrations.world import World
from modelstack.data.tools.spoken import Scene

_NO_MATCH = "no match"
_ABSENT = (
    "accordion", "telescope stand", "wine cellar", "insurance number", "boiler code", "dentist", "piano tuner",
    "tax return", "spare key", "swimming course", "roof rack", "chess club", "library card", "ferry ticket",
    "godparents", "wedding", "allotment lease", "greenhouse permit", "violin teacher", "fire drill",
)  # fmt: skip


_P_ASTRAY = 0.35


def _steps_astray(world: World, thing: str, now: Scene) -> Generator[Step, Sequence[str], None]:
    """Look for `thing` in the database first, which does not have it: shown, not trained on."""
    if "tables" in world.servers and not world.known_tables and now.chance(_P_ASTRAY):
        yield detour("list_tables")
        world.known_tables = True
        table = world.table(now)
        names = table.of_kind("name")
        if names and now.chance(0.5):
            yield detour("query", sql=f"SELECT * FROM {table.name} WHERE {names[0].name} = {quoted(thing)}")
        elif now.chance(0.4):
            yield mistake("query", sql=f"SELECT note FROM {table.name} LIMIT 1")


def _ask_alone(world: World, now: Scene) -> Script:
    """Asks for a fact of a file of notes without naming the file."""
    asked = world.questions_alone()
    if not asked:
        return None
    path, question = now.one(asked)
    request = now.one(question.alone)
    yield request
    yield from _steps_astray(world, question.keyword, now)
    if not question.is_in_line and question.keyword.lower() in path.lower() and now.chance(0.6):
        (found,) = yield call("search_files", pattern=f"*{question.keyword}*")
        if path not in found:
            yield call("tree")
    else:
        found = yield from _searched(world, request, question.keyword, now)
        if _only_line_is_of(path, found) and question.is_in_line and now.chance(0.6):
            return (yield from _answer(question, path, world, now))
        if path not in found:
            yield call("tree")
    yield call("read_text_file", path=path)
    world.show(path)
    return (yield from _answer(question, path, world, now))


def _searched(world: World, request: str, keyword: str, now: Scene) -> Generator[Step, Sequence[str], str]:
    """Search for a word, sometimes first for one that no file contains; return the result."""
    text = "\n".join(world.files.values()).lower()
    foreign = [word for word in re.findall(r"[a-z]{5,}", request.lower()) if word not in text]
    if now.chance(0.15):
        foreign = [now.one((f"the {keyword} is", f"{keyword} of mine", f"my {keyword}", f"{keyword}:"))]
    if foreign and now.chance(0.3):
        (found,) = yield detour("search_text", text=now.one(foreign))
        if not found.startswith(_NO_MATCH):
            return found
    return (yield from search(world, keyword))


def _only_line_is_of(path: str, found: str) -> bool:
    return {match[1] for match in re.finditer(r"^(.+?):\d+: ", found, re.MULTILINE)} == {path}


def _answer(question: Question, path: str, world: World, now: Scene) -> Generator[Step, Sequence[str], str]:
    answer = yield from answer_to(question, world, now)
    return f"{answer.rstrip('.')} ({path})." if now.chance(0.15) and answer.endswith(".") else answer


def _nowhere(world: World, now: Scene) -> Script:
    """Asks for something that is neither in the files nor in the database."""
    thing = now.one(_ABSENT)
    if any(thing in text for text in world.files.values()):
        return None
    yield now.one(
        (
            f"how much was the {thing}?",
            f"where is the {thing}?",
            f"what do you know about the {thing}?",
            f"when is the {thing} due?",
            f"do I have notes on the {thing}?",
        )
    )
    yield from _steps_astray(world, thing, now)
    yield from search(world, thing)
    word = thing.split()[-1]
    if word != thing and now.chance(0.5):
        (found,) = yield call("search_text", text=word)
        if not found.startswith(_NO_MATCH):
            return None
    if "tables" in world.servers:
        return now.one(
            (
                f"I found nothing about the {thing}, neither in the files nor in the database.",
                f"Neither your files nor the database say anything about the {thing}.",
            )
        )
    return now.one(
        (f"I found nothing about the {thing} in your files.", f"None of your files mentions the {thing}.")
    )


def _named_after(world: World, now: Scene) -> Script:
    """Asks for a file by a word that only its name contains."""
    texts = "\n".join(world.files.values()).lower()
    words = {
        path: [word for word in re.findall(r"[a-z]{4,}", PurePosixPath(path).stem.lower()) if word not in texts]
        for path in world.files
    }
    alone = [
        (word, path)
        for path in words
        for word in words[path]
        if sum(word in other.lower() for other in words) == 1
    ]
    if not alone:
        return None
    word, path = now.one(alone)
    yield now.one(
        (
            f"is there anything on {word}? which file?",
            f"I saved something about {word}, what was it called?",
            f"have I got a file on {word}?",
            f"{word}: what is that file named?",
        )
    )
    found = yield from search(world, word)
    if path not in found:
        return None
    return now.one((f"Yes, {path}.", f"The file is {path}.", f"It is called {path}."))


def _no_such_rows(world: World, now: Scene) -> Script:
    """Asks the database for a kind of rows that it does not have."""
    own = {table.name for table in world.tables}
    table = now.one([table for domain in DOMAINS for table in domain.tables if table.name not in own])
    if any(table.one in text for text in world.files.values()):
        return None
    yield now.one((f"how many {table.many} are in the database?", f"list the {table.many} of the database"))
    if not world.known_tables:
        yield call("list_tables")
        world.known_tables = True
    names = " and ".join(sorted(own))
    return f"There is no table of {table.many}: the database holds {names}."


UNPLACED: Sequence[Maker] = (_ask_alone, _ask_alone, _ask_alone, _ask_alone, _nowhere, _named_after)
"""Requests for something in a file that do not mention a file."""
FILES: Sequence[Maker] = (_ask_alone, _ask_alone, _ask_alone, _ask_alone, _ask_alone, _ask_alone, _nowhere)
TABLES: Sequence[Maker] = (_no_such_rows,)
