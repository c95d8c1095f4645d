"""Real requests with real answers, from sets whose licence lets weights be shipped.

They are the refusal judge's rows of compliance, the content of replies made by rule, and, shuffled, its answers to
another question. Some sets have requests: seed tasks of Self-Instruct, word problems, textbook questions with
their answers. Others are documents whose heading or first line is turned into a request: textbook sections, manual
pages, snippets of code.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from modelstack.align.guards.refusal_signs import has_sign, plain
from tools.classifiers.data_files import SOURCES, Source, read_records, read_source
from tools.refusal_judge.reply_grammar import Exchange

SEED_TASKS = Source("posttrain/sft/self_instruct_seed_tasks.jsonl", "Apache-2.0", "yizhongw/self-instruct")
"""Tasks with their inputs and outputs; the source "self_instruct" has the instructions alone."""
SNIPPETS = Source(SOURCES["codedocs"].path, "CC0-1.0", "30-seconds/30-seconds-of-code, the only part of it used")
N_EXCHANGES: Mapping[str, int] = {
    "gsm8k": 350,
    "mbpp": 80,
    "textbook_questions": 350,
    "textbook_sections": 250,
    "howto": 150,
    "codedocs": 80,
}
"""Largest number of exchanges by set; all seed tasks are taken. The files have far more documents than
questions."""
MBPP_TRAIN = range(601, 975)
_CALCULATOR = re.compile(r"<<[^<>]*>>")
_HEADING = re.compile(r"[A-Z][^.?!:;\n=\\$]{3,60}")
_ANSWERED_BOOKS = frozenset({"openstax-anatomy-physiology", "openstax-psychology", "openstax-us-history"})
"""Books that print an answer below each question; the others ask question after question."""
_QUESTION_SECTION = re.compile(r"(?:Critical Thinking|Interactive Link) Questions?")
_GLOSSARY_ENTRY = re.compile(r"[^.:]{3,40}:")
_SECTION_REQUESTS = (
    "Explain {}.",
    "What should I know about {}?",
    "Tell me about {}",
    "Write a short text about {}.",
    "{}?",
    "Can you tell me something about {}?",
    "what is {}",
    "Summarize what is known about {}.",
)
_MANUAL_REQUESTS = (
    "How do I use {}?",
    "What does the command {} do?",
    "Show me examples of {} on the command line.",
    "give me a short manual of {}",
)
_SNIPPET = re.compile(r"(?P<does>[A-Z][a-z]+s [^\n]{10,150})\.\n\n(?P<rest>.{80,})", re.DOTALL)
MIN_SECTION_CHARACTERS = 200
MAX_SECTION_CHARACTERS = 1500


def exchanges(folder: Path) -> list[Exchange]:
    """Return the exchanges of all sets; the same files give the same exchanges.

    Args:
        folder: The data folder, below which `Source.path` lies.

    Raises:
        UserError: a file is missing or broken.
    """
    books = list(read_source(folder, "textbooks"))
    sets: dict[str, Iterable[Exchange]] = {
        "seed_tasks": seed_tasks(read_records(folder / SEED_TASKS.path)),
        "gsm8k": word_problems(read_source(folder, "gsm8k")),
        "mbpp": programs(read_source(folder, "mbpp")),
        "textbook_questions": textbook_questions(books),
        "textbook_sections": textbook_sections(books),
        "howto": manual_pages(read_source(folder, "howto")),
        "codedocs": snippets(read_source(folder, "codedocs")),
    }
    found: list[Exchange] = []
    for name, all_of_it in sets.items():
        shuffled = list(all_of_it)
        random.Random(0).shuffle(shuffled)
        usable = (exchange for exchange in shuffled if not refuses(exchange.answer))
        found += islice(usable, N_EXCHANGES.get(name))
    return found


def refuses(answer: str) -> bool:
    """Return whether a sentence of an answer refuses; such an answer is not compliance."""
    return has_sign(plain(answer), "refuses")


def seed_tasks(records: Iterable[Mapping[str, Any]]) -> Iterator[Exchange]:
    """Yield Self-Instruct's tasks, the input below the instruction."""
    for record in records:
        for instance in record["instances"]:
            yield Exchange(f"{record['instruction']}\n{instance['input']}".strip(), instance["output"].strip())


def word_problems(records: Iterable[Mapping[str, Any]]) -> Iterator[Exchange]:
    """Yield GSM8K's problems with their solutions, without the calculator's marks and the bare result."""
    for record in records:
        yield Exchange(record["question"], _CALCULATOR.sub("", record["answer"].split("\n####", 1)[0]))


def programs(records: Iterable[Mapping[str, Any]]) -> Iterator[Exchange]:
    """Yield MBPP's training tasks with their programs."""
    for record in records:
        if record["task_id"] in MBPP_TRAIN:
            code = record["code"].replace("\r\n", "\n").strip()
            yield Exchange(record["text"], f"```python\n{code}\n```")


def textbook_questions(records: Iterable[Mapping[str, Any]]) -> Iterator[Exchange]:
    """Yield questions at the end of chapters with the answers printed below them."""
    for record in records:
        if record["source"] not in _ANSWERED_BOOKS:
            continue
        section = ""
        paragraphs = _paragraphs(record["text"])
        for asked, said in zip(paragraphs, paragraphs[1:], strict=False):
            if _HEADING.fullmatch(asked):
                section = asked
            is_question = asked.endswith("?") and 30 <= len(asked) <= 250
            is_answer = len(said) >= 40 and not said.endswith("?") and not said.startswith("-")
            if not (is_question and is_answer) or not _QUESTION_SECTION.fullmatch(section):
                continue
            if not _GLOSSARY_ENTRY.match(said):
                yield Exchange(asked, said)


def textbook_sections(records: Sequence[Mapping[str, Any]]) -> Iterator[Exchange]:
    """Yield headings turned into requests, with the first paragraphs below them.

    Headings that come more than twice ("Summary", "Teacher Support") name no topic.
    """
    times = Counter(p for record in records for p in _paragraphs(record["text"]) if _HEADING.fullmatch(p))
    draw = random.Random(0)
    for record in records:
        paragraphs = _paragraphs(record["text"])
        for i, heading in enumerate(paragraphs[:-1]):
            if not 1 <= times[heading] <= 2:
                continue
            text = _opening(paragraphs[i + 1 :], draw.randint(1, 4))
            if len(text) >= MIN_SECTION_CHARACTERS:
                topic = heading.lower() if heading.isupper() else heading
                yield Exchange(draw.choice(_SECTION_REQUESTS).format(topic), text)


def manual_pages(records: Iterable[Mapping[str, Any]]) -> Iterator[Exchange]:
    """Yield tldr pages with at least two examples; the command's name put as a question."""
    draw = random.Random(0)
    for record in records:
        title, _, page = record["text"].partition("\n")
        if title.startswith("# ") and page.count("\n- ") >= 2:
            text = page.replace("\n> ", "\n").replace("{{", "").replace("}}", "").strip()
            yield Exchange(draw.choice(_MANUAL_REQUESTS).format(title[2:].strip()), text)


def snippets(records: Iterable[Mapping[str, Any]]) -> Iterator[Exchange]:
    """Yield 30 seconds of code: what a snippet does put as a request ("Write a function that ...")."""
    for record in records:
        found = _SNIPPET.match(record["text"])
        if record["source"] == "30-seconds-of-code" and found:
            does = found["does"][0].lower() + found["does"][1:]
            yield Exchange(f"Write a function that {does}.", found["rest"].strip())


def _paragraphs(text: str) -> list[str]:
    return [paragraph for piece in text.split("\n\n") if (paragraph := piece.strip())]


def _opening(paragraphs: Sequence[str], n: int) -> str:
    """Return up to `n` paragraphs until the next heading, cut at a paragraph's end where they get long."""
    taken: list[str] = []
    for paragraph in paragraphs[:n]:
        if _HEADING.fullmatch(paragraph) or len("".join(taken)) + len(paragraph) > MAX_SECTION_CHARACTERS:
            break
        taken.append(paragraph)
    return "\n\n".join(taken)
