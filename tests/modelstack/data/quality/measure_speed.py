"""Measures documents per CPU second of FineWeb's four filters, ours and datatrove's, at equal decisions: run by
hand.

    python -m tests.modelstack.data.quality.measure_speed ENVIRONMENT

On the real ones of `judged_documents`, one process each, `time.process_time`. "each" asks all four about every
text as it was; "in order" is FineWeb's pipeline: the first that drops a text is the last that sees it, and C4's
text is what the one behind it sees. Loading is not counted; ours starts with empty caches.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Judge = Callable[[Any], str | None]


def main() -> None:
    """Print both sides and the ratio."""
    from evals.speed.peers import peer_python
    from modelstack.data.documents import Document
    from modelstack.data.quality import C4, FineWebQuality, GopherQuality, GopherRepetition
    from tests.modelstack.data.quality.judged_documents import DAMAGES, PER_DAMAGE, judged_documents
    from tests.modelstack.data.quality.record_datatrove import PACKAGES

    documents = judged_documents()
    texts = [text for _, text in documents[: -len(DAMAGES) * PER_DAMAGE - 4]]
    rules = (GopherRepetition(), GopherQuality(), C4(require_line_end=False), FineWebQuality())
    ours = measured(texts, [rule.build() for rule in rules], lambda text: Document(id="", text=text))
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "asked.json", Path(folder) / "answered.json"
        asked.write_text(json.dumps(texts), encoding="utf-8")
        python = peer_python(Path(sys.argv[1]), PACKAGES)
        subprocess.run([str(python), __file__, "--peer", str(asked), str(answered)], check=True)
        theirs = json.loads(answered.read_text(encoding="utf-8"))
    n_characters = sum(map(len, texts))
    print(f"{len(texts)} documents, {n_characters / 1e6:.1f} M characters")
    for way in ("each", "in order"):
        assert ours[way]["reasons"] == theirs[way]["reasons"]
        seconds = ours[way]["seconds"], theirs[way]["seconds"]
        rates = [
            f"{len(texts) / s:,.0f} documents/s ({n_characters / 1e6 / s:.2f} M characters/s)" for s in seconds
        ]
        print(f"{way}: ours {rates[0]}, datatrove {rates[1]}: {seconds[1] / seconds[0]:.1f} x")


def measured(texts: Sequence[str], judges: Sequence[Judge], new: Callable[[str], Any]) -> dict[str, Any]:
    """Return seconds and reasons of both ways."""
    for judge in judges:
        judge(new("A few words, so that what is loaded late is loaded. It isn't much."))
    begin = time.process_time()
    each = [_asked_all(text, judges, new) for text in texts]
    middle = time.process_time()
    in_order = [next(filter(None, (judge(document) for judge in judges)), None) for document in map(new, texts)]
    end = time.process_time()
    return {
        "each": {"seconds": middle - begin, "reasons": each},
        "in order": {"seconds": end - middle, "reasons": in_order},
    }


def _asked_all(text: str, judges: Sequence[Judge], new: Callable[[str], Any]) -> list[str | None]:
    document = new(text)
    reasons: list[str | None] = []
    for judge in judges:
        reasons.append(judge(document))
        if document.text is not text:
            document = new(text)
    return reasons


def peer(asked: Path, answered: Path) -> None:
    """Measure datatrove; runs in its environment."""
    from datatrove.data import Document  # pyright: ignore[reportMissingImports]
    from datatrove.pipeline import filters as f  # pyright: ignore[reportMissingImports]

    def judge_of(judging: Any) -> Judge:
        def judge(document: Any) -> str | None:
            result = judging.filter(document)
            return None if result is True else result[1]

        return judge

    filters = (
        f.GopherRepetitionFilter(),
        f.GopherQualityFilter(),
        f.C4QualityFilter(filter_no_terminal_punct=False),
        f.FineWebQualityFilter(),
    )
    texts = json.loads(asked.read_text(encoding="utf-8"))
    answer = measured(texts, [judge_of(x) for x in filters], lambda text: Document(text=text, id=""))
    answered.write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "--peer":
        peer(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
