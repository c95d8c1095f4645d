"""Generated files of notes, each with questions about it and their answers.

Diaries, lists with remarks, recipes, price lists and manuals are generated from stocks of things and events. Each
answer is one of the facts that the text was made from, so it is right by construction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import timedelta

from agentkit.specialise.demonstrations import notes_code, notes_lists, notes_records, notes_schedules, notes_texts
from agentkit.specialise.demonstrations.domains import PEOPLE
from agentkit.specialise.demonstrations.file_questions import Notes, Question, counted, stock
from modelstack.data.tools.spoken import Scene, listed


def make_notes(title: str, now: Scene, kinds: set[str]) -> Notes:
    """Return a file of notes under a title, of a kind that is not in `kinds`, and add the kind to them."""
    maker = now.one([each for each in _MAKERS if each.__name__ not in kinds])
    kinds.add(maker.__name__)
    return maker(title, now)


def _diary(title: str, now: Scene) -> Notes:
    """Return one line a day: "3 March: pruned the pear tree"; the infinitive of each deed is for questions."""
    deeds = now.some(list(stock()["deeds"].items()), now.random.randrange(4, 9))
    day = now.today
    lines, entries = [f"# {title}"], list[tuple[str, str, str]]()
    for infinitive, past in deeds:
        day += timedelta(days=now.random.randrange(1, 15))
        said = f"{day.day} {day:%B}"
        lines.append(f"{said}: {past}")
        entries.append((said, infinitive, past))
    said, infinitive, past = now.one(entries)
    first, last = entries[0], entries[-1]
    questions = (
        Question(
            (f"when did I {infinitive}? See {{file}}", f"on which day did I {infinitive}? It's in {{file}}"),
            (f"You {past} on {said}.", f"On {said}."),
            (f"when did I {infinitive}?", f"on which day did I {infinitive}?", f"when was it that I {past}?"),
            past.split()[-1],
        ),
        Question(
            (f"what did I do on {said}? It's in {{file}}", f"what does {{file}} say about {said}?"),
            (f"On {said} you {past}.", f"You {past} on {said}."),
        ),
        Question(
            ("what is the last entry in {file}?", "what did I write last in {file}?"),
            (f"The last entry is of {last[0]}: {last[2]}.",),
            tail=1,
        ),
        Question(
            ("how many entries does {file} have?", "how many days are noted in {file}?"),
            (
                f"{listed([each[0] for each in entries])}: {len(entries)} entries.",
                f"{listed([each[0] for each in entries])}. That makes {len(entries)} entries.",
            ),
        ),
        Question(
            ("sum up {file} for me", "what is {file} about?", "give me a short summary of {file}"),
            (f"It notes what you did from {first[0]} to {last[0]}: you {listed([e[2] for e in entries])}.",),
        ),
    )
    return Notes("\n".join(lines) + "\n", questions)


def _remarks(title: str, now: Scene) -> Notes:
    """Return a list of things, each with its place or holder."""
    kind = now.one(stock()["lists"])
    things = now.some(kind["things"], now.random.randrange(4, 9))
    states = [now.one([*kind["states"], f"with {now.one(PEOPLE)}"]) for _ in things]
    lines = [f"# {title}", *(f"- {thing}: {state}" for thing, state in zip(things, states, strict=True))]
    at = now.random.randrange(len(things))
    thing, state = things[at], states[at]
    same = [one for one, other in zip(things, states, strict=True) if other == state]
    many, is_one = kind["many"], len(same) == 1
    questions = (
        Question(
            (
                f"where is the {thing}? Look into {{file}}",
                f"what does {{file}} say about the {thing}?",
                f"{{file}}: what about the {thing}?",
            ),
            (f"The {thing} is {state}.", f"According to the list, the {thing} is {state}."),
            (f"where is the {thing}?", f"what about the {thing}?", f"what do my notes say about the {thing}?"),
            thing,
        ),
        Question(
            (f"which {many} in {{file}} are {state}?", f"what is {state} according to {{file}}?"),
            (
                f"{'Only the' if is_one else 'The'} {listed(same)} {'is' if is_one else 'are'} {state}.",
                f"{state.capitalize()}: {listed(same)}.",
            ),
        ),
        Question(
            (f"how many {many} in {{file}} are {state}?", f"count the {many} in {{file}} that are {state}"),
            (f"Only the {same[0]}.",) if is_one else counted(same, many, many),
        ),
        Question(
            (f"how many {many} are listed in {{file}}?", f"how long is the list in {{file}}, how many {many}?"),
            counted(things, many, many),
        ),
        Question(
            (f"which {many} are in {{file}}?", "what is on the list in {file}?"),
            (f"It lists {listed(things)}.", f"These {many}: {listed(things)}."),
        ),
    )
    return Notes("\n".join(lines) + "\n", questions)


def _plain_list(title: str, now: Scene) -> Notes:
    """Return a list that its title describes: guests, birds, songs."""
    kind = now.one(stock()["plain"])
    items = now.some(kind["items"], now.random.randrange(3, len(kind["items"])))
    name, many = kind["name"], kind["many"]
    sign = now.one(("- ", "- ", "* ", ""))
    lines = [kind["heading"], *(f"{sign}{item}" for item in items)]
    inside, outside = now.one(items), now.one([item for item in kind["items"] if item not in items])
    questions = (
        Question(
            (f"how many {many} are in {{file}}?", f"count the {many} in {{file}}"),
            counted(items, many, many),
            (f"how many {many} are on the {name} list?", f"how many {many} do I have?", f"count my {many}"),
            name,
            is_in_line=False,
        ),
        Question(
            (f"which {many} are in {{file}}?", "read me {file}"),
            (f"The {many} are {listed(items)}.", f"{listed(items)}."),
            (f"what is on my {name} list?", f"which {many} are on the {name} list?", f"tell me all {many}"),
            name,
            is_in_line=False,
        ),
        Question(
            (f"is {inside} in {{file}}?", f"does {{file}} have {inside}?"),
            (f"Yes, {inside} is on the list.",),
            (f"is {inside} on the {name} list?",),
            name,
            is_in_line=False,
        ),
        Question(
            (f"is {outside} in {{file}}?", f"does {{file}} have {outside}?"),
            (f"No, {outside} is not on the list.",),
            (f"is {outside} on the {name} list?",),
            name,
            is_in_line=False,
        ),
        Question(
            ("what is the last one in {file}?", "what comes first in {file}?"),
            (f"The first is {items[0]}, the last {items[-1]}.",),
        ),
    )
    return Notes("\n".join(lines) + "\n", questions, stems=(name, f"{name}s", f"{name}-list", f"{name}_list"))


def _minutes(title: str, now: Scene) -> Notes:
    """Return minutes: promised tasks with owners and deadlines, and the next meeting."""
    tasks = now.some(stock()["promises"], now.random.randrange(3, 7))
    people = now.some(PEOPLE, len(tasks))
    day = now.today
    lines = [now.one((f"Meeting of {day.day} {day:%B}", f"# {title}")), ""]
    promised: list[tuple[str, str, str, str]] = []
    for who, (verb, thing) in zip(people, tasks, strict=True):
        until = day + timedelta(days=now.random.randrange(5, 60))
        said = f"{until.day} {until:%B}"
        lines.append(
            now.one((f"{who} {verb} the {thing} by {said}.", f"- {who} {verb} the {thing} (until {said})"))
        )
        promised.append((who, verb, thing, said))
    again = day + timedelta(days=now.random.randrange(20, 50))
    place = now.one(stock()["places"])
    lines += ["", f"Next meeting: {again.day} {again:%B}, {place}."]
    who, verb, thing, said = now.one(promised)
    questions = (
        Question(
            (f"who {verb} the {thing}? It's in {{file}}", f"according to {{file}}, who {verb} the {thing}?"),
            (f"{who} {verb} the {thing}.", f"{who}, by {said}."),
            (f"who {verb} the {thing}?", f"who is it that {verb} the {thing}?"),
            thing.split()[-1],
        ),
        Question(
            (
                f"by when does {who} have to be done according to {{file}}?",
                f"what is {who}'s deadline in {{file}}?",
            ),
            (f"{who} has time until {said}.", f"By {said}."),
            (f"until when has {who} got time for the {thing}?", f"when must the {thing} be done?"),
            thing.split()[-1],
        ),
        Question(
            (f"what does {who} do according to {{file}}?", f"what is {who}'s task in {{file}}?"),
            (f"{who} {verb} the {thing} by {said}.",),
            (f"what has {who} promised to do?", f"what is {who}'s task?"),
            who,
        ),
        Question(
            ("when is the next meeting, see {file}", "read {file} and tell me when and where we meet next"),
            (f"The next meeting is on {again.day} {again:%B}, {place}.",),
            ("when do we meet again?", "when and where is the next meeting?"),
            "meeting",
        ),
        Question(
            ("who has something to do in {file}?", "sum up {file}"),
            (listed([f"{one} {does} the {what}" for one, does, what, _ in promised]) + ".",),
        ),
    )
    return Notes("\n".join(lines) + "\n", questions)


def _recipe(title: str, now: Scene) -> Notes:
    dish = now.one(stock()["recipes"])
    amounts = {name: now.one(values) for name, values in dish["ingredients"].items()}
    persons, minutes, heat = (
        now.one((2, 3, 4, 6, 8)),
        now.random.randrange(10, 95, 5),
        now.one((160, 175, 190, 220)),
    )
    lines = [
        f"# {dish['name']} for {persons}",
        *(f"- {amount} {name}" for name, amount in amounts.items()),
        "",
        f"{dish['steps']} Bake at {heat} degrees for {minutes} minutes.",
    ]
    name = now.one(tuple(amounts))
    called = dish["name"].lower()
    questions = (
        Question(
            (
                f"how much {name} do I need for {{file}}?",
                f"how much {name} goes into the {called}? It's in {{file}}",
            ),
            (f"You need {amounts[name]} {name}.", f"{amounts[name]} {name}.".capitalize()),
            (f"how much {name} do I need for the {called}?", f"{called}: how much {name}?"),
            called.split()[-1],
            is_in_line=False,
        ),
        Question(
            (
                "what do I need for {file}?",
                "which ingredients does {file} have?",
                "list the ingredients of {file}",
            ),
            (f"You need {listed([f'{amount} {name}' for name, amount in amounts.items()])}.",),
        ),
        Question(
            ("how long does it bake according to {file}?", "at what heat and how long does {file} bake?"),
            (f"It bakes for {minutes} minutes at {heat} degrees.",),
            (f"how long does the {called} bake?", f"how hot must the oven be for the {called}?"),
            called.split()[-1],
            is_in_line=False,
        ),
        Question(
            ("for how many people is {file}?", "how many does the recipe in {file} serve?"),
            (f"It is for {persons} people.", f"The recipe is for {persons}."),
        ),
        Question(
            ("what is {file} about?", "what's the recipe in {file}?"),
            (f"It is a recipe for {called}, for {persons} people.",),
        ),
    )
    return Notes("\n".join(lines) + "\n", questions)


def _prices(title: str, now: Scene) -> Notes:
    """Return a CSV of purchases by day; the title is not in it."""
    bought = now.some(stock()["goods"], now.random.randrange(4, 9))
    day = now.today
    rows: list[tuple[str, str, int]] = []
    for good in bought:
        day += timedelta(days=now.random.randrange(0, 6))
        rows.append((str(day), good, now.random.randrange(2, 400)))
    head = now.one((("date", "item", "price"), ("day", "what", "euros"), ("date", "thing", "cost")))
    lines = [",".join(head), *(f"{day},{good},{price}" for day, good, price in rows)]
    when, good, price = now.one(rows)
    dearest = max(rows, key=lambda row: row[2])
    same_day = [row[1] for row in rows if row[0] == when]
    total = " + ".join(str(row[2]) for row in rows)
    questions = (
        Question(
            (f"what did the {good} cost? It's in {{file}}", f"how much was the {good} according to {{file}}?"),
            (f"The {good} cost {price} euros.",),
            (f"what did the {good} cost?", f"how much was the {good}?", f"what did I pay for the {good}?"),
            good,
        ),
        Question(
            (f"when did I buy the {good}? See {{file}}", f"on which day is the {good} in {{file}}?"),
            (f"You bought the {good} on {when}.", f"On {when}."),
            (f"when did I buy the {good}?", f"on which day did I get the {good}?"),
            good,
        ),
        Question(
            ("what was the most expensive thing in {file}?", "which item in {file} cost most?"),
            (f"The {dearest[1]}, for {dearest[2]} euros.", f"The {dearest[1]} cost most, {dearest[2]} euros."),
        ),
        Question(
            (f"what did I buy on {when}? It's in {{file}}", f"which items does {{file}} have for {when}?"),
            (f"On {when} you bought {listed(same_day)}.",),
        ),
        Question(
            ("how much did I spend in {file}, all together?", "add up the prices in {file}", "total of {file}?"),
            (f"All together it is {sum(row[2] for row in rows)} euros ({total}).",),
        ),
    )
    return Notes("\n".join(lines) + "\n", questions, suffixes=(".csv",))


def _manual(title: str, now: Scene) -> Notes:
    """Return a long text: sections of some sentences, one fact in each."""
    kind = stock()["manual"]
    machine = now.one(kind["machines"])
    sections = now.some(list(kind["sections"].items()), now.random.randrange(5, 13))
    lines = [f"# {machine}: manual", ""]
    facts: list[tuple[str, str, str]] = []
    for heading, section in sections:
        value = now.one(section["values"])
        fact = section["fact"].format(value)
        sentences = now.some(kind["padding"], now.random.randrange(1, 4))
        sentences.insert(now.random.randrange(len(sentences) + 1), fact)
        lines += [f"## {heading}", " ".join(sentences), ""]
        facts.append((section["ask"], fact, heading))
    asked, fact, heading = now.one(facts)
    keyword = max(re.findall(r"[a-z]+", asked), key=len)
    headings = [one for one, _ in sections]
    about = f"the manual of the {machine.lower()}, with sections on {listed([one.lower() for one in headings])}"
    questions = (
        Question(
            (f"{asked} Look it up in {{file}}", f"{{file}}: {asked}", f"according to {{file}}, {asked}"),
            (fact,),
            (f"{asked} It's about the {machine.lower()}", f"{machine}: {asked}", asked),
            keyword if keyword in fact else max(re.findall(r"[a-z]+", fact), key=len),
        ),
        Question(
            (
                f"what does {{file}} say about {heading.lower()}?",
                f"read the part on {heading.lower()} in {{file}}",
            ),
            (fact,),
        ),
        Question(
            ("which sections does {file} have?", "what are the headings in {file}?"),
            counted(headings, "section", "sections"),
        ),
        Question(
            ("what is {file} about?", "what kind of text is {file}?"),
            (f"It is {about}.",),
        ),
    )
    return Notes("\n".join(lines).rstrip() + "\n", questions)


_MAKERS: Sequence[Callable[[str, Scene], Notes]] = (
    _diary,
    _remarks,
    _remarks,
    _plain_list,
    _plain_list,
    _minutes,
    _minutes,
    _recipe,
    _prices,
    _manual,
    notes_records.inventory,
    notes_records.inventory,
    notes_records.budget,
    notes_records.budget,
    notes_records.contacts,
    notes_schedules.roster,
    notes_schedules.results,
    notes_lists.reading_log,
    notes_lists.todo,
    notes_texts.mail_thread,
    notes_schedules.itinerary,
    notes_schedules.opening_hours,
    notes_texts.office_letter,
    notes_lists.glossary,
    notes_texts.changelog,
    notes_texts.readme,
    notes_code.json_settings,
    notes_code.yaml_settings,
    notes_code.python_file,
)
