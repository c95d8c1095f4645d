"""Texts with questions: mails, office letters, changelogs, READMEs."""

from __future__ import annotations

from datetime import timedelta

from agentkit.specialise.demonstrations.domains import PEOPLE
from agentkit.specialise.demonstrations.file_questions import Notes, Question, counted, heading, stock, written
from modelstack.data.tools.spoken import Scene, listed


def mail_thread(title: str, now: Scene) -> Notes:
    """Return mails between two people: a request with a deadline, questions and their answers."""
    words = stock()["mail"]
    first, second = now.some(PEOPLE, 2)
    subject = now.one(words["subjects"])
    wish, done = now.one(words["tasks"])
    asked, told = now.some(words["details"], 2)
    value, extra = now.one(asked["values"]), now.one(told["values"])
    days = [now.today]
    for _ in range(2):
        days.append(days[-1] + timedelta(days=now.random.randrange(1, 5)))
    deadline = written(days[-1] + timedelta(days=now.random.randrange(3, 30)))
    could = now.one(("Could you {} by {}?", "Please {} by {}.", "Can you {} until {}?"))
    bodies = [
        now.some(words["small_talk"], now.one((0, 1))) + [could.format(wish, deadline)],
        now.some(words["small_talk"], now.one((0, 1))) + [f"I will do that. {asked['body']}"],
        [asked["reply"].format(value)]
        + now.some(words["small_talk"], now.one((0, 1)))
        + [told["reply"].format(extra)],
    ]
    mails: list[list[str]] = []
    for number, (day, body) in enumerate(zip(days, bodies, strict=True)):
        sender, reader = (second, first) if number == 1 else (first, second)
        head = [f"From: {sender}", f"To: {reader}", f"Date: {written(day)}"]
        mails.append(
            [*head, f"Subject: {'Re: ' if number else ''}{subject}", "", f"Dear {reader},", *body, sender]
        )
    if is_reversed := now.chance(0.3):
        mails.reverse()
    split = now.one(("", "---", "________"))
    lines: list[str] = []
    for mail in mails:
        lines += [*(["", split, ""] if split else ["", ""]), *mail] if lines else mail
    thing = done.split(" ", 1)[1]
    missing, topic = now.one(words["absent"])
    answer = asked["answer"].format(value)
    newest = "on top" if is_reversed else "at the end"
    questions = (
        Question(
            (f"who should {done} according to {{file}}?", f"see {{file}}: who was asked to {done}?"),
            (f"{second} should {done}.", f"{first} asked {second} to {done}."),
            (f"who was asked to {done}?", f"who should {done}?"),
            thing,
            is_in_line=False,
        ),
        Question(
            (f"by when does {first} need it in {{file}}?", f"which deadline does {first} give in {{file}}?"),
            (f"By {deadline}.", f"{first} needs it by {deadline}."),
            (f"by when must {second} {done}?", f"until when was the wish to {done}?"),
            thing,
        ),
        Question(
            (f"what does {first} want from {second} in {{file}}?", f"what is {second} asked to do in {{file}}?"),
            (f"{first} asks {second} to {done} by {deadline}.",),
            (f"what does {first} want from {second} in the mail about the {subject.lower()}?",),
            subject,
            is_in_line=False,
        ),
        Question(
            (f"{asked['asked']}? Read {{file}}", f"according to {{file}}, {asked['asked']}?"),
            (asked["answer"].format(value),),
        ),
        Question(
            (f"{told['asked']}? Read {{file}}", f"{{file}}: {told['asked']}?"),
            (told["answer"].format(extra),),
        ),
        now.one(
            (
                Question(
                    ("how many mails are in {file}?", "how many messages does {file} hold?"),
                    ("There are 3 mails.", "3 messages."),
                ),
                Question(
                    ("who wrote the last mail in {file}, and when?", "when was the newest mail in {file} sent?"),
                    (f"{first} wrote it on {written(days[-1])}; it is {newest}.",),
                ),
                Question(
                    (f"when did {second} answer in {{file}}?",),
                    (f"On {written(days[1])}.", f"{second} answered on {written(days[1])}."),
                ),
            )
        ),
        Question(
            (f"does {{file}} say {missing}?", f"what does {{file}} say about {topic}?"),
            (f"No, the mails do not say {missing}.", f"They say nothing about {topic}."),
        ),
        Question(
            ("sum up {file} in a sentence", "what is {file} about?"),
            (
                f"{first} asks {second} to {done} by {deadline}, {second} agrees, and "
                f"{answer[:1].lower()}{answer[1:]}",
            ),
        ),
    )
    return Notes(
        "\n".join(lines) + "\n", questions, (".txt", ".md", ".eml"), ("mail", "mails", "correspondence", "thread")
    )


def office_letter(title: str, now: Scene) -> Notes:
    """Return a letter with an amount, a deadline and a reference, beside last year's amount and a late fee."""
    words = stock()["office"]
    sender, clerk, matter = now.one(words["senders"]), now.one(words["clerks"]), now.one(words["matters"])
    before = now.random.randrange(40, 300)
    amount, fee = before + now.random.randrange(2, 60), now.one((5, 10, 15, 25))
    deadline, visit = (
        written(now.today + timedelta(days=now.random.randrange(*each))) for each in ((14, 40), (45, 80))
    )
    reference = f"{now.one('ABKRW')}-{now.random.randrange(10000, 99999)}"
    phone, room = f"555-{now.random.randrange(100, 9999):04}", now.random.randrange(2, 400)
    sentences = [
        f"this letter is about {matter}.",
        f"Last year you paid {before} euros.",
        f"This year the amount is {amount} euros.",
        f"Please pay it by {deadline}.",
        f"After that day we add a late fee of {fee} euros.",
        f"An objection is possible until {visit}.",
        f"Questions? Call {phone} or come to room {room}.",
    ]
    split = now.one((" ", "\n"))
    lines = [sender, *([written(now.today)] if now.chance(0.6) else []), f"Reference: {reference}", ""]
    lines += ["Dear Sir or Madam,", "", split.join(sentences[:3]), split.join(sentences[3:6]), ""]
    lines += [sentences[6], "", "Yours sincerely,", clerk]
    missing, thing = now.one(words["absent"])
    questions = (
        Question(
            ("how much do I have to pay according to {file}?", "which amount does {file} ask for?"),
            (f"{amount} euros.", f"You have to pay {amount} euros."),
            (f"how much is {matter} this year?", f"what do I have to pay for {matter}?"),
            matter,
            is_in_line=split == " ",
        ),
        Question(
            ("by when must I pay according to {file}?", "which deadline does {file} set for the payment?"),
            (f"By {deadline}.", f"You must pay by {deadline}."),
            (f"by when must I pay {matter}?", f"what is the deadline for {matter}?"),
            matter,
            is_in_line=False,
        ),
        Question(
            ("what is the reference in {file}?", "which reference number does {file} have?"),
            (f"{reference}.", f"The reference is {reference}."),
            (
                f"what is the reference number of the {sender}?",
                f"I need the reference of the letter of the {sender}",
            ),
            "Reference",
        ),
        Question(
            ("who sent {file}?", "who signed {file}?", "from which office is {file}?"),
            (f"It is from the {sender}, signed by {clerk}.",),
            (f"who wrote to me about {matter}?",),
            matter,
            is_in_line=False,
        ),
        Question(
            ("how much more than last year is it in {file}?", "how much did the amount in {file} rise?"),
            (f"{amount - before} euros more: {amount} instead of {before}.",),
        ),
        Question(
            ("what happens if I pay too late, see {file}", "how high is the late fee in {file}?"),
            (f"A late fee of {fee} euros is added.",),
            ("how high is the late fee?",),
            "late fee",
        ),
        now.one(
            (
                Question(
                    ("whom can I call about {file}?", "which phone number is in {file}?"),
                    (f"The number is {phone}.",),
                ),
                Question(
                    ("until when can I object according to {file}?",),
                    (f"Until {visit}.",),
                    (),
                    "",
                ),
                Question(("in which room is the office of {file}?",), (f"In room {room}.",)),
                Question(
                    (f"does {{file}} say {missing}?", f"{{file}}: what about the {thing}?"),
                    (f"No, the letter does not say {missing}.",),
                ),
            )
        ),
        Question(
            ("sum up {file} in a sentence", "what does the letter in {file} want?"),
            (f"The {sender} wants {amount} euros for {matter} by {deadline}.",),
        ),
    )
    return Notes("\n".join(lines) + "\n", questions, stems=("letter", "bill", "office-letter", "notice"))


def changelog(title: str, now: Scene) -> Notes:
    """Return versions with their changes, the newest on top."""
    words = stock()["changes"]
    project = now.one(words["projects"])
    pool = [f"{verb} {thing}" for verb in ("added", "fixed", "changed") for thing in words[verb]]
    pool = now.some(pool, len(pool))
    version, day = [now.random.randrange(0, 4), now.random.randrange(0, 9), 0], now.today
    lines = heading(now, now.one((f"{project} changelog", f"Changes of {project}", "Changelog")))
    shape = now.one(("## {} ({})", "{} - {}", "Version {}, {}"))
    releases: list[tuple[str, str, list[str]]] = []
    for _ in range(now.random.randrange(3, 6)):
        at = now.one((1, 2, 2))
        version[at] += 1
        version[at + 1 :] = [0] * (2 - at)
        day += timedelta(days=now.random.randrange(9, 90))
        releases.append(
            (".".join(map(str, version)), str(day), [pool.pop() for _ in range(now.random.randrange(1, 5))])
        )
    releases.reverse()
    for name, date, changes in releases:
        lines += [*([""] * (lines[-1] != "")), shape.format(name, date), *(f"- {each}" for each in changes)]
    name, date, changes = now.one(releases)
    change = now.one(changes)
    oldest, newest = releases[-1], releases[0]
    n_changes = [len(each[2]) for each in releases]
    fixed = [each for _, _, several in releases for each in several if each.startswith("fixed")]
    most = releases[n_changes.index(max(n_changes))][0]
    questions = (
        Question(
            (f"when was {name} released according to {{file}}?", f"{{file}}: date of version {name}?"),
            (f"On {date}.", f"Version {name} is of {date}."),
            (f"when was version {name} released?", f"what is the date of version {name}?"),
            name,
        ),
        Question(
            (f"what changed in {name}? See {{file}}", f"which changes does {{file}} list for version {name}?"),
            (f"In {name}: {listed(changes, '; and ')}.",),
            (f"what is new in version {name}?",),
            name,
            is_in_line=False,
        ),
        Question(
            (f"which version {change}? See {{file}}", f"{{file}}: which version {change}?"),
            (f"Version {name}.", f"Version {name} {change}."),
            (f"which version {change}?", f"in which version was this: {change}?"),
            change,
            is_in_line=False,
        ),
        Question(
            ("what is the latest version in {file}?", "which version in {file} is the newest?"),
            (f"{newest[0]}, of {newest[1]}.", f"The newest is {newest[0]}."),
        ),
        Question(
            ("how many versions are in {file}?", "how many releases does {file} list?"),
            counted([each[0] for each in releases], "version", "versions"),
        ),
        Question(
            (f"how many changes does {name} have in {{file}}?", f"{{file}}: number of changes in {name}?"),
            counted(changes, "change", "changes"),
        ),
        Question(
            ("which version is the oldest in {file}?", "what is the first version that {file} has?"),
            (f"{oldest[0]}, of {oldest[1]}.",),
        ),
        Question(("which version in {file} has the most changes?",), (f"{most}, with {max(n_changes)} changes.",))
        if n_changes.count(max(n_changes)) == 1
        else Question(
            ("how many bugs were fixed in {file}?", "how many entries of {file} are fixes?"),
            (f"{listed(fixed)}: {len(fixed)}." if fixed else "None.",),
        ),
    )
    return Notes("\n".join(lines) + "\n", questions, (".md",), ("CHANGELOG", "changelog", "changes", "releases"))


def readme(title: str, now: Scene) -> Notes:
    """Return the README of a program: installation, settings, tests and licence."""
    words = stock()["readme"]
    project = now.one(stock()["changes"]["projects"])
    purpose, licence = now.one(words["purposes"]), now.one(words["licences"])
    values = {
        key: now.one(options) for key, options in now.some(list(words["settings"].items()), now.one((3, 4, 5)))
    }
    version = f"3.{now.random.randrange(9, 14)}"
    install = now.one(
        (f"pip install {project.lower()}", f"uv tool install {project.lower()}", f"pipx install {project.lower()}")
    )
    test = now.one(("pytest", "make test", "python -m unittest"))
    table = now.chance(0.5)
    settings = ["| setting | default |", "|---|---|"] if table else []
    settings += [
        f"| {key} | {value} |" if table else f"- `{key}`: {value} by default" for key, value in values.items()
    ]
    sections = {
        "Installation": [f"{project} needs Python {version} or newer.", "", f"    {install}"],
        "Settings": [f"The settings are in {project.lower()}.ini:", "", *settings],
        "Tests": [f"Run the tests with `{test}`; they take {now.one((2, 5, 8))} minutes."],
        "Licence": [f"{project} is free software under the {licence} licence."],
    }
    order = ["Installation", *now.some(["Settings", "Tests"], 2), "Licence"]
    lines = [f"# {project}", "", f"{project} {purpose}."]
    for name in order:
        lines += ["", f"## {name}", "", *sections[name]]
    key = now.one(list(values))
    missing, _ = now.one(words["absent"])
    absent = now.one([each for each in words["settings"] if each not in values])
    questions = (
        Question(
            (f"how do I install {project}? See {{file}}", "which command installs it according to {file}?"),
            (f"With `{install}`.", f"Run `{install}`."),
            (f"how do I install {project}?", f"which command installs {project}?"),
            "install",
        ),
        Question(
            (f"what is the default of {key} in {{file}}?", f"{{file}}: default {key}?"),
            (f"{values[key]}.", f"The default of {key} is {values[key]}."),
            (f"what is the default {key} of {project}?",),
            key,
        ),
        Question(
            (f"which Python does {project} need? It's in {{file}}", "which Python version does {file} ask for?"),
            (f"Python {version} or newer.",),
            (f"which Python does {project} need?",),
            "Python",
        ),
        Question(
            ("how do I run the tests according to {file}?", f"{{file}}: command for the tests of {project}?"),
            (f"With `{test}`.", f"Run `{test}`."),
            (f"how do I run the tests of {project}?",),
            "tests",
        ),
        Question(
            ("how many settings are in {file}?", "which settings does {file} explain?"),
            counted(list(values), "setting", "settings"),
        ),
        Question(
            ("which licence is in {file}?", f"under which licence is {project}, see {{file}}"),
            (f"{licence}.", f"It is under the {licence} licence."),
            (f"which licence does {project} have?",),
            "licence",
        ),
        now.one(
            (
                Question((f"does {{file}} say {missing}?",), (f"No, the file does not say {missing}.",)),
                Question(
                    (f"is there a setting {absent} in {{file}}?",), (f"No, {absent} is not among its settings.",)
                ),
                Question(("which sections does {file} have?",), (f"{listed(order)}.",)),
            )
        ),
        Question(
            ("what is {file} about?", f"what does {project} do? See {{file}}", "sum up {file} in one sentence"),
            (f"{project} {purpose}.", f"It describes {project}, which {purpose}."),
        ),
    )
    return Notes(
        "\n".join(lines) + "\n",
        questions,
        (".md", ".md", ".txt"),
        ("README", "readme", f"{project.lower()}-readme"),
    )
