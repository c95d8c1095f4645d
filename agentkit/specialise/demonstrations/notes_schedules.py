"""Schedules with questions: rosters, results of a season, journeys, opening hours."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

from agentkit.specialise.demonstrations.domains import PEOPLE
from agentkit.specialise.demonstrations.file_questions import (
    Notes,
    Question,
    added,
    counted,
    heading,
    stock,
    written,
)
from modelstack.data.tools.spoken import Scene, listed

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def roster(title: str, now: Scene) -> Notes:
    """Return a roster of early and late shifts by day."""
    name = now.one(stock()["records"]["duties"])
    days = list(_DAYS[: now.one((5, 6, 7))])
    crew = now.some(PEOPLE, now.one((3, 4, 5)))
    early = [now.one(crew) for _ in days]
    late = [now.one([one for one in crew if one != other]) for other in early]
    shape = now.one(
        (
            "{day}: {early} (early), {late} (late)",
            "- {day}: early {early}, late {late}",
            "{day} | early: {early} | late: {late}",
        )
    )
    lines = heading(now, name)
    rows = zip(days, early, late, strict=True)
    lines += [shape.format(day=day, early=first, late=second) for day, first, second in rows]
    if now.chance(0.5):
        lines += [
            "",
            now.one(("Please swap among yourselves and tell the office.", "Early is 8 to 13, late is 13 to 18.")),
        ]
    at = now.random.randrange(len(days))
    who = now.one(sorted({*early, *late}))
    on = [day for day, *pair in zip(days, early, late, strict=True) if who in pair]
    shifts = Counter([*early, *late])
    most = shifts.most_common(2)
    is_clear = len(most) == 1 or most[0][1] > most[1][1]
    times = {1: "once", 2: "twice"}.get(len(on), f"{len(on)} times")
    lates = [day for day, one in zip(days, late, strict=True) if one == who]
    day = days[at]
    is_on = day in on
    stranger = now.one([one for one in PEOPLE if one not in shifts])
    questions = (
        Question(
            (f"who is on duty on {day}? See {{file}}", f"{{file}}: who works on {day}?"),
            (
                f"On {day} {early[at]} is on early and {late[at]} late.",
                f"{early[at]} (early) and {late[at]} (late).",
            ),
            (f"who is on duty on {day}?", f"who has a shift on {day}?"),
            day,
        ),
        Question(
            (f"who has the late shift on {day} in {{file}}?", f"who is on late on {day} according to {{file}}?"),
            (f"{late[at]} has the late shift on {day}.", f"{late[at]}."),
            (f"who has the late shift on {day}?", f"late shift on {day}: who?"),
            day,
        ),
        Question(
            (f"how often is {who} on in {{file}}?", f"how many shifts does {who} have in {{file}}?"),
            (f"{who} is on {times}: on {listed(on)}.", f"{listed(on)}: {times}."),
            (f"how often is {who} on duty?", f"how many shifts does {who} have?"),
            who,
        ),
        Question(
            (f"on which days is {who} on in {{file}}?", f"when is {who} on duty according to {{file}}?"),
            (f"On {listed(on)}.", f"{who} is on duty on {listed(on)}."),
            (f"when does {who} have duty?", f"on which days is {who} on?"),
            who,
        ),
        Question(
            (f"is {who} on duty on {day}? It's in {{file}}",),
            (f"{'Yes' if is_on else 'No'}, {early[at]} and {late[at]} are on duty on {day}.",),
            (f"is {who} on duty on {day}?", f"does {who} have to come on {day}?"),
            day,
        ),
        Question(
            (f"how many late shifts does {who} have in {{file}}?", f"when is {who} on late in {{file}}?"),
            (f"{listed(lates)}: {len(lates)}." if lates else f"{who} has no late shift.",),
        ),
        Question(
            (f"when is {stranger} on in {{file}}?", f"does {{file}} have {stranger} on any day?"),
            (f"{stranger} is not in it.", f"{stranger} has no shift."),
        ),
        Question(
            ("who has the most shifts in {file}?", "who is on most often in {file}?"),
            (f"{most[0][0]}, with {most[0][1]} shifts.",),
        )
        if is_clear
        else Question(
            ("how many days are in {file}?", "for how many days does {file} name people?"),
            (f"{len(days)} days, {days[0]} to {days[-1]}.",),
        ),
    )
    return Notes("\n".join(lines) + "\n", questions, stems=("roster", "shifts", "duty-roster", "duties"))


def results(title: str, now: Scene) -> Notes:
    """Return the matches of one team, a line each."""
    words = stock()["records"]
    n = now.random.randrange(4, 10)
    team, *others = now.some(words["teams"], n + 1)
    sport = now.one(words["sports"])
    n = len(others)
    day = now.today
    scores = [(now.random.randrange(0, 7), now.random.randrange(0, 7)) for _ in others]
    dates: list[str] = []
    for _ in others:
        day += timedelta(days=now.one((7, 7, 14)))
        dates.append(written(day))
    shape = now.one(
        (
            "{day}: {team} - {other} {a}:{b}",
            "- {day}, {team} v {other}, {a}:{b}",
            "{day}  {team} : {other}  {a}:{b}",
        )
    )
    lines = heading(
        now, now.one((f"{team}: results in {sport}", f"Matches of {team}", f"Results {team}, {sport}"))
    )
    for date, other, (a, b) in zip(dates, others, scores, strict=True):
        lines.append(shape.format(day=date, team=team, other=other, a=a, b=b))
    at = now.random.randrange(n)
    (a, b), other, date = scores[at], others[at], dates[at]
    won = [name for name, (us, them) in zip(others, scores, strict=True) if us > them]
    lost = [name for name, (us, them) in zip(others, scores, strict=True) if us < them]
    goals = [us for us, _ in scores]
    best = max(range(n), key=lambda i: scores[i][0] - scores[i][1])
    margins = sorted((us - them for us, them in scores), reverse=True)
    outside = now.one([name for name in words["teams"] if name not in (team, *others)] or ["Castle Park"])
    end = f"{team} played {{}}:{{}} against {{}} on {{}}."
    questions = (
        Question(
            (
                f"how did {team} play against {other}? See {{file}}",
                f"what was the score against {other} in {{file}}?",
            ),
            (f"{team} played {a}:{b} against {other}.", f"{a}:{b}."),
            (f"how did {team} play against {other}?", f"what was the result against {other}?"),
            other,
        ),
        Question(
            (
                f"when did {team} play {other} according to {{file}}?",
                f"{{file}}: on which day was the match against {other}?",
            ),
            (f"On {date}.", f"They played on {date}."),
            (f"when was the match against {other}?", f"when did {team} play against {other}?"),
            other,
        ),
        Question(
            (f"how many matches did {team} win in {{file}}?", f"which matches in {{file}} did {team} win?"),
            (f"Against {listed(won)}: {len(won)}." if won else f"{team} won none.",),
        ),
        Question(
            (f"how many matches did {team} lose in {{file}}?", f"against whom did {team} lose in {{file}}?"),
            (f"Against {listed(lost)}: {len(lost)}." if lost else f"{team} lost none.",),
        ),
        Question(
            ("how many matches are in {file}?", "how many games does {file} list?"),
            counted(others, "match", "matches"),
        ),
        Question(
            ("what was the last match in {file}?", "how did the last match in {file} end?"),
            (end.format(*scores[-1], others[-1], dates[-1]),),
            tail=1,
        ),
        Question(
            (
                f"did {team} play against {outside}? Look into {{file}}",
                f"is there a match against {outside} in {{file}}?",
            ),
            (f"No, there is no match against {outside}.",),
        ),
        Question(
            (f"what was the highest win of {team} in {{file}}?", f"which was {team}'s clearest win in {{file}}?"),
            (f"{scores[best][0]}:{scores[best][1]} against {others[best]}.",),
        )
        if won and margins[0] > margins[1]
        else Question(
            (f"how many goals did {team} score in {{file}}?", f"add up the goals of {team} in {{file}}"),
            (f"{added(goals)} goals.",),
        ),
    )
    return Notes("\n".join(lines) + "\n", questions, stems=("results", "matches", "season", "scores"))


def itinerary(title: str, now: Scene) -> Notes:
    """Return days with times, and the places of the nights."""
    words = stock()["itinerary"]
    n_days = now.one((2, 3, 3, 4))
    towns, hotels = now.some(words["towns"], n_days), now.some(words["hotels"], n_days - 1)
    things = now.some(words["entries"], len(words["entries"]))
    shape = now.one(("## Day {n}: {town}, {day}", "Day {n} ({day}), {town}", "{day}, day {n}: {town}"))
    join, sign = now.one((" ", ": ", " - ")), now.one(("", "- ", "* "))
    lines = heading(now, now.one(words["titles"]))
    entries: list[tuple[int, str, str]] = []
    for number, town in enumerate(towns):
        lines += [
            *([""] * (lines[-1] != "")),
            shape.format(n=number + 1, town=town, day=written(now.today + timedelta(days=number))),
        ]
        for hour in sorted(now.some(range(7, 21), now.one((2, 3, 4)))):
            entry = (number, f"{hour:02}:{now.one((0, 10, 15, 30, 45)):02}", things.pop())
            entries.append(entry)
            lines.append(f"{sign}{entry[1]}{join}{entry[2]}")
        if number < n_days - 1:
            lines.append(f"Night: {hotels[number]}")
    number, clock, thing = now.one(entries)
    of_day = [f"{each[2]} at {each[1]}" for each in entries if each[0] == number]
    night = now.random.randrange(n_days - 1)
    first = next(each for each in entries if each[0] == number)
    absent = now.one(("what the tickets cost", "who comes along", "which clothes to take"))
    day = written(now.today + timedelta(days=number))
    questions = (
        Question(
            (f"at what time is this in {{file}}: {thing}?", f'{{file}}: when exactly is "{thing}"?'),
            (f"At {clock}.", f"At {clock} on day {number + 1}."),
            (f"at what time is this on our trip: {thing}?", f"{thing}: at what time?"),
            thing,
        ),
        Question(
            (f'on which day is "{thing}" in {{file}}?', f"{{file}}: {thing}, which day is that?"),
            (f"On day {number + 1}, {day}.", f"On {day}, in {towns[number]}."),
            (f'on which day of the trip is "{thing}"?',),
            thing,
            is_in_line=False,
        ),
        Question(
            (f"what is planned on day {number + 1} in {{file}}?", f"what do we do on {day}? See {{file}}"),
            (f"On day {number + 1}: {listed(of_day)}.", f"{listed(of_day)}."),
            (f"what happens on day {number + 1} of the trip?",),
            f"day {number + 1}",
            is_in_line=False,
        ),
        Question(
            (
                f"where do we sleep on day {night + 1} according to {{file}}?",
                f"{{file}}: hotel of night {night + 1}?",
            ),
            (f"At {hotels[night]}." if hotels[night].startswith("the") else f"{hotels[night]}.",),
        ),
        Question(
            (f"in which town are we on {day}? It's in {{file}}", f"{{file}}: which town is day {number + 1}?"),
            (f"In {towns[number]}.", f"On day {number + 1} you are in {towns[number]}."),
            (f"in which town are we on {day}?",),
            day,
        ),
        Question(
            ("how many days does the journey in {file} last?", "for how many days is {file}?"),
            (f"{n_days} days.", f"It lasts {n_days} days."),
        ),
        now.one(
            (
                Question(
                    (
                        "what is the last thing in {file}?",
                        "how does {file} end?",
                        "what is the last entry of {file}?",
                    ),
                    (f"The last entry is {entries[-1][2]} at {entries[-1][1]}.",),
                    tail=1,
                ),
                Question(
                    (f"what comes first on day {number + 1} in {{file}}?",),
                    (f"{first[2]}, at {first[1]}.",),
                ),
            )
        ),
        Question(
            (f"does {{file}} say {absent}?",),
            (f"No, it does not say {absent}.", "No, the file does not say that."),
        ),
    )
    return Notes("\n".join(lines) + "\n", questions, stems=tuple(words["stems"]))


def opening_hours(title: str, now: Scene) -> Notes:
    """Return the opening hours of two places in one file."""
    place = now.one(stock()["hours"])
    lines = heading(now, now.one((f"{place['name']}: opening hours", f"Opening hours, {place['name']}")))
    hours: dict[str, list[tuple[int, int] | None]] = {}
    for part in place["parts"]:
        closed = now.random.randrange(7)
        opens = now.one((7, 8, 9, 10))
        hours[part] = [None if day == closed else (opens + now.one((0, 0, 1)), now.random.randrange(15, 22))
                       for day in range(7)]  # fmt: skip
        lines += [*([""] * (lines[-1] != "")), f"## {part}" if now.chance(0.7) else f"{part}:"]
        join = now.one((" - ", " to ", "-"))
        lines += [
            f"{day}: {f'{each[0]}:00{join}{each[1]}:00' if each else 'closed'}"
            for day, each in zip(_DAYS, hours[part], strict=True)
        ]
    lines += ["", "On public holidays everything is closed."] if now.chance(0.5) else []
    part = now.one(place["parts"])
    said = f"the {part.lower()}"
    known = hours[part]
    closed = next(at for at in range(7) if known[at] is None)
    at = now.one([each for each in range(7) if each != closed])
    opens, closes = known[at] or (0, 0)
    sunday = known[6]
    lengths = {day: each[1] - each[0] for day, each in zip(_DAYS, known, strict=True) if each}
    long = [day for day, length in lengths.items() if length == max(lengths.values())]
    early = [day for day, each in zip(_DAYS, known, strict=True) if each and each[1] < 18]
    day = _DAYS[at]
    questions = (
        Question(
            (f"when is {said} open on {day}? See {{file}}", f"{{file}}: hours of {said} on {day}?"),
            (f"From {opens}:00 to {closes}:00.", f"On {day} {said} is open from {opens}:00 to {closes}:00."),
            (f"when is {said} open on {day}?", f"what are the hours of {said} on {day}?"),
            part,
            is_in_line=False,
        ),
        Question(
            (
                f"until when is {said} open on {day} according to {{file}}?",
                f"when does {said} close on {day}? See {{file}}",
            ),
            (f"Until {closes}:00.", f"It closes at {closes}:00."),
            (f"until when is {said} open on {day}?", f"when does {said} close on {day}?"),
            part,
            is_in_line=False,
        ),
        Question(
            (f"on which day is {said} closed according to {{file}}?", f"{{file}}: when is {said} closed?"),
            (f"On {_DAYS[closed]}.", f"It is closed on {_DAYS[closed]}."),
            (f"on which day is {said} closed?", f"which day is {said} not open?"),
            part,
            is_in_line=False,
        ),
        Question(
            (f"is {said} open on Sunday? Look into {{file}}", f"{{file}}: can I go to {said} on a Sunday?"),
            (f"Yes, from {sunday[0]}:00 to {sunday[1]}:00." if sunday else "No, it is closed on Sunday.",),
            (f"is {said} open on Sunday?",),
            part,
            is_in_line=False,
        ),
        Question(
            (f"how many hours is {said} open on {day} in {{file}}?",),
            (f"{closes - opens} hours, from {opens}:00 to {closes}:00.",),
        ),
        Question(
            (f"on which day is {said} open longest in {{file}}?", f"{{file}}: longest day of {said}?"),
            (f"On {listed(long)}: {max(lengths.values())} hours.",),
        ),
        Question(
            (f"on which days does {said} close before 18:00? It's in {{file}}",),
            (f"On {listed(early)}." if early else "On none.",),
        ),
        Question(
            (f"what does a ticket for {said} cost? See {{file}}", f"does {{file}} give a phone number of {said}?"),
            ("No, the file does not say that; it has only opening hours.",),
        ),
    )
    return Notes("\n".join(lines) + "\n", questions, stems=("opening-hours", "hours", "open", "times"))
