"""Checks whether an answer gives a new user what was asked: facts, clock, small talk, or a refusal in words.

Facts are judged as in `mcp-tasks` (`executed.answers`), with room for longer answers, because `agentkit chat` does
not ask for brevity. Times are normalised from any usual form before they are compared: 2:05 pm, 14:05,
2026-06-01T14:05:00.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from evals.tool_use.executed.answers import AnswerBounds, answer_problem, number_of, tokens_of
from evals.tool_use.executed.task import NumberAnswer, WordsAnswer
from evals.tool_use.first_hour.request import ClockCheck, DeclineCheck, Request, RoundedCheck, TalkCheck

BOUNDS = AnswerBounds(max_chars=600, max_lines=12, max_other_numbers=6)
"""Room for a list of ten entries with a line before and after it; the household has over 5,000 characters."""
NUMBER_BOUNDS = AnswerBounds(max_chars=600, max_lines=4, max_other_numbers=4)
"""Bounds of a numeric answer, which needs no list."""
MINUTE = timedelta(minutes=1)
Clock = tuple[datetime, datetime]
"""Start and end of a run."""

UNSURE = (
    *("not sure", "unsure", "unclear", "don't understand", "do not understand", "can't help", "cannot help"),
    *("unable to", "no tool fits"),
)
"""Phrases of uncertainty; an answer with one of them is not small talk."""
DECLINES = (
    *("can't", "cannot", "can not", "couldn't", "could not", "unable", "not able", "not possible", "impossible"),
    *("not capable", "don't have", "do not have", "no tool", "none of my tools", "no access", "no way to"),
    *("not available", "not supported", "not something i", "doesn't exist", "does not exist", "didn't find"),
    *("did not find", "no file", "no match", "no such", "there is no", "there's no", "there isn't", "not found"),
    *("isn't there", "is not there", "not present", "beyond what"),
)
"""Phrases that say that something cannot be done or does not exist."""
NOT_DONE = (
    "can't",
    "cannot",
    "couldn't",
    "could not",
    "unable",
    "not able",
    "not possible",
    "not found",
    "no such",
)
"""Phrases that contradict a report of success."""

_MOMENT = re.compile(r"\b(\d{4}-\d{2}-\d{2})[Tt](\d{2}:\d{2}(?::\d{2})?)(?:[+-]\d{2}:?\d{2}|Z)?")
_CLOCK_TIME = re.compile(
    r"\b(?P<hour>\d{1,2})(?:[:.](?P<minute>[0-5]\d)(?::[0-5]\d)?)?\s?(?P<half>[ap])\.?\s?m\b\.?"
    r"|\b(?P<hour24>\d{1,2}):(?P<minute24>[0-5]\d)(?::[0-5]\d)?\b",
    re.IGNORECASE,
)


def check_problem(request: Request, text: str, clock: Clock) -> str | None:
    """Return the first error in `text` as an answer to a request, or None if the answer is correct."""
    if not text.strip():
        return "there is no answer"
    check, text = request.check, with_plain_times(text)
    match check:
        case NumberAnswer():
            return answer_problem(check, text, request.request, NUMBER_BOUNDS)
        case WordsAnswer():
            return answer_problem(check, text, request.request, BOUNDS)
        case RoundedCheck():
            return _rounded_problem(check, text, request.request)
        case ClockCheck():
            return answer_problem(clock_answer(check, clock), text, request.request, BOUNDS)
        case TalkCheck():
            return _talk_problem(check, text, request.request)
        case DeclineCheck():
            return _decline_problem(check, text)
        case _:
            return _done_problem(text, request.request)


def with_plain_times(text: str) -> str:
    """Normalise every time of day to 14:05, and an ISO timestamp to its date and time."""
    return _CLOCK_TIME.sub(_plain_time, _MOMENT.sub(r"\1 \2", text))


def _plain_time(match: re.Match[str]) -> str:
    hour, minute = int(match["hour"] or match["hour24"]), match["minute"] or match["minute24"] or "00"
    if match["half"] is not None:
        if not 1 <= hour <= 12:
            return match[0]
        hour = hour % 12 + (12 if match["half"].lower() == "p" else 0)
    return f"{hour:02}:{minute}" if hour < 24 else match[0]


def clock_answer(check: ClockCheck, clock: Clock) -> WordsAnswer:
    """Return the answer that is correct at the time of a run."""
    zone = ZoneInfo(check.zone)
    began, ended = (at.astimezone(zone) + timedelta(days=check.days_ahead) for at in clock)
    minutes = [began - MINUTE + n * MINUTE for n in range(int((ended - began) / MINUTE) + 3)]
    said = dict.fromkeys(form for at in minutes for form in forms(check, at))
    if check.asks == "weekday":
        week = [forms(check, began + timedelta(days=day))[0] for day in range(7)]
        return WordsAnswer((tuple(said),), tuple(name for name in week if name not in said))
    return WordsAnswer((tuple(said),), ())


def forms(check: ClockCheck, at: datetime) -> tuple[str, ...]:
    """Return the usual ways to write the requested part of a moment, the plainest first."""
    if check.asks == "weekday":
        return (f"{at:%A}",)
    if check.asks == "time":
        return (f"{at:%H:%M}",)
    day, ordinal = str(at.day), _ordinal(at.day)
    months = (f"{at:%B}", f"{at:%b}")
    return (
        *(way for month in months for way in (f"{day} {month}", f"{month} {day}", f"{ordinal} {month}")),
        *(way for month in months for way in (f"{month} {ordinal}", f"{ordinal} of {month}", f"{day} of {month}")),
        *(f"{at:{pattern}}" for pattern in ("%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y")),
        f"{at.day}.{at.month}.{at.year}",
    )


def _ordinal(day: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(day % 10 if day // 10 != 1 else 0, "th")
    return f"{day}{ending}"


def _rounded_problem(check: RoundedCheck, text: str, prompt: str) -> str | None:
    numbers = [value for token in tokens_of(text) if (value := number_of(token)) is not None]
    near = [value for value in numbers if abs(value - check.value) <= check.within]
    if not near:
        return f"{check.value:g} is not in it, give or take {check.within:g}"
    answer = NumberAnswer(near[0], tuple(value for value in check.forbidden if value not in near))
    return answer_problem(answer, text, prompt, NUMBER_BOUNDS)


def _talk_problem(check: TalkCheck, text: str, prompt: str) -> str | None:
    if len(text) > BOUNDS.max_chars:
        return f"the answer has {len(text)} characters, more than {BOUNDS.max_chars}"
    if (unsure := mentioned(text, UNSURE)) is not None:
        return f"it says {unsure!r}"
    theirs = {token.text for token in tokens_of(prompt)}
    n_new = len({token.text for token in tokens_of(text)} - theirs)
    if n_new < check.min_new_words:
        return f"it has {n_new} words of its own, fewer than {check.min_new_words}"
    if check.mentions and mentioned(text, check.mentions) is None:
        return f"it mentions none of {', '.join(check.mentions)}"
    return None


def _decline_problem(check: DeclineCheck, text: str) -> str | None:
    if len(text) > BOUNDS.max_chars:
        return f"the answer has {len(text)} characters, more than {BOUNDS.max_chars}"
    if mentioned(text, DECLINES) is None:
        return "it does not say that this cannot be done"
    claim = mentioned(text, check.claims)
    return None if claim is None else f"it claims {claim!r}"


def _done_problem(text: str, prompt: str) -> str | None:
    if [token.text for token in tokens_of(text)] == [token.text for token in tokens_of(prompt)]:
        return "it is the request again"
    refusal = mentioned(text, NOT_DONE)
    return None if refusal is None else f"it says {refusal!r} although it is done"


def mentioned(text: str, beginnings: Sequence[str]) -> str | None:
    """Return the first of `beginnings` (of words) that occurs in the text, or None."""
    folded = " ".join(text.casefold().replace("\u2019", "'").split())
    return next((each for each in beginnings if re.search(rf"(?<!\w){re.escape(each)}", folded)), None)
