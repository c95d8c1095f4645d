"""Checks whether an answer states the requested facts, and no facts of neighbouring entries.

Numbers and words are judged as in `mcp-tasks` (`executed.answers`); times and answer length as in `first-hour`.
This module adds dates in any usual form, and the statement that a document does not contain something.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import date

from evals.tool_use.executed.answers import answer_problem
from evals.tool_use.executed.task import Answer, NumberAnswer, WordsAnswer
from evals.tool_use.first_hour.checking import BOUNDS, mentioned, with_plain_times
from evals.tool_use.long_results.question import DateAnswer, Fact, Question, UnstatedAnswer

_STATING = (
    r"say|stat|mention|specif|list|giv|includ|contain|provid|record|show|cover|describ|defin|document|name|note"
    r"|report|indicat|appear|exist|tell|found|find|present|available|know|part of|in the|there|set out|have"
)
"""Beginnings of verbs that express that a document states something."""
_SUBJECT = r"mention|information|entry|entries|record|such|data|detail|reference|line|section|clause"
_UNSTATED = re.compile(
    rf"\b(?:not|n't|cannot|never)(?: \S+){{0,2}} (?:{_STATING})"
    rf"|\bno (?:{_SUBJECT})"
    rf"|\bno (?:\S+ ){{1,6}}(?:{_STATING})"
    r"|\b(?:has|holds|contains|shows|lists|includes|gives|provides|mentions|states|names) no\b"
    r"|\bthere (?:is|are|was|were) (?:no\b|n't|not)|\bthere's no\b"
    rf"|\bonly (?:has|goes|runs|{_STATING})"
    r"|\bnothing\b|\bunspecified|\bunstated|\bunknown|\bis missing|\babsent|\b(?:cannot|n't) be determined"
)
"""Phrases that say that a document does not state something."""
_NO_ACCESS = re.compile(r"\b(?:no|have|not|n't|cannot|unable to) (?:any |direct )?access\b")
"""Phrases about access to the document, not about its content."""

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th|\.)?"
_YEAR = r"(?:,?\s+(?P<year>\d{4}))?"
_DAYS = (
    re.compile(r"\b(?P<year>\d{4})[-/](?P<month>\d{1,2})[-/](?P<day>\d{1,2})\b"),
    re.compile(r"\b(?P<day>\d{1,2})[./](?P<month>\d{1,2})[./](?P<year>\d{4})\b"),
    re.compile(rf"\b{_DAY}(?:\s+of)?\s+{_MONTH}{_YEAR}(?!\w)", re.IGNORECASE),
    re.compile(rf"\b{_MONTH}\s+(?:the\s+)?{_DAY}{_YEAR}(?!\w)", re.IGNORECASE),
)


def facts_problem(question: Question, text: str) -> str | None:
    """Return the first error in `text` as an answer to a question, or None if the answer is correct."""
    if not text.strip():
        return "there is no answer"
    plain = with_plain_times(text)
    problems = (_fact_problem(fact, plain, question.request) for fact in question.facts)
    return next((problem for problem in problems if problem is not None), None)


def says_unstated(text: str) -> bool:
    """Return whether an answer says that a document does not state something."""
    folded = " ".join(text.casefold().replace("\u2019", "'").replace("n't", " n't").split())
    return _UNSTATED.search(folded) is not None and _NO_ACCESS.search(folded) is None


def with_plain_days(text: str, known: Sequence[date]) -> str:
    """Normalise every date to 2026-03-14; if a date is ambiguous, a reading among `known` is preferred."""
    for pattern in _DAYS:
        text = pattern.sub(lambda match: _plain_day(match, known), text)
    return text


def _fact_problem(fact: Fact, text: str, prompt: str) -> str | None:
    match fact:
        case NumberAnswer() | WordsAnswer():
            return answer_problem(fact, text, prompt, BOUNDS)
        case DateAnswer():
            known = (fact.value, *fact.forbidden)
            return answer_problem(_as_words(fact), with_plain_days(text, known), prompt, BOUNDS)
        case UnstatedAnswer():
            return _unstated_problem(fact, text)


def _as_words(fact: DateAnswer) -> Answer:
    return WordsAnswer(((fact.value.isoformat(),),), tuple(day.isoformat() for day in fact.forbidden))


def _unstated_problem(fact: UnstatedAnswer, text: str) -> str | None:
    if len(text) > BOUNDS.max_chars:
        return f"the answer has {len(text)} characters, more than {BOUNDS.max_chars}"
    if not says_unstated(text):
        return "it does not say that the document does not state this"
    stated = mentioned(text, fact.forbidden)
    return None if stated is None else f"it states {stated!r} as well"


def _plain_day(match: re.Match[str], known: Sequence[date]) -> str:
    readings = list(_readings(match, known))
    if not readings:
        return match[0]
    return next((day for day in readings if day in known), readings[0]).isoformat()


def _readings(match: re.Match[str], known: Sequence[date]) -> Iterator[date]:
    """Yield the possible readings of a date: a missing year is one of `known`, and 3/4/2026 has two readings."""
    years = [int(match["year"])] if match["year"] else [day.year for day in known]
    first, second = int(match["day"]), _month(match["month"])
    pairs = [(first, second), (second, first)] if match["month"].isdigit() else [(first, second)]
    for year in years:
        for day, month in pairs:
            try:
                yield date(year, month, day)
            except ValueError:
                continue


def _month(name: str) -> int:
    return int(name) if name.isdigit() else _MONTHS.index(name[:3].casefold()) + 1
