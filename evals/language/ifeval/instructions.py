"""The 25 kinds of instructions of IFEval, each as a check of a reply (Zhou et al. 2023).

The rules are those of google-research's `instruction_following_eval`, including its oddities, so that scores
compare with published ones: for example, a keyword counts inside longer words, and a reply in an undetectable
language counts as obedient. `evals.language.ifeval.parity` compares both item by item. One difference is intended:
a letter to count may be any character, while the original replaces `#` and `!` by a random letter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agentkit.errors import UserError
from evals.language.ifeval.language import is_in_language
from evals.language.ifeval.sentences import count_sentences
from evals.language.ifeval.words import count_capital_words, count_words

Arguments = Mapping[str, Any]
Check = Callable[[str, Arguments], bool]
RELATIONS = ("less than", "at least")
CONSTRAINED_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


@dataclass(frozen=True, slots=True)
class Instruction:
    """Check of one kind of instruction, and the types of its arguments."""

    check: Check
    arguments: Mapping[str, type]


# -- keywords -----------------------------------------------------------------------------------------------


def has_keywords(reply: str, arguments: Arguments) -> bool:
    """Return whether all keywords (regular expressions) occur, in any case, also inside words."""
    return all(re.search(keyword, reply, re.IGNORECASE) for keyword in arguments["keywords"])


def has_keyword_often(reply: str, arguments: Arguments) -> bool:
    """Return whether one keyword occurs less often or at least as often as required."""
    n = len(re.findall(arguments["keyword"].strip(), reply, re.IGNORECASE))
    return compare(n, arguments["relation"], arguments["frequency"])


def lacks_words(reply: str, arguments: Arguments) -> bool:
    """Return whether none of the forbidden words occurs as a whole word."""
    return not any(re.search(rf"\b{word}\b", reply, re.IGNORECASE) for word in arguments["forbidden_words"])


def has_letter_often(reply: str, arguments: Arguments) -> bool:
    """Return whether one letter, in any case, occurs less often or at least as often as required."""
    n = reply.lower().count(arguments["letter"].strip().lower())
    return compare(n, arguments["let_relation"], arguments["let_frequency"])


# -- lengths ------------------------------------------------------------------------------------------------


def has_sentences(reply: str, arguments: Arguments) -> bool:
    """Return whether the number of sentences is below or at least the given number."""
    return compare(count_sentences(reply), arguments["relation"], arguments["num_sentences"])


def has_words(reply: str, arguments: Arguments) -> bool:
    """Return whether the number of words is below or at least the given number."""
    return compare(count_words(reply), arguments["relation"], arguments["num_words"])


def has_paragraphs(reply: str, arguments: Arguments) -> bool:
    """Return whether the number of paragraphs separated by *** is exact and none of them is blank."""
    paragraphs = re.split(r"\s?\*\*\*\s?", reply)
    if any(not paragraph.strip() for paragraph in paragraphs[1:-1]):
        return False
    n_blank = (not paragraphs[0].strip()) + (len(paragraphs) > 1 and not paragraphs[-1].strip())
    return len(paragraphs) - n_blank == arguments["num_paragraphs"]


def has_first_word(reply: str, arguments: Arguments) -> bool:
    """Return whether the number of paragraphs between blank lines is exact and one begins with a given word."""
    paragraphs = reply.split("\n\n")
    n_filled = sum(1 for paragraph in paragraphs if paragraph.strip())
    nth = arguments["nth_paragraph"]
    if nth > n_filled or not paragraphs[nth - 1].strip():
        return False
    word = paragraphs[nth - 1].split()[0].lstrip("'").lstrip('"')
    first = re.split(r"""[.,?!'"]""", word, maxsplit=1)[0].lower()
    return n_filled == arguments["num_paragraphs"] and first == arguments["first_word"].lower()


# -- content and format -------------------------------------------------------------------------------------


def has_placeholders(reply: str, arguments: Arguments) -> bool:
    """Return whether there are at least the given number of [placeholders]."""
    return len(re.findall(r"\[[^\]\n]*\]", reply)) >= arguments["num_placeholders"]


def has_postscript(reply: str, arguments: Arguments) -> bool:
    """Return whether there is a postscript with its marker, in any case, with or without an inner space."""
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    marker = arguments["postscript_marker"].strip()
    pattern = known[marker] if marker in known else marker.lower()
    return re.search(pattern, reply.lower()) is not None


def has_bullets(reply: str, arguments: Arguments) -> bool:
    """Return whether the number of lines that begin with * or - is exact."""
    # Blank lines do not count, but the pattern would take quadratic time on thousands of them.
    text = re.sub(r"\n\s*\n", "\n\n", reply)
    stars = re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(stars) + len(dashes) == arguments["num_bullets"]


def has_constrained_answer(reply: str, _arguments: Arguments) -> bool:
    """Return whether one of the three allowed answers occurs."""
    return any(answer in reply for answer in CONSTRAINED_ANSWERS)


def has_highlights(reply: str, arguments: Arguments) -> bool:
    """Return whether there are at least the given number of parts between single or double asterisks."""
    singles = [part for part in re.findall(r"\*[^\n*]*\*", reply) if part.strip("*").strip()]
    doubles = [part for part in re.findall(r"\*\*[^\n*]*\*\*", reply) if part[2:-2].strip()]
    return len(singles) + len(doubles) >= arguments["num_highlights"]


def has_sections(reply: str, arguments: Arguments) -> bool:
    """Return whether there are at least the given number of numbered sections, such as "Section 1"."""
    n = len(re.findall(rf"\s?{arguments['section_spliter'].strip()}\s?\d+\s?", reply))
    return n >= arguments["num_sections"]


def is_json(reply: str, _arguments: Arguments) -> bool:
    """Return whether the whole reply is JSON, with or without a code fence."""
    text = reply.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def has_title(reply: str, _arguments: Arguments) -> bool:
    """Return whether there is a <<title>> that is not blank."""
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", reply))


# -- the reply as a whole -----------------------------------------------------------------------------------


def has_two_responses(reply: str, _arguments: Arguments) -> bool:
    """Return whether there are two different responses separated by ******."""
    parts = [part.strip() for part in reply.split("******")]
    if not all(parts[1:-1]):
        return False
    filled = [part for part in parts if part]
    return len(filled) == 2 and filled[0] != filled[1]


def repeats_prompt(reply: str, arguments: Arguments) -> bool:
    """Return whether the reply begins with the request, in any case."""
    return reply.strip().lower().startswith(arguments["prompt_to_repeat"].strip().lower())


def ends_with(reply: str, arguments: Arguments) -> bool:
    """Return whether the reply ends with a phrase, in any case; enclosing double quotes are ignored."""
    return reply.strip().strip('"').lower().endswith(arguments["end_phrase"].strip().lower())


def is_quoted(reply: str, _arguments: Arguments) -> bool:
    """Return whether the whole reply is in double quotation marks."""
    text = reply.strip()
    return len(text) > 1 and text[0] == '"' and text[-1] == '"'


def has_capital_words(reply: str, arguments: Arguments) -> bool:
    """Return whether the number of words in capitals is below or at least the given number."""
    return compare(count_capital_words(reply), arguments["capital_relation"], arguments["capital_frequency"])


def is_english_in_capitals(reply: str, _arguments: Arguments) -> bool:
    """Return whether the reply is English and all in capitals."""
    return reply.isupper() and is_in_language(reply, "en")


def is_english_in_small_letters(reply: str, _arguments: Arguments) -> bool:
    """Return whether the reply is English and has no capitals."""
    return reply.islower() and is_in_language(reply, "en")


def has_no_comma(reply: str, _arguments: Arguments) -> bool:
    """Return whether there is no comma."""
    return "," not in reply


def is_in_wanted_language(reply: str, arguments: Arguments) -> bool:
    """Return whether the reply is in a language, given by its ISO 639-1 code."""
    return is_in_language(reply, arguments["language"])


def compare(n: int, relation: str, threshold: int) -> bool:
    """Compare a count with a threshold: "less than" or "at least"."""
    return n < threshold if relation == RELATIONS[0] else n >= threshold


INSTRUCTIONS: dict[str, Instruction] = {
    "keywords:existence": Instruction(has_keywords, {"keywords": list}),
    "keywords:frequency": Instruction(has_keyword_often, {"keyword": str, "relation": str, "frequency": int}),
    "keywords:forbidden_words": Instruction(lacks_words, {"forbidden_words": list}),
    "keywords:letter_frequency": Instruction(
        has_letter_often, {"letter": str, "let_relation": str, "let_frequency": int}
    ),
    "language:response_language": Instruction(is_in_wanted_language, {"language": str}),
    "length_constraints:number_sentences": Instruction(has_sentences, {"relation": str, "num_sentences": int}),
    "length_constraints:number_paragraphs": Instruction(has_paragraphs, {"num_paragraphs": int}),
    "length_constraints:number_words": Instruction(has_words, {"relation": str, "num_words": int}),
    "length_constraints:nth_paragraph_first_word": Instruction(
        has_first_word, {"first_word": str, "num_paragraphs": int, "nth_paragraph": int}
    ),
    "detectable_content:number_placeholders": Instruction(has_placeholders, {"num_placeholders": int}),
    "detectable_content:postscript": Instruction(has_postscript, {"postscript_marker": str}),
    "detectable_format:number_bullet_lists": Instruction(has_bullets, {"num_bullets": int}),
    "detectable_format:constrained_response": Instruction(has_constrained_answer, {}),
    "detectable_format:number_highlighted_sections": Instruction(has_highlights, {"num_highlights": int}),
    "detectable_format:multiple_sections": Instruction(
        has_sections, {"section_spliter": str, "num_sections": int}
    ),
    "detectable_format:json_format": Instruction(is_json, {}),
    "detectable_format:title": Instruction(has_title, {}),
    "combination:two_responses": Instruction(has_two_responses, {}),
    "combination:repeat_prompt": Instruction(repeats_prompt, {"prompt_to_repeat": str}),
    "startend:end_checker": Instruction(ends_with, {"end_phrase": str}),
    "startend:quotation": Instruction(is_quoted, {}),
    "change_case:capital_word_frequency": Instruction(
        has_capital_words, {"capital_relation": str, "capital_frequency": int}
    ),
    "change_case:english_capital": Instruction(is_english_in_capitals, {}),
    "change_case:english_lowercase": Instruction(is_english_in_small_letters, {}),
    "punctuation:no_comma": Instruction(has_no_comma, {}),
}
LANGUAGE_INSTRUCTIONS = frozenset(
    ("language:response_language", "change_case:english_capital", "change_case:english_lowercase")
)


def follows(reply: str, instruction: str, arguments: Arguments) -> bool:
    """Return whether a reply follows an instruction; a blank reply follows none."""
    return bool(reply.strip()) and INSTRUCTIONS[instruction].check(reply, arguments)


def follows_loosely(reply: str, instruction: str, arguments: Arguments) -> bool:
    """Return whether one of the eight variants of a reply follows an instruction."""
    return any(follows(variant, instruction, arguments) for variant in loose_variants(reply))


def loose_variants(reply: str) -> list[str]:
    """Return the reply without its first line, its last, both or neither, each with and without asterisks."""
    lines = reply.split("\n")
    cut = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    return [variant for text in (reply, *cut) for variant in (text, text.replace("*", ""))]


def check_arguments(instruction: str, arguments: Arguments, where: str) -> None:
    """Check that an instruction is known and has valid arguments.

    Raises:
        UserError: names `where`, the instruction and the argument.
    """
    if instruction not in INSTRUCTIONS:
        raise UserError(f"{where}: there is no instruction {instruction!r}.")
    for name, kind in INSTRUCTIONS[instruction].arguments.items():
        value = arguments.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UserError(f"{where}: {instruction} needs {name!r} as {kind.__name__}, not {value!r:.80}.")
        if name.endswith("relation") and value not in RELATIONS:
            raise UserError(f"{where}: {instruction} has {name}={value!r}; it must be one of {RELATIONS}.")
        patterns = value if isinstance(value, list) else [value]
        for pattern in patterns if name in ("keywords", "keyword", "forbidden_words", "section_spliter") else ():
            _check_pattern(pattern, f"{where}: {instruction}, {name}")
    if instruction == "length_constraints:nth_paragraph_first_word":
        nth, n = arguments["nth_paragraph"], arguments["num_paragraphs"]
        if not 1 <= nth <= n:
            raise UserError(f"{where}: nth_paragraph={nth} must be within 1 and num_paragraphs={n}.")
    if instruction == "keywords:letter_frequency" and len(arguments["letter"].strip()) != 1:
        raise UserError(f"{where}: letter={arguments['letter']!r} must be one character.")


def _check_pattern(pattern: Any, where: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise UserError(f"{where}: {pattern!r:.80} is not a regular expression: {error}.") from error
