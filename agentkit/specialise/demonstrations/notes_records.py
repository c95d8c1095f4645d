"""Files of records with questions: stock tables, budgets and contacts.

Names share words ("wood screws", "wood glue") and titles repeat the word of the list, so the right line must be
chosen and the title must not be counted.
"""

from __future__ import annotations

from agentkit.specialise.demonstrations.domains import PEOPLE
from agentkit.specialise.demonstrations.file_questions import Notes, Question, added, counted, heading, stock
from modelstack.data.tools.spoken import Scene, listed

_EXTREMES = {
    "price": ("is the most expensive", "is the cheapest"),
    "weight": ("is the heaviest", "is the lightest"),
    "age": ("is the oldest", "is the youngest"),
    "rent": ("has the highest rent", "has the lowest rent"),
    "length": ("is the longest", "is the shortest"),
    "size": ("is the largest", "is the smallest"),
    "eggs": ("laid the most eggs", "laid the fewest eggs"),
    "year": ("is the newest", "is the oldest"),
}
"""Phrases for the highest and the lowest value of a column."""
_MAX_ADDED = 6
"""Most numbers that a model of this size adds without a mistake."""


def inventory(title: str, now: Scene) -> Notes:
    """Return a CSV of three to five columns."""
    kind = now.one(stock()["inventories"])
    the, one, many = kind["the"], kind["one"], kind["many"]
    ranges = now.some(list(kind["numbers"].items()), now.one((1, 2, 2)))
    n_values = min(to - start for _, (start, to) in ranges)
    names = now.some(kind["things"], min(now.random.randrange(4, 11), n_values))
    n = len(names)
    columns: dict[str, list[str]] = {"name": names}
    numbers = {column: now.some(range(*limits), n) for column, limits in ranges}
    columns |= {column: list(map(str, values)) for column, values in numbers.items()}
    word, options = now.one(list(kind["words"].items()))
    words = [now.one(options) for _ in names]
    columns[word] = words
    order = now.some(list(columns), len(columns)) if now.chance(0.4) else list(columns)
    lines = [",".join(order), *(",".join(columns[column][row] for column in order) for row in range(n))]
    column, values = now.one(list(numbers.items()))
    at, other = now.some(range(n), 2)
    top, low = values.index(max(values)), values.index(min(values))
    is_most, is_least = _EXTREMES.get(column, (f"has the highest {column}", f"has the lowest {column}"))
    limit = sorted(values)[now.random.randrange(1, n - 1)]
    above = [name for name, value in zip(names, values, strict=True) if value > limit]
    same = [name for name, value in zip(names, words, strict=True) if value == words[at]]
    summed = f"The sum is {added(values)}." if n <= _MAX_ADDED else f"The {column} column has {n} values."
    add_up = (
        (f"what is the sum of the {column} column in {{file}}?", f"add up the {column} column of {{file}}")
        if n <= _MAX_ADDED
        else (f"how many values are in the {column} column of {{file}}?",)
    )
    more, less = (at, other) if values[at] > values[other] else (other, at)
    questions = (
        Question(
            (
                f"what is the {column} of {the}{names[at]} in {{file}}?",
                f"{{file}}: {column} of {the}{names[at]}?",
                f"look up the {column} of {the}{names[at]} in {{file}}",
            ),
            (f"The {column} of {the}{names[at]} is {values[at]}.", f"{values[at]}."),
            (f"what is the {column} of {the}{names[at]}?", f"{column} of {the}{names[at]}?"),
            names[at],
            is_in_line=False,
        ),
        Question(
            (
                f"what is the {word} of {the}{names[at]} in {{file}}?",
                f"which {word} does {{file}} give for {names[at]}?",
            ),
            (f"The {word} of {the}{names[at]} is {words[at]}.",),
            (f"which {word} does {the}{names[at]} have?", f"what is the {word} of {the}{names[at]}?"),
            names[at],
        ),
        Question(
            (f"which {one} in {{file}} {is_most}?", f"who or what in {{file}} has the highest {column}?"),
            (f"{the}{names[top]} {is_most}: {values[top]}.", f"{names[top]}, with {values[top]}."),
            (f"which {one} {is_most}?", f"which of the {many} {is_most}?"),
            column,
            is_in_line=False,
        ),
        Question(
            (f"which {one} in {{file}} {is_least}?", f"what has the lowest {column} in {{file}}?"),
            (f"{the}{names[low]} {is_least}: {values[low]}.", f"{names[low]}, with {values[low]}."),
        ),
        Question(
            (
                f"how many {many} in {{file}} have a value above {limit} in {column}?",
                f"which {many} in {{file}} have more than {limit} in the {column} column? How many are there?",
            ),
            counted(above, one, many),
        ),
        Question(
            (
                f"which {many} in {{file}} have the {word} {words[at]}?",
                f"{{file}}: list the {many} with {word} {words[at]}",
            ),
            (f"{listed(same)}.", f"{word} {words[at]}: {listed(same)}."),
        ),
        Question(
            (f"how many {many} are in {{file}}?", f"how many {many} does {{file}} list?"),
            counted(names, one, many),
        ),
        now.one(
            (
                Question(add_up, (summed,)),
                Question(
                    (f"what is the difference in {column} between {names[at]} and {names[other]} in {{file}}?",),
                    (
                        f"{values[more] - values[less]}: {names[more]} has {values[more]}, "
                        f"{names[less]} has {values[less]}.",
                    ),
                ),
            )
        ),
    )
    return Notes("\n".join(lines) + "\n", questions, (".csv",), tuple(kind["stems"]))


def budget(title: str, now: Scene) -> Notes:
    """Return amounts grouped under headings."""
    kind = now.one(stock()["budgets"])
    sign, unit = now.one(("- ", "* ", "")), now.one((" euros", " EUR", " €"))
    sections = {name: now.some(items, now.one((1, 2, 2, 3))) for name, items in kind["sections"].items()}
    items = [item for several in sections.values() for item in several]
    amounts = dict(zip(items, now.some(range(5, 900), len(items)), strict=True))
    join = now.one((": ", " - ", " = "))
    lines = heading(now, kind["name"])
    is_divided = now.chance(0.7)
    for name, several in sections.items():
        lines += [*([""] * (lines[-1] != "")), f"## {name}"] if is_divided else []
        lines += [f"{sign}{item}{join}{amounts[item]}{unit}" for item in several]
    if now.chance(0.4):
        lines += ["", now.one(("All amounts are paid from the joint account.", "To be checked in spring."))]
    item, other = now.some(items, 2)
    outside = now.one([each for several in kind["sections"].values() for each in several if each not in items])
    top, low = max(items, key=lambda each: amounts[each]), min(items, key=lambda each: amounts[each])
    limit = sorted(amounts.values())[len(items) // 2]
    above = [each for each in items if amounts[each] > limit]
    more, less = sorted((item, other), key=lambda each: -amounts[each])
    section = now.one(list(sections))
    part = [amounts[each] for each in sections[section]]
    total = Question(
        ("what do all the amounts in {file} add up to?", "what is the total of {file}?", "add up {file}"),
        (f"The total is {added(list(amounts.values()))} euros.", f"{added(list(amounts.values()))} euros."),
        (f"what is the total of the {kind['name'].lower()}?",),
        kind["name"],
        is_in_line=False,
    )
    of_section = Question(
        (f"how much is {section} in {{file}} all together?", f"add up the part {section} in {{file}}"),
        (f"{section}: {added(part)} euros." if len(part) > 1 else f"{section}: {part[0]} euros.",),
    )
    questions = (
        Question(
            (
                f"how much does {{file}} have for {item}?",
                f"what does {{file}} say for {item}?",
                f"{{file}}: amount for {item}?",
            ),
            (f"{amounts[item]} euros.", f"It has {amounts[item]} euros for {item}."),
            (
                f"how much do we spend on {item}?",
                f"what is the amount for {item}?",
                f"how much did I plan for {item}?",
            ),
            item,
        ),
        Question(
            ("what is the largest amount in {file}?", "which entry of {file} costs the most?"),
            (f"{top}, with {amounts[top]} euros.", f"The largest is {top}: {amounts[top]} euros."),
        ),
        Question(
            ("what is the smallest amount in {file}?", "which entry of {file} costs least?"),
            (f"{low}, with {amounts[low]} euros.", f"The smallest is {low}: {amounts[low]} euros."),
        ),
        Question(
            ("how many amounts are in {file}?", "how many entries with an amount does {file} have?"),
            counted(items, "amount", "amounts"),
        ),
        Question(
            (
                f"which entries of {{file}} are above {limit} euros?",
                f"how many amounts in {{file}} are over {limit}?",
            ),
            counted(above, "entry", "entries"),
        ),
        Question(
            (
                f"how much more does {{file}} have for {more} than for {less}?",
                f"difference between {more} and {less} in {{file}}?",
            ),
            (f"{amounts[more] - amounts[less]} euros: {amounts[more]} for {more}, {amounts[less]} for {less}.",),
        ),
        Question(
            (f"does {{file}} have an amount for {outside}?", f"how much does {{file}} have for {outside}?"),
            (f"No, it has no entry for {outside}.", f"It has no amount for {outside}."),
        ),
        total if len(items) <= _MAX_ADDED or not is_divided else of_section,
    )
    return Notes("\n".join(lines) + "\n", questions, stems=tuple(kind["stems"]))


def contacts(title: str, now: Scene) -> Notes:
    """Return names with a town and a phone number, each on a line or in a block; first names repeat."""
    words = stock()["records"]
    n = now.random.randrange(4, 10)
    first_names = now.some(PEOPLE, n - 1)
    first_names.append(first_names[0])
    last_names = now.some(words["surnames"], n)
    people = [f"{first} {last}" for first, last in zip(first_names, last_names, strict=True)]
    now.random.shuffle(people)
    options = now.some(words["towns"], 3)
    towns = [now.one(options) for _ in people]
    phones = [f"555-{number:04}" for number in now.some(range(100, 9999), n)]
    records = list(zip(people, towns, phones, strict=True))
    shape = now.one(("line", "line", "table", "block"))
    lines = heading(now, now.one(words["contact_titles"]))
    if shape == "table":
        lines += ["| name | town | phone |", "|---|---|---|", *(f"| {' | '.join(each)} |" for each in records)]
    elif shape == "block":
        for name, town, phone in records:
            lines += [name, f"  lives in {town}", f"  phone: {phone}", ""]
        lines.pop()
    else:
        join = now.one((", ", "; ", " - "))
        lines += [join.join(each) for each in records]
    is_in_line = shape != "block"
    name, town, phone = now.one(records)
    there = [each[0] for each in records if each[1] == town]
    outside = now.one(
        [
            f"{first} {last}"
            for first in PEOPLE[:9]
            for last in words["surnames"]
            if f"{first} {last}" not in people
        ]
    )
    questions = (
        Question(
            (f"what is the phone number of {name}? It's in {{file}}", f"{name}'s number in {{file}}?"),
            (f"{name}'s number is {phone}.", f"{phone}."),
            (
                f"what is {name}'s phone number?",
                f"how can I reach {name}?",
                f"I need to phone {name}, which number?",
            ),
            name,
            is_in_line,
        ),
        Question(
            (f"whose number is {phone}? Look into {{file}}", f"who in {{file}} has the number {phone}?"),
            (f"{phone} is {name}'s number.", f"It is the number of {name}."),
            (f"whose number is {phone}?", f"{phone} called me, who is that?"),
            phone,
            is_in_line,
        ),
        Question(
            (f"who in {{file}} lives in {town}?", f"which people in {{file}} are from {town}?"),
            (f"{listed(there)} {'lives' if len(there) == 1 else 'live'} in {town}.", f"{listed(there)}."),
            (f"who lives in {town}?", f"whom do I know in {town}?"),
            town,
            is_in_line,
        ),
        Question(
            (f"where does {name} live according to {{file}}?", f"{{file}}: which town is {name} in?"),
            (f"{name} lives in {town}.", f"In {town}."),
            (f"where does {name} live?", f"in which town is {name}?"),
            name,
            is_in_line,
        ),
        Question(
            ("how many people are in {file}?", "how many contacts does {file} have?"),
            counted([each[0] for each in records], "contact", "contacts"),
        ),
        Question(
            (f"how many people in {{file}} live in {town}?", f"count those from {town} in {{file}}"),
            counted(there, "person", "people"),
        ),
        Question(
            (f"is {outside} in {{file}}?", f"does {{file}} have a number for {outside}?"),
            (f"No, {outside} is not in it.", f"No, there is no {outside} in the file."),
        ),
        now.one(
            (
                Question(
                    ("who is the first in {file}?", "which contact comes first in {file}?"), (f"{people[0]}.",)
                ),
                Question(
                    ("who is the last in {file}?", "which contact comes last in {file}?"), (f"{people[-1]}.",)
                ),
                Question(
                    (f"what is {name}'s e-mail address? See {{file}}", f"does {{file}} have {name}'s birthday?"),
                    ("No, the file does not say that: it has only towns and phone numbers.",),
                ),
            )
        ),
    )
    return Notes("\n".join(lines) + "\n", questions, stems=("contacts", "phone-list", "addresses", "people"))
