"""Documents per second from text to MinHash signature, compared with datatrove, datasketch and rensa; memory use.

All programs compute the same setting, FineWeb's 112 hash functions over runs of 5 words, on the same texts: long
and short pages, already simplified, with words separated by single spaces. Peers get the fastest shingling
available in Python, and their calls that accept many documents. A third table uses raw text: modelstack's
simplification and signature, and datatrove's whole step with its own words (spaCy).

Each program runs in its own process, all peers in one environment. CPU time (`time.process_time`) is measured; the
figure is the median of `--repeats` rounds in which the programs alternate. Each program also estimates the
similarity of planted pairs, which would reveal a fast but wrong signature. rensa's rho sketch is one, so it is
shown but not counted as a peer.

Memory is the peak of a process that takes documents from text to decisions in all four stages: N documents, and
ten times as many in shards of the same size. A tenth of the documents are near-duplicates.

    python -m evals.speed.minhash
    python -m evals.speed.minhash --only modelstack     # no peers, no environment
"""

# pyright: reportMissingImports=false
# The peers are installed in a separate environment.
from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.speed.machine import peak_bytes
from evals.speed.peers import peer_python, printed_by
from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, write_result

MODULE = "evals.speed.minhash"
PEERS = ("datatrove[processing]==0.10.1", "spacy>=3.8,<3.9", "xxhash<4", "datasketch==2.0.0", "rensa==0.5.0")
N_HASHES = 112
N_WORDS = 5
LONG_CHARS, SHORT_CHARS = 8192, 1024
"""Characters of a long page (the size of earlier measurements of the peers) and of a short page."""
BATCH = 128
"""Documents per call for libraries that accept many."""
N_PAIRS = 200
SHARED_WORDS, OTHER_WORDS = 304, 100
"""Words of a planted pair: 300 common runs and 100 more on each side, so the similarity is 0.6."""
SIMILARITY = (SHARED_WORDS - N_WORDS + 1) / (SHARED_WORDS - N_WORDS + 1 + 2 * OTHER_WORDS)
SHARD_DOCUMENTS = 4000
MERGED_RECORDS = 1 << 14
"""Maximum records in memory during a merge; fewer than the smaller run has, so that the bound is effective."""
LIMIT_SPEED = 1.0
LIMIT_MEMORY = 1.2
"""Maximum ratio of peak memory at ten times the documents."""

LONG, SHORT, RAW = "simplified, 8,192 characters", "simplified, 1,024 characters", "raw text"
KINDS = (LONG, SHORT, RAW)
"""Kinds of text; the number of characters is that before simplification."""

Signatures = Callable[[Sequence[str]], Any]


def modelstack_signatures(family: str = "pairwise", *, raw: bool = False) -> Signatures:
    """Return modelstack's signature function."""
    from modelstack.data.dedup import MinHash, MinHashConfig

    minhash = MinHash(MinHashConfig.model_validate({"family": family}))
    if raw:
        return lambda texts: minhash.signatures([minhash.prepared(text) for text in texts])[0]
    return lambda texts: minhash.signatures(texts)[0]


def word_runs(text: str) -> list[str]:
    """Return the runs of words, by the fastest method without compiled code."""
    words = text.split(" ")
    return list(map(" ".join, zip(words, words[1:], words[2:], words[3:], words[4:], strict=False)))


def rensa_signatures(*, rho: bool) -> Signatures:
    """Return rensa's signature function for many documents.

    `rho` selects its faster sketch, which is not plain MinHash.
    """
    from rensa import RMinHash

    digest = RMinHash.digest_matrix_from_token_sets_rho if rho else RMinHash.digest_matrix_from_token_sets
    # A generator is rensa's fastest input: only the runs of one text are in memory.
    return lambda texts: digest((word_runs(text) for text in texts), N_HASHES, 1).to_rows()


def datasketch_signatures() -> Signatures:
    """Return datasketch's signature function, with its default hash."""
    from datasketch import MinHash

    def signatures(texts: Sequence[str]) -> Sequence[Any]:
        runs = [[run.encode() for run in word_runs(text)] for text in texts]
        return [minhash.hashvalues for minhash in MinHash.bulk(runs, num_perm=N_HASHES)]

    return signatures


def datatrove_signatures(*, raw: bool) -> Signatures:
    """Return datatrove's signature function, with its default hash; it uses its own words only on raw text."""
    import numpy as np
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature
    from datatrove.utils.hashing import create_hash_func

    step = MinhashDedupSignature("unused")
    hashed: Any = create_hash_func(step.config.hash_config)

    def signature(text: str) -> Any:
        if raw:
            shingles = step.get_shingles(text)
        else:
            shingles = np.fromiter(map(hashed, word_runs(text)), dtype=np.uint64).reshape(-1, 1)
        return sum(step.get_signature(shingles), [])

    return lambda texts: [signature(text) for text in texts]


OURS, OURS_RAW = "modelstack", "modelstack, raw text"
NO_PEER = "rensa, rho sketch"
PROGRAMS: dict[str, Callable[[], Signatures]] = {
    OURS: modelstack_signatures,
    "modelstack, family datatrove": lambda: modelstack_signatures("datatrove"),
    "rensa": lambda: rensa_signatures(rho=False),
    NO_PEER: lambda: rensa_signatures(rho=True),
    "datasketch": datasketch_signatures,
    "datatrove": lambda: datatrove_signatures(raw=False),
    OURS_RAW: lambda: modelstack_signatures(raw=True),
    "datatrove, raw text": lambda: datatrove_signatures(raw=True),
}


@dataclass(frozen=True, slots=True)
class Speed:
    """Measurements of one program on one kind of text."""

    cpu_ms: tuple[float, ...]
    """CPU milliseconds per document, for each pass."""
    error_mean: float
    """Mean error of the estimated similarity of planted pairs."""
    error_deviation: float

    @property
    def per_second(self) -> float:
        """Return documents per second."""
        return 1e3 / statistics.median(self.cpu_ms)


def measure(name: str, texts: Sequence[str], *, with_error: bool) -> dict[str, float]:
    """Return CPU milliseconds per document and the error of the estimates, measured in this process."""
    signatures = PROGRAMS[name]()
    signatures(texts[:BATCH])
    start = time.process_time()
    for i in range(0, len(texts), BATCH):
        signatures(texts[i : i + BATCH])
    cpu_ms = (time.process_time() - start) / len(texts) * 1e3
    errors = [0.0]
    if with_error:
        pairs = [signatures(pair) for pair in planted_pairs()]
        errors = [
            sum(int(x) == int(y) for x, y in zip(a, b, strict=True)) / N_HASHES - SIMILARITY for a, b in pairs
        ]
    return {"cpu_ms": cpu_ms, "error_mean": statistics.mean(errors), "error_deviation": statistics.pstdev(errors)}


def planted_pairs() -> Iterator[tuple[str, str]]:
    """Yield pairs of texts with one known similarity, made of words that no other text has."""
    numbers = random.Random(1)

    def words(n: int) -> list[str]:
        return ["".join(numbers.choices("abcdefghijklmnopqrstuvwxyz", k=8)) for _ in range(n)]

    for _ in range(N_PAIRS):
        shared = words(SHARED_WORDS)
        yield " ".join(shared + words(OTHER_WORDS)), " ".join(shared + words(OTHER_WORDS))


def peak_of_stages(n_documents: int) -> dict[str, float]:
    """Process documents through all stages.

    Return this process's peak memory in MB, and the number of kept documents.
    """
    from modelstack.data.dedup import (
        MinHashConfig,
        lengths_of,
        pairs_of_bucket,
        write_clusters,
        write_copies,
        write_signatures,
    )

    config = MinHashConfig()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts = []
        files = []
        for first in range(0, n_documents, SHARD_DOCUMENTS):
            files.append(folder / f"{first}.keys")
            last = min(first + SHARD_DOCUMENTS, n_documents)
            counts.append(write_signatures(map(made_text, range(first, last)), files[-1], config))
        pairs = [folder / f"{bucket}.pairs" for bucket in range(config.n_buckets)]
        for bucket, out in enumerate(pairs):
            pairs_of_bucket(files, bucket, out, max_records=MERGED_RECORDS)
        write_clusters(pairs, counts, folder / "clusters.npy")
        n_kept = write_copies(folder / "clusters.npy", counts, lengths_of(files), folder / "copies.npy")
    return {"peak_mb": peak_bytes() / (1 << 20), "kept": n_kept}


def made_text(number: int) -> str:
    """Return document `number`; one in ten copies an earlier document with its last word changed."""
    original = number // 2 if number % 10 == 4 else number
    numbers = random.Random(original)
    words = [f"{numbers.getrandbits(40):010x}".translate(_LETTERS) for _ in range(100)]
    if original != number:
        words[-1] = "changed"
    return " ".join(words)


_LETTERS = str.maketrans("0123456789", "ghijklmnop")


def main() -> int:
    """Measure, print the tables, and return 1 if a bound is broken, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("modelstack",), help="measure without the peers")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--texts", type=int, default=200, help="number of long pages per round")
    parser.add_argument(
        "--documents", type=int, default=20_000, help="smaller number of documents of the memory test"
    )
    parser.add_argument("--env", type=Path, default=Path(".venv-peers-minhash"), help="environment of the peers")
    parser.add_argument("--program", choices=sorted(PROGRAMS), help="print the figures of one program as JSON")
    parser.add_argument("--text-file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--with-error", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--memory", type=int, metavar="N", help="print the peak memory with N documents as JSON")
    add_result_option(parser)
    options = parser.parse_args()
    if options.program:
        texts = json.loads(options.text_file.read_text(encoding="utf-8"))
        print(json.dumps(measure(options.program, texts, with_error=options.with_error)))
        return 0
    if options.memory:
        print(json.dumps(peak_of_stages(options.memory)))
        return 0
    python = None
    if not options.only:
        try:
            python = peer_python(options.env, PEERS)
        except subprocess.CalledProcessError as error:
            print(f"the peers cannot be installed (pip ended with {error.returncode}); ours alone is measured")
    figures = measured(python, options.texts, options.repeats)
    peaks = {
        n: printed_by(sys.executable, MODULE, "--memory", str(n))
        for n in (options.documents, 10 * options.documents)
    }
    result = to_result(figures, {n: peak["peak_mb"] for n, peak in peaks.items()}, options)
    write_result(options.result, result)
    return report(figures, peaks, result)


def measured(python: Path | None, n_texts: int, repeats: int) -> dict[str, dict[str, Speed]]:
    """Return each program's figures by kind of text.

    Programs alternate, so that a busy moment affects all of them.
    """
    names = [name for name in PROGRAMS if python or name.startswith(OURS)]
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {kind: Path(folder) / f"{i}.json" for i, kind in enumerate(KINDS)}
        for kind, texts in kinds_of_text(n_texts).items():
            files[kind].write_text(json.dumps(texts), encoding="utf-8")
        for turn in range(repeats):
            for name in names:
                for kind in (RAW,) if name.endswith(RAW) else (LONG, SHORT):
                    arguments = ["--program", name, "--text-file", str(files[kind])]
                    arguments += ["--with-error"] if turn == 0 and kind == LONG else []
                    who = sys.executable if name.startswith(OURS) else str(python)
                    try:
                        runs.setdefault((kind, name), []).append(printed_by(who, MODULE, *arguments))
                    except RuntimeError as error:
                        print(f"{name}: failed, left out of this round\n{error}")
    figures: dict[str, dict[str, Speed]] = {kind: {} for kind in KINDS}
    for (kind, name), of in runs.items():
        if not of:
            continue
        cpu_ms = tuple(run["cpu_ms"] for run in of)
        figures[kind][name] = Speed(cpu_ms, of[0]["error_mean"], of[0]["error_deviation"])
    return figures


def kinds_of_text(n: int) -> dict[str, list[str]]:
    """Return text of the corpus shipped with the package, cut into `n` long pages or more short ones."""
    from modelstack.data.dedup.simplify import simplify
    from modelstack.data.shipped_corpus import domain_file
    from modelstack.tokenizer.documents import read_documents

    text = "\n".join(document.text for document in read_documents(domain_file("textbooks")))
    n_chars = n * LONG_CHARS
    long, short = ([text[i : i + size] for i in range(0, n_chars, size)] for size in (LONG_CHARS, SHORT_CHARS))
    return {LONG: list(map(simplify, long)), SHORT: list(map(simplify, short)), RAW: long}


def to_result(
    figures: dict[str, dict[str, Speed]], peaks: dict[int, float], options: argparse.Namespace
) -> BenchmarkResult:
    """Convert the figures to the common result type."""
    small, large = sorted(peaks)
    growth = peaks[large] / peaks[small]
    found = [Figure(f"peak memory at {large:,} documents over {small:,}", growth, "x", bound=LIMIT_MEMORY)]
    comparisons = []
    for kind, speeds in figures.items():
        ours = next(iter(speeds))
        per_second = {name: speed.per_second for name, speed in speeds.items()}
        comparisons.append(Comparison(f"MinHash signatures, {kind}", "documents/s", ours, per_second))
        peers = [speed for name, speed in per_second.items() if not name.startswith(OURS) and name != NO_PEER]
        if peers:
            ratio = per_second[ours] / max(peers)
            found.append(
                Figure(f"{kind}: over the best peer", ratio, "x", bound=LIMIT_SPEED, bound_kind="at least")
            )
    return BenchmarkResult(
        figures=tuple(found),
        comparisons=tuple(comparisons),
        parameters={name: str(getattr(options, name)) for name in ("repeats", "texts", "documents")},
        notes=() if len(found) > 1 else ("peers not measured",),
    )


def report(
    figures: dict[str, dict[str, Speed]], peaks: dict[int, dict[str, float]], result: BenchmarkResult
) -> int:
    """Print the tables; return 1 if a bound is broken, else 0."""
    print(f"CPU time, Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for kind, speeds in figures.items():
        print(f"{kind:30}{'documents/s':>12}{'ms':>8}{'modelstack is':>15}{'error of the estimate':>25}")
        ours = next(iter(speeds.values()))
        for name, speed in speeds.items():
            error = f"{speed.error_mean:+.4f} sd {speed.error_deviation:.4f}" if kind == LONG else ""
            ratio = ours.per_second / speed.per_second
            print(f"{name:30}{speed.per_second:12,.0f}{1e3 / speed.per_second:8.3f}{ratio:14.1f}x{error:>25}")
    theory = math.sqrt(SIMILARITY * (1 - SIMILARITY) / N_HASHES)
    print(f"theory of {N_PAIRS} pairs at {SIMILARITY:.2f}: no bias, sd {theory:.4f} of one estimate")
    for n, peak in peaks.items():
        print(f"{n:9,} documents: peak {peak['peak_mb']:.1f} MB, {peak['kept']:,} stay")
    for figure in result.figures:
        sign = "<=" if figure.bound_kind == "at most" else ">="
        verdict = "" if figure.holds is None else f" ({sign} {figure.bound}: {'ok' if figure.holds else 'BROKEN'})"
        print(f"{figure.name}: {figure.value:.2f}{figure.unit}{verdict}")
    return 1 if result.broken else 0


if __name__ == "__main__":
    sys.exit(main())
