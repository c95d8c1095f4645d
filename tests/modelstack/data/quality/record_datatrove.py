"""Records what datatrove 0.10.1 finds and decides on `judged_documents`: run by hand.

    python -m tests.modelstack.data.quality.record_datatrove ENVIRONMENT

ENVIRONMENT is a folder; if there is none with datatrove in it, it is made. The answers lie beside this file, for
`test_quality_parity.py`: of texts, words and sentences a few characters of a hash each, of reasons a letter each.
A filter that fails on a document, for dividing by zero, is recorded with the error's name.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).with_name("datatrove-0.10.1.json")
PACKAGES = ("datatrove[processing]==0.10.1", "spacy==3.8.18", "xxhash<4")
UNCHANGED = "------"


def main() -> None:
    """Write what datatrove answers."""
    from evals.speed.peers import peer_python
    from tests.modelstack.data.quality.judged_documents import BAD_WORDS, judged_documents

    python = peer_python(Path(sys.argv[1]), PACKAGES)
    documents = judged_documents()
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "asked.json", Path(folder) / "answered.json"
        asked.write_text(
            json.dumps({"texts": [text for _, text in documents], "bad_words": BAD_WORDS}), encoding="utf-8"
        )
        subprocess.run([str(python), __file__, "--judge", str(asked), str(answered)], check=True)
        RECORDED.write_text(answered.read_text(encoding="utf-8"), encoding="utf-8")


def judge(asked: Path, answered: Path) -> None:
    """Ask every filter about every text; runs in datatrove's environment."""
    from datatrove.data import Document  # pyright: ignore[reportMissingImports]
    from datatrove.utils.text import split_into_sentences, split_into_words  # pyright: ignore[reportMissingImports]

    question = json.loads(asked.read_text(encoding="utf-8"))
    texts: list[str] = question["texts"]
    filters = _filters(question["bad_words"])
    answers: dict[str, Any] = {
        "texts": "".join(short_hash(text) for text in texts),
        "words": "".join(short_hash("\n".join(split_into_words(text))) for text in texts),
        "sentences": "".join(short_hash("\0".join(split_into_sentences(text))) for text in texts),
        "reasons": {},
        "changed": {},
    }
    for name, judging in filters.items():
        reasons: list[str] = []
        changed = ""
        for text in texts:
            document = Document(text=text, id="")
            try:
                result = judging.filter(document)
            except ZeroDivisionError as error:
                result = (False, type(error).__name__)
            reasons.append("" if result is True else result[1])
            changed += short_hash(document.text) if document.text != text else UNCHANGED
        legend = sorted(set(reasons))
        answers["reasons"][name] = {
            "legend": legend,
            "documents": "".join(chr(97 + legend.index(r)) for r in reasons),
        }
        if changed.strip(UNCHANGED):
            answers["changed"][name] = changed
    answered.write_text(json.dumps(answers, indent=0, ensure_ascii=True) + "\n", encoding="utf-8")


def _filters(bad_words: list[str]) -> dict[str, Any]:
    import re

    from datatrove.pipeline import filters as f  # pyright: ignore[reportMissingImports]
    from datatrove.pipeline.filters.c4_filters import C4BadWordsFilter  # pyright: ignore[reportMissingImports]

    bad = C4BadWordsFilter()
    # As it builds it from the list that it downloads.
    bad._badwords_regex["en"] = re.compile(
        r"(?:\W|^)({})(?:\W|$)".format("|".join(re.escape(word.lower()) for word in bad_words))
    )
    return {
        "gopher_repetition": f.GopherRepetitionFilter(),
        "gopher_quality": f.GopherQualityFilter(),
        "c4": f.C4QualityFilter(),
        "c4 of FineWeb": f.C4QualityFilter(filter_no_terminal_punct=False),
        "c4 of sentences": f.C4QualityFilter(split_paragraph=False),
        "c4_paragraphs": f.C4ParagraphFilter(),
        "c4_bad_words": bad,
        "fineweb_quality": f.FineWebQualityFilter(),
        "fineweb_quality of FineWeb-2": f.FineWebQualityFilter(char_duplicates_ratio=0.1),
    }


def short_hash(text: str) -> str:
    """Return a few characters that differ where texts do."""
    return hashlib.sha256(text.encode()).hexdigest()[:6]


if __name__ == "__main__":
    if sys.argv[1] == "--judge":
        judge(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
