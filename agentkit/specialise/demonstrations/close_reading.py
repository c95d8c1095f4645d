"""Scripts that require a choice: one line of several, the end of a file, a list below its title, a known text.

A search shows lines that share a word with the question; only one of them answers it. A search that hits the title
of a list does not show its length. A file that the conversation has shown is not read again.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentkit.specialise.demonstrations.naming import named
from agentkit.specialise.demonstrations.script import Maker, Script, answer_to, call, count, search, sentence
from agentkit.specialise.demonstrations.world import World
from modelstack.data.tools.spoken import Scene

_P_TAIL = 0.75
"""Probability that the last lines alone are read for a question about the end of a file."""
_MAX_HITS = 12
"""Maximum number of matching lines to choose from; a longer list makes the request a bad example."""


def _hits(world: World, keyword: str) -> list[str]:
    """Return the path of each line that contains a word, as `search_text` finds it."""
    lines = [(path, line) for path in sorted(world.files) for line in world.lines(path)]
    exact = [path for path, line in lines if keyword in line]
    return exact or [path for path, line in lines if keyword.lower() in line.lower()]


def _right_line(world: World, now: Scene) -> Script:
    """Asks for a fact with a keyword that occurs in several lines or files."""
    asked = [
        (path, question)
        for path, question in world.questions_alone()
        if question.is_in_line and 1 < len(_hits(world, question.keyword)) <= _MAX_HITS
    ]
    if not asked:
        return None
    path, question = now.one(asked)
    yield now.one(question.alone)
    yield from search(world, question.keyword)
    if len(set(_hits(world, question.keyword))) > 1 and now.chance(0.4):
        yield call("read_text_file", path=path)
        world.show(path)
    return (yield from answer_to(question, world, now))


def _below_title(world: World, now: Scene) -> Script:
    """Asks about a list with the keyword only in its title: the file is read and its items counted."""
    asked = [
        (path, question)
        for path, question in world.questions_alone()
        if not question.is_in_line and path in _hits(world, question.keyword)[:_MAX_HITS]
    ]
    if not asked:
        return None
    path, question = now.one(asked)
    yield now.one(question.alone)
    yield from search(world, question.keyword)
    yield call("read_text_file", path=path)
    world.show(path)
    return (yield from answer_to(question, world, now))


def _last_lines(world: World, now: Scene) -> Script:
    """Asks for the last or first lines of a file."""
    n = now.one((2, 2, 3, 3, 4, 5))
    paths = [path for path in sorted(world.files) if len(world.lines(path)) > n + 1]
    if not paths:
        return None
    path = now.one(paths)
    said, lookup = named(world, now, path)
    number = count(now, n)
    lines = world.lines(path)
    end, options, shown = now.one((("last", {"tail": n}, lines[-n:]), ("first", {"limit": n}, lines[:n])))
    yield now.one(
        (
            f"show me the {end} {number} lines of {said}",
            f"what are the {end} {number} lines of {said}?",
            f"{end} {number} lines of {said}?",
            f"I only need the {end} {number} lines of {said}",
        )
    )
    yield from lookup
    yield call("read_text_file", path=path, **options)
    return f"The {end} {number} lines of {path} are:\n" + "\n".join(shown)


def _last_entry(world: World, now: Scene) -> Script:
    """Asks for the last entry: of a log, a list of tasks, or notes; for a log sometimes the first."""
    ends = [(path, each) for path, several in sorted(world.questions.items()) for each in several if each.tail]
    logs = world.with_suffix(".log")
    if ends and (not logs or now.chance(0.5)):
        path, question = now.one(ends)
        said, lookup = named(world, now, path)
        yield now.one(question.asked).format(file=said)
        yield from lookup
        yield call("read_text_file", path=path, tail=question.tail)
        return (yield from answer_to(question, world, now))
    if not logs:
        return None
    path = now.one(logs)
    lines = world.lines(path)
    is_last = now.chance(0.7)
    parts = (lines[-1] if is_last else lines[0]).split(" ", 3)
    if len(parts) < 4 or not parts[0][:4].isdigit():
        return None
    end = "last" if is_last else "first"
    said, lookup = named(world, now, path)
    yield now.one(
        (f"what happened {end} in {said}?", f"what is the {end} entry of {said}?", f"{end} event in {said}?")
    )
    yield from lookup
    yield call("read_text_file", path=path, **({"tail": 1} if is_last else {"limit": 1}))
    return f'The {end} entry is of {parts[0]} at {parts[1]}: "{parts[3]}" ({parts[2]}).'


def _follow_up(world: World, now: Scene) -> Script:
    """Asks about a file that was shown before: no call. Without one, asks about a file and reads it."""
    known = [path for path, text in sorted(world.shown.items()) if world.files.get(path) == text]
    questions = [(path, each) for path in known for each in world.questions.get(path, ())]
    facts = [fact for fact in world.facts if fact.path in known]
    before = now.one(("", "", "and ", "and ", "also, "))
    if questions:
        path, question = now.one(questions)
        if question.alone and now.chance(0.5):
            yield f"{before}{now.one(question.alone)}"
        else:
            said = now.one(("that file", "the same file", "this file", path))
            yield f"{before}{now.one(question.asked).format(file=said)}"
        return (yield from answer_to(question, world, now))
    if facts:
        fact = now.one(facts)
        yield now.one((f"and {fact.topic}?", f"and {fact.topic} in that file?", f"what about {fact.topic}?"))
        return f"{sentence(fact.topic)} is {fact.value}."
    return (yield from ask_notes(world, now))


def ask_notes(world: World, now: Scene) -> Script:
    """Asks for a fact in a file of notes, or for its topic."""
    if not world.questions:
        return None
    path = now.one(sorted(world.questions))
    question = now.one(world.questions[path])
    said, lookup = named(world, now, path)
    yield now.one(question.asked).format(file=said)
    yield from lookup
    if question.tail and now.chance(_P_TAIL):
        yield call("read_text_file", path=path, tail=question.tail)
    else:
        yield call("read_text_file", path=path)
        world.show(path)
    return (yield from answer_to(question, world, now))


UNPLACED: Sequence[Maker] = (_right_line, _below_title)
"""Requests for something in a file that do not mention a file."""
READING: Sequence[Maker] = (
    _right_line,
    _right_line,
    _right_line,
    _right_line,
    _below_title,
    _below_title,
    _below_title,
    _last_lines,
    _last_lines,
    _last_entry,
    _last_entry,
    _follow_up,
    _follow_up,
    _follow_up,
    _follow_up,
    _follow_up,
    _follow_up,
)
