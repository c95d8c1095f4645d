"""Lists with questions: books read, tasks, and a glossary."""

from __future__ import annotations

from datetime import timedelta

from agentkit.specialise.demonstrations.domains import PEOPLE
from agentkit.specialise.demonstrations.file_questions import Notes, Question, counted, heading, stock, written
from modelstack.data.tools.spoken import Scene, listed


def reading_log(title: str, now: Scene) -> Notes:
    """Return books with author, pages and rating."""
    words = stock()["records"]
    books = now.some(words["books"], now.random.randrange(4, 9))
    n = len(books)
    authors = [now.one(words["authors"]) for _ in books]
    pages = now.some(range(90, 700), n)
    ratings = [now.random.randrange(1, 6) for _ in books]
    shape = now.one(
        (
            "- {book} by {author}, {pages} pages, {rating}/5",
            "{book} ({author}): {pages} pages, rating {rating} of 5",
            "{rating}/5  {book}, {author}, {pages} pages",
        )
    )
    lines = heading(
        now, now.one(("Books that I have read", "Reading log: books", "My books this year", "List of books"))
    )
    for book, author, length, rating in zip(books, authors, pages, ratings, strict=True):
        lines.append(shape.format(book=book, author=author, pages=length, rating=rating))
    at = now.random.randrange(n)
    book, author = books[at], authors[at]
    longest, shortest = pages.index(max(pages)), pages.index(min(pages))
    best = [name for name, rating in zip(books, ratings, strict=True) if rating == max(ratings)]
    good = [name for name, rating in zip(books, ratings, strict=True) if rating >= 4]
    by = [name for name, one in zip(books, authors, strict=True) if one == author]
    outside = now.one([name for name in words["books"] if name not in books])
    questions = (
        Question(
            (f"which rating does {book} have in {{file}}?", f"how did I rate {book}? See {{file}}"),
            (f"{ratings[at]} of 5.", f"You gave {book} {ratings[at]} of 5."),
            (f"how did I rate {book}?", f"did I like {book}? How many points did I give it?"),
            book,
        ),
        Question(
            (f"who wrote {book} according to {{file}}?", f"{{file}}: author of {book}?"),
            (f"{author} wrote {book}.", f"{author}."),
            (f"who is the author of {book} in my list?", f"by whom is {book}? I noted it"),
            book,
        ),
        Question(
            (f"how many pages does {book} have? It's in {{file}}", f"how long is {book} in {{file}}?"),
            (f"{book} has {pages[at]} pages.", f"{pages[at]} pages."),
            (f"how many pages did I note for {book}?",),
            book,
        ),
        Question(
            ("which book in {file} is the longest?", "what is the thickest book in {file}?"),
            (f"{books[longest]}, with {pages[longest]} pages.",),
        ),
        Question(
            ("which books in {file} have the best rating?", "what did I like best in {file}?"),
            (f"{listed(best)}, with {max(ratings)} of 5.",),
        ),
        Question(
            ("how many books in {file} have at least 4 points?", "which books in {file} are rated 4 or better?"),
            counted(good, "book", "books"),
        ),
        Question(
            ("how many books are in {file}?", "how many books did I read according to {file}?"),
            counted(books, "book", "books"),
            ("how many books have I read?",),
            "books",
            is_in_line=False,
        ),
        now.one(
            (
                Question(
                    (f"which books by {author} are in {{file}}?",),
                    (f"{listed(by)}.", f"By {author}: {listed(by)}."),
                ),
                Question(
                    (f"is {outside} in {{file}}?", f"did I read {outside}? See {{file}}"),
                    (f"No, {outside} is not in it.",),
                ),
                Question(
                    ("what is the last book in {file}?", "which book did I note last in {file}?"),
                    (f"{books[-1]} by {authors[-1]}.",),
                    tail=1,
                ),
                Question(
                    ("which is the shortest book in {file}?",),
                    (f"{books[shortest]}, with {pages[shortest]} pages.",),
                ),
            )
        ),
    )
    return Notes("\n".join(lines) + "\n", questions, stems=("books", "reading-log", "books-read"))


def todo(title: str, now: Scene) -> Notes:
    """Return tasks with a priority, an owner and a day, sorted or grouped by priority."""
    tasks = now.some(stock()["records"]["tasks"], now.random.randrange(5, 11))
    crew = now.some(PEOPLE, 3)
    owners = [now.one(crew) for _ in tasks]
    levels = [now.one(("high", "medium", "low")) for _ in tasks]
    dates = [written(now.today + timedelta(days=now.random.randrange(1, 80))) for _ in tasks]
    records = list(zip(tasks, owners, levels, dates, strict=True))
    lines = heading(now, now.one(("Tasks", "To do", "Open tasks", "Task list of the house")))
    shape = now.one(
        (
            "- [{level}] {task} ({owner}, until {day})",
            "{task} - {owner} - {level} - {day}",
            "- {task}: {owner}, by {day}, priority {level}",
        )
    )
    is_grouped = now.chance(0.35)
    if is_grouped:
        records.sort(key=lambda each: ("high", "medium", "low").index(each[2]))
        for level in dict.fromkeys(each[2] for each in records):
            lines += [f"## Priority: {level}"]
            lines += [f"- {task} ({owner}, by {day})" for task, owner, each, day in records if each == level] + [
                ""
            ]
        lines.pop()
    else:
        lines += [
            shape.format(task=task, owner=owner, level=level, day=day) for task, owner, level, day in records
        ]
    task, owner, level, day = now.one(records)
    of_owner = [each[0] for each in records if each[1] == owner]
    of_level = [each[0] for each in records if each[2] == level]
    outside = now.one([each for each in stock()["records"]["tasks"] if each not in tasks])
    questions = (
        Question(
            (f"who has to {task}? See {{file}}", f"according to {{file}}, who should {task}?"),
            (f"{owner} has to {task}.", f"{owner}."),
            (f"who has to {task}?", f"who should {task}?", f"whose task is it to {task}?"),
            task,
        ),
        Question(
            (f'by when is "{task}" due in {{file}}?', f"{{file}}: until when must somebody {task}?"),
            (f"By {day}.", f"It is due by {day}."),
            (f'when is "{task}" due?', f"until when do we have to {task}?"),
            task,
        ),
        Question(
            (f"what does {owner} have to do according to {{file}}?", f"which tasks in {{file}} are {owner}'s?"),
            (f"{owner} has to {listed(of_owner)}.", f"{listed(of_owner)}."),
            (f"which tasks does {owner} have on the task list?",),
            owner,
        ),
        Question(
            (f"how many tasks does {owner} have in {{file}}?", f"count {owner}'s tasks in {{file}}"),
            counted(of_owner, "task", "tasks"),
        ),
        Question(
            (
                f"which tasks in {{file}} have {level} priority?",
                f"how many tasks in {{file}} are of {level} priority?",
            ),
            counted(of_level, "task", "tasks"),
        ),
        Question(
            (f'which priority does "{task}" have in {{file}}?', f"how urgent is it to {task}? See {{file}}"),
            (f"It has {level} priority.", f"{level} priority."),
            (f'which priority has "{task}"?',),
            task,
            is_in_line=not is_grouped,
        ),
        Question(
            ("how many tasks are in {file}?", "how long is the list in {file}, how many tasks?"),
            counted(tasks, "task", "tasks"),
        ),
        Question(
            (f'is "{outside}" in {{file}}?', f"does {{file}} say that somebody should {outside}?"),
            (f'No, "{outside}" is not in it.',),
        ),
    )
    return Notes("\n".join(lines) + "\n", questions, stems=("tasks", "todo", "open-tasks"))


def glossary(title: str, now: Scene) -> Notes:
    """Return words with their meanings."""
    kind = now.one(stock()["glossaries"])
    topic = kind["topic"].lower()
    terms = now.some(list(kind["terms"].items()), now.random.randrange(4, len(kind["terms"])))
    if now.chance(0.6):
        terms.sort()
    shape = now.one(("{}: {}", "- {}: {}", "**{}** - {}", "{} = {}"))
    lines = heading(
        now, now.one((f"Glossary of {topic}", f"{kind['topic']} terms", f"Words of {topic}: glossary"))
    )
    lines += [shape.format(term, meaning) for term, meaning in terms]
    term, meaning = now.one(terms)
    outside = now.one([each for each in kind["terms"] if each not in dict(terms)])
    names = [each for each, _ in terms]
    of_letter = [each for each in names if each[0] == term[0]]
    place, at = now.one((("first", 0), ("second", 1), ("third", 2), ("last", -1)))
    questions = (
        Question(
            (
                f"what does {term} mean according to {{file}}?",
                f"{{file}}: what is {term}?",
                f"look up {term} in {{file}}",
            ),
            (f"{term}: {meaning}.", f"It means {meaning}."),
            (f"what does my glossary say about {term}?", f"look up {term} in my {topic} terms"),
            term,
        ),
        Question(
            (f"what is the word for {meaning} in {{file}}?", f'which term in {{file}} means "{meaning}"?'),
            (f"The word is {term}.", f"{term}."),
            (f'which of my terms means "{meaning}"?', f"what was the {topic} word for {meaning}?"),
            meaning,
        ),
        Question(
            ("how many terms are in {file}?", "how many words does {file} explain?"),
            counted(names, "term", "terms"),
            (f"how many {topic} terms do I have in my glossary?",),
            topic,
            is_in_line=False,
        ),
        Question(
            ("which terms are in {file}?", "list the words that {file} explains"),
            (f"{listed(names)}.", f"It explains {listed(names)}."),
        ),
        Question(
            (f"is {outside} in {{file}}?", f"does {{file}} explain {outside}?"),
            (f"No, {outside} is not in it.", f"No, it does not explain {outside}."),
        ),
        Question(
            (
                f"how many terms in {{file}} begin with {term[0]}?",
                f"which words in {{file}} begin with {term[0]}?",
            ),
            counted(of_letter, "term", "terms"),
        ),
        Question(
            (f"which term is the {place} in {{file}}?", f"{{file}}: what is the {place} word?"),
            (f"{names[at]}.", f"The {place} is {names[at]}."),
        ),
    )
    return Notes("\n".join(lines) + "\n", questions, stems=("glossary", "terms", f"{topic}-words"))
