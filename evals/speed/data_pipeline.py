"""Documents per second of FineWeb's recipe, from text to signature, and its agreement with datatrove.

Both programs apply the same steps to the same texts, one document at a time in one process: Gopher's repetition
and quality rules, C4's rules except the one on line ends, FineWeb's rules, removal of private data (e-mail and
public IP addresses), and a MinHash signature for each kept text. Extraction is excluded because it would measure
another library; language identification because datatrove downloads its model. CPU time is measured. The programs
alternate in their own processes; the figure is the median of `--repeats` passes. A decision is the reason for
dropping a text, or none.

    python -m evals.speed.data_pipeline
    python -m evals.speed.data_pipeline --only modelstack     # no peer, no environment
"""

# pyright: reportMissingImports=false
# The peer is installed in a separate environment.
from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evals.speed.peers import peer_python, printed_by
from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, write_result

MODULE = "evals.speed.data_pipeline"
PEERS = ("datatrove[processing]==0.10.1", "spacy>=3.8,<3.9", "xxhash<4")
MIN_CHARS = 1500
"""Minimum length of a page; the corpus also has many entries of a line or two."""
LIMIT_SPEED = 3.0
OURS, PEER = "modelstack", "datatrove"

Decide = Callable[[str], str]
"""Returns the reason to drop a text, or "" to keep it."""


def modelstack_recipe() -> Decide:
    """Return the decision function of modelstack's steps."""
    from modelstack.data.dedup import MinHash, MinHashConfig
    from modelstack.data.documents import Document
    from modelstack.data.privacy.step import Privacy
    from modelstack.data.quality import C4, FineWebQuality, GopherQuality, GopherRepetition

    configs = (
        GopherRepetition(),
        GopherQuality(),
        C4(require_line_end=False),
        FineWebQuality(),
        Privacy(kinds=("email", "ip")),
    )
    steps = [config.build() for config in configs]
    minhash = MinHash(MinHashConfig())

    def decide(text: str) -> str:
        document = Document("", text)
        for step in steps:
            if (reason := step(document)) is not None:
                return reason
        minhash.signature(minhash.prepared(document.text))
        return ""

    return decide


def datatrove_recipe() -> Decide:
    """Return the decision function of datatrove's blocks."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )
    from datatrove.pipeline.formatters import PIIFormatter

    filters: list[Any] = [
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    ]
    privacy, minhash = PIIFormatter(), MinhashDedupSignature("unused")

    def decide(text: str) -> str:
        document = Document(text=text, id="")
        for each in filters:
            result = each.filter(document)
            if result is not True:
                return result[1]
        minhash.get_signature(minhash.get_shingles(privacy.format(document.text)))
        return ""

    return decide


PROGRAMS: dict[str, Callable[[], Decide]] = {OURS: modelstack_recipe, PEER: datatrove_recipe}


def measure(name: str, texts: Sequence[str]) -> dict[str, Any]:
    """Return the CPU seconds of a pass and its decisions, measured in this process."""
    decide = PROGRAMS[name]()
    for text in texts[:10]:
        decide(text)
    start = time.process_time()
    decisions = [decide(text) for text in texts]
    return {"cpu_s": time.process_time() - start, "decisions": decisions}


def corpus_texts(n: int) -> list[str]:
    """Return `n` pages from all domains of the corpus shipped with the package."""
    from modelstack.data.shipped_corpus import SHIPPED_CORPUS
    from modelstack.tokenizer.documents import find_files, read_documents

    files = find_files([SHIPPED_CORPUS])
    long = [[d.text for d in read_documents(file) if len(d.text) >= MIN_CHARS] for file in files]
    share = -(-n // len(files))
    return [text for texts in long for text in texts[:: max(1, len(texts) // share)][:share]][:n]


def main() -> int:
    """Measure, print the table, and return 1 if the bound is broken, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=(OURS,), help="measure without the peer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--texts", type=int, default=600, help="number of documents per pass")
    parser.add_argument("--env", type=Path, default=Path(".venv-peers-data"), help="environment of the peer")
    parser.add_argument("--program", choices=sorted(PROGRAMS), help="print the figures of one program as JSON")
    parser.add_argument("--text-file", type=Path, help=argparse.SUPPRESS)
    add_result_option(parser)
    options = parser.parse_args()
    if options.program:
        print(json.dumps(measure(options.program, json.loads(options.text_file.read_text(encoding="utf-8")))))
        return 0
    pythons = {OURS: sys.executable}
    if not options.only:
        try:
            pythons[PEER] = str(peer_python(options.env, PEERS))
        except subprocess.CalledProcessError as error:
            print(f"the peer cannot be installed (pip ended with {error.returncode}); ours alone is measured")
    texts = corpus_texts(options.texts)
    passes: dict[str, list[dict[str, Any]]] = {name: [] for name in pythons}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.json"
        file.write_text(json.dumps(texts), encoding="utf-8")
        for _ in range(options.repeats):
            for name, python in pythons.items():
                passes[name].append(printed_by(python, MODULE, "--program", name, "--text-file", str(file)))
    result = to_result(texts, passes, options)
    write_result(options.result, result)
    return report(texts, passes, result)


def per_second(texts: Sequence[str], passes: Sequence[dict[str, Any]]) -> float:
    """Return documents per CPU second of the median pass."""
    return len(texts) / statistics.median(each["cpu_s"] for each in passes)


def to_result(
    texts: Sequence[str], passes: dict[str, list[dict[str, Any]]], options: argparse.Namespace
) -> BenchmarkResult:
    """Convert the figures to the common result type."""
    speeds = {name: per_second(texts, its) for name, its in passes.items()}
    figures = []
    if PEER in speeds:
        ratio = speeds[OURS] / speeds[PEER]
        figures.append(
            Figure("FineWeb's recipe over datatrove", ratio, "x", bound=LIMIT_SPEED, bound_kind="at least")
        )
        figures.append(Figure("decisions that are datatrove's", agreement(passes), "of all"))
    return BenchmarkResult(
        figures=tuple(figures),
        comparisons=(Comparison("FineWeb's recipe, text to signature", "documents/s", OURS, speeds),),
        parameters={"repeats": str(options.repeats), "texts": str(len(texts))},
        notes=() if PEER in speeds else ("peer not measured",),
    )


def agreement(passes: dict[str, list[dict[str, Any]]]) -> float:
    """Return the share of texts with equal decisions (the same reason, or none)."""
    ours, theirs = (passes[name][0]["decisions"] for name in (OURS, PEER))
    return statistics.mean(a == b for a, b in zip(ours, theirs, strict=True))


def report(texts: Sequence[str], passes: dict[str, list[dict[str, Any]]], result: BenchmarkResult) -> int:
    """Print the table; return 1 if the bound is broken, else 0."""
    chars = statistics.mean(map(len, texts))
    print(f"{len(texts)} texts of {chars:,.0f} characters, CPU time, Python {sys.version.split()[0]}, one process")
    for name, its in passes.items():
        speed = per_second(texts, its)
        kept = statistics.mean(not reason for reason in its[0]["decisions"])
        print(
            f"{name:12}{speed:10,.1f} documents/s{speed * chars / 1e6:8.2f} million characters/s, keeps {kept:.1%}"
        )
    if PEER in passes:
        pairs = zip(texts, *(passes[name][0]["decisions"] for name in (OURS, PEER)), strict=True)
        for text, ours, theirs in pairs:
            if ours != theirs:
                print(f"  ours {ours or 'keeps'}, theirs {theirs or 'keeps'}: {text[:60]!r}")
    for figure in result.figures:
        verdict = "" if figure.holds is None else f" (>= {figure.bound}: {'ok' if figure.holds else 'BROKEN'})"
        print(f"{figure.name}: {figure.value:.3f} {figure.unit}{verdict}")
    return 1 if result.broken else 0


if __name__ == "__main__":
    sys.exit(main())
