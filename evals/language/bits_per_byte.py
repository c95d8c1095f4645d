"""Bits per byte of texts: how well a model predicts them, independent of its tokenizer.

The sum of -log2 p over a document's tokens, divided by its UTF-8 bytes (as reported by the Pile, Gao et al. 2020).
Long documents are read through a sliding window with a stride, so that all tokens except the first ones are scored
with enough context. Over a corpus, bits and bytes are summed before the division, because a mean of per-document
ratios would give a line the weight of a book. The interval is a bootstrap of that ratio over documents.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkit.errors import UserError
from agentkit.models.base import Model, ModelSettings
from agentkit.usage import RunUsage
from evals.case import Case, Run, Score, failed_score
from evals.harness.suite import Suite, Table, check_options
from evals.language.likelihood import Cancelled, with_engine
from evals.language.records import file_option, read_records, whole_number
from evals.statistics import Interval

if TYPE_CHECKING:
    from modelstack.inference.scoring import ScoringEngine

NAME = "bits-per-byte"
OPTIONS = {
    "data": "a text file (one document), a JSON-lines file, or a folder of such files",
    "field": "JSON field that holds the text; default `text`",
    "window": "tokens that the model sees at once; default 0: its context window, at most 2048",
    "stride": "tokens by which the window advances; default 0: half the window",
    "max_bytes": "maximum bytes per document, cut between characters; default 0: not cut",
}
HOW_TO_GET = "Name a .txt, .md, .jsonl or .jsonl.gz file, or a folder of them."
TEXT_SUFFIXES = (".txt", ".md", ".rst", ".py")
RECORD_SUFFIXES = (".jsonl", ".json", ".gz")
DEFAULT_WINDOW = 2048
N_RESAMPLES = 2000
GUESSED_BITS = 8.0
"""Bits per byte of a uniform guess over bytes; assigned to failed documents."""


def load(options: Mapping[str, str]) -> list[Case]:
    """Return one case per document.

    Raises:
        UserError: an option is not known or not valid, or a file is missing, malformed or empty.
    """
    check_options(NAME, options, OPTIONS)
    path = file_option(NAME, options, "data", HOW_TO_GET)
    settings = {
        key: whole_number(NAME, options, key, 0, low=0, high=1 << 31) for key in ("window", "stride", "max_bytes")
    }
    if settings["window"] and settings["stride"] > settings["window"]:
        raise UserError(f"suite {NAME!r}: stride={settings['stride']} is more than window={settings['window']}.")
    known = TEXT_SUFFIXES + RECORD_SUFFIXES
    files = sorted(file for file in path.rglob("*") if file.suffix in known) if path.is_dir() else [path]
    if not files:
        raise UserError(f"suite {NAME!r}: no file of {', '.join(known)} in {path}.")
    cases: list[Case] = []
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        for number, text in enumerate(_documents(file, options.get("field", "text"))):
            kept = _cut(text, settings["max_bytes"])
            if kept:
                data = {"window": settings["window"], "stride": settings["stride"], "n_bytes": _n_bytes(kept)}
                cases.append(Case(f"{name}/{number}", kept, group=name, data=data))
    if not cases:
        raise UserError(f"suite {NAME!r}: {path} holds no text.")
    return cases


def _documents(file: Path, key: str) -> list[str]:
    if file.suffix not in RECORD_SUFFIXES:
        try:
            return [file.read_text(encoding="utf-8")]
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not UTF-8 (byte {error.start}).") from error
    records = read_records(file)
    for number, record in enumerate(records, start=1):
        if not isinstance(record.get(key), str):
            raise UserError(
                f"{file}, record {number}: no text in {key!r}; --option field=NAME names another field."
            )
    return [record[key] for record in records]


def _cut(text: str, max_bytes: int) -> str:
    if not max_bytes:
        return text
    return text.encode("utf-8", "replace")[:max_bytes].decode("utf-8", "ignore")


def _n_bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


async def solve(case: Case, model: Model, settings: ModelSettings) -> Run:
    """Compute the document's log-probability.

    Raises:
        UserError: the model is not local, or the window exceeds the model's.
    """
    observed = await with_engine(model, partial(_judge, case.prompt, case.data, case.id))
    return Run(
        case.id, "completed", observed=observed, usage=RunUsage(requests=1, input_tokens=observed["n_tokens"])
    )


def _judge(
    text: str, data: Mapping[str, Any], conversation: str, engine: ScoringEngine, cancelled: Cancelled
) -> dict[str, Any]:
    from modelstack.inference.scoring import document_logprobs

    window = data["window"] or min(DEFAULT_WINDOW, engine.context_window)
    if window > engine.context_window or data["stride"] > window:
        raise UserError(
            f"window={window} with stride={data['stride']}: 1 <= stride <= window <= {engine.context_window}, the "
            f"model's context window."
        )
    logprobs = document_logprobs(
        engine,
        text,
        window=window,
        stride=data["stride"] or None,
        conversation=conversation,
        cancelled=cancelled,
    )
    engine.forget(conversation)  # its cache is useless for other documents
    return {"logprob": math.fsum(logprobs), "n_tokens": len(logprobs), "n_bytes": data["n_bytes"]}


def score_document(case: Case, run: Run) -> Score:
    """Return a score of 1 - bits per byte / 8, clipped to 0 and 1; the bits per byte are in `numbers`."""
    if failed := failed_score(run):
        return failed
    bits = bits_of(run.observed["logprob"])
    per_byte = bits / case.data["n_bytes"]
    return Score(
        min(1.0, max(0.0, 1 - per_byte / GUESSED_BITS)),
        f"{bits:.1f} bits over {case.data['n_bytes']} bytes and {run.observed['n_tokens']} tokens",
        numbers={
            "bits_per_byte": per_byte,
            "bytes_per_token": case.data["n_bytes"] / max(1, run.observed["n_tokens"]),
        },
    )


def bits_of(logprob: float) -> float:
    """Convert a natural log-probability to bits."""
    return -logprob / math.log(2)


def corpus_bits_per_byte(documents: Sequence[tuple[float, int]], *, seed: int = 0) -> Interval:
    """Return sum of bits / sum of bytes over documents (bits, bytes), with a bootstrap interval over documents.

    Raises:
        ValueError: there are no documents, or they have no bytes.
    """
    if not documents or not sum(n for _, n in documents):
        raise ValueError("bits per byte need at least one document with text")
    draw, n = random.Random(seed), len(documents)
    ratios = sorted(_ratio(draw.choices(documents, k=n)) for _ in range(N_RESAMPLES))
    low, high = ratios[round(0.025 * (N_RESAMPLES - 1))], ratios[round(0.975 * (N_RESAMPLES - 1))]
    return Interval(_ratio(documents), low, high, n)


def _ratio(documents: Sequence[tuple[float, int]]) -> float:
    return math.fsum(bits for bits, _ in documents) / sum(n for _, n in documents)


def bits_tables(scored: Sequence[tuple[Case, Run, Score]]) -> list[Table]:
    """Return bits per byte of each file and of all files, weighted by bytes.

    A document that failed counts as 8 bits per byte, the cost of a uniform guess over bytes.
    """
    groups: dict[str, list[tuple[Case, Run]]] = {}
    for case, run, _ in scored:
        groups.setdefault(case.group, []).append((case, run))
    if len(groups) > 1:
        groups["all"] = [(case, run) for case, run, _ in scored]
    rows = [_row(name, entries) for name, entries in groups.items()]
    columns = ("file", "documents", "bytes", "tokens", "bits per byte (95 %)", "bits per token", "failed")
    return [Table("Bits per byte, weighted by bytes", columns, tuple(rows))]


def _row(name: str, entries: Sequence[tuple[Case, Run]]) -> tuple[str, ...]:
    documents: list[tuple[float, int]] = []
    n_tokens = n_failed = 0
    bits_of_tokens = 0.0
    for case, run in entries:
        n_bytes = case.data["n_bytes"]
        if run.status != "completed":
            n_failed += 1
            documents.append((GUESSED_BITS * n_bytes, n_bytes))
            continue
        bits = bits_of(run.observed["logprob"])
        n_tokens += run.observed["n_tokens"]
        bits_of_tokens += bits
        documents.append((bits, n_bytes))
    per_token = f"{bits_of_tokens / n_tokens:.3f}" if n_tokens else ""
    estimate = corpus_bits_per_byte(documents)
    # Resampling a single document gives an interval of zero width, which would look like certainty.
    interval = str(estimate) if estimate.n > 1 else f"{estimate.value:.3f}"
    n_bytes = str(sum(n for _, n in documents))
    return (name, str(len(documents)), n_bytes, str(n_tokens), interval, per_token, str(n_failed))


SUITE = Suite(
    name=NAME,
    version=1,
    description="bits per UTF-8 byte of texts, sliding window, weighted by bytes",
    load=load,
    solve=solve,
    score=score_document,
    options=OPTIONS,
    tables=bits_tables,
)
