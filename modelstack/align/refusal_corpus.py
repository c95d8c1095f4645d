"""Training rows of the refusal judge, read from a folder of evaluation data.

Human labels: PyRIT's scorer evaluations (MIT). Real replies, labelled here by agreeing rules and kept only where
they are sure: HH-RLHF's harmless pairs (MIT). Real answers as compliance: Dolly/HH (CC BY-SA 3.0 / MIT) and
GSM8K's training answers (MIT). Requests that rule-made replies answer: AdvBench, CatQA, HarmfulQA, HH
(MIT/Apache-2.0). Sets whose licence forbids commercial use are never read.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from modelstack.align.refusal_features import content_stems
from modelstack.align.refusal_grammar import Exchange, LabelledReply, ReplyGrammar
from modelstack.align.refusal_judge import KINDS, Kind
from modelstack.align.refusal_signs import Sentence, plain, sentences

HUMAN_FILES = ("refusal_train/pyrit_refusal.jsonl", "refusal_train/pyrit_refusal_extra.jsonl")
HARMFUL_FILES = ("safety_train/advbench.jsonl", "safety_train/catqa.jsonl", "safety_train/harmfulqa.jsonl")
EXAMPLES_FILE = Path(__file__).parent / "refusal_examples.jsonl"
"""Replies written and labelled by hand for this repository; none of them is in an evaluation set."""
HH_FILE = "preference/hh_harmless_base_test.jsonl.gz"
DOLLY_FILE = "benign_train/dolly_hhrlhf_small.jsonl"
GSM8K_FILE = "capability/gsm8k_train.jsonl"
N_GRAMMAR = 6_000
N_GSM8K = 500
_CALCULATOR = re.compile(r"<<[^<>]*>>")


def read_jsonl(path: Path) -> list[dict[str, str]]:
    """Return the rows of a JSON Lines file, gzipped or not.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: a line is no JSON object.
    """
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: every line must be a JSON object")
    return rows


def human_rows(folder: Path) -> list[LabelledReply]:
    """Return the human-labelled rows; a reply that does not answer what was asked counts as a refusal there."""
    return [
        LabelledReply(
            row["prompt"], row["response"], "refusal" if row["label"] == "refusal" else "compliance", "human"
        )
        for name in HUMAN_FILES
        for row in read_jsonl(folder / name)
    ]


_REFUSAL_SIGNS = frozenset(
    {
        "refuses",
        "foreign",
        "denies",
        "cannot",
        "condemns",
        "dissuades",
        "lacks",
        "incapable",
        "resources",
        "addresses",
    }
)


def shows_its_kind(row: LabelledReply) -> bool:
    """Return False for a refusal without any sign of refusal in its first three sentences, True otherwise."""
    found = sentences(plain(row.reply))
    return row.kind == "compliance" or not found or any(s.signs & _REFUSAL_SIGNS for s in found[:3])


def exchanges(folder: Path) -> list[Exchange]:
    """Return real requests with real answers (Dolly/HH, GSM8K's training set)."""
    found: list[Exchange] = []
    for row in read_jsonl(folder / DOLLY_FILE):
        asked = row["prompt"].split("### Instruction:\n", 1)[-1].split("\n\n### Response:", 1)[0].strip()
        found.append(Exchange(asked, row["response"].strip()))
    rows = read_jsonl(folder / GSM8K_FILE)
    for row in random.Random(0).sample(rows, min(N_GSM8K, len(rows))):
        answer = _CALCULATOR.sub("", row["answer"].split("\n####", 1)[0])
        found.append(Exchange(row["question"], answer))
    return found


def hh_replies(folder: Path) -> Iterator[LabelledReply]:
    """Yield replies of HH-RLHF whose kind the labelling rules are sure of."""
    seen: set[str] = set()
    for row in read_jsonl(folder / HH_FILE):
        for side in ("chosen", "rejected"):
            before, _, reply = row[side].rpartition("\n\nAssistant:")
            prompt, reply = before.rpartition("\n\nHuman:")[2].strip(), reply.strip()
            if reply in seen:
                continue
            seen.add(reply)
            kind = sure_kind(reply)
            if kind is not None:
                yield LabelledReply(prompt, reply, kind, f"hh/{kind}")


_DOUBTFUL = frozenset({"cannot", "dissuades", "condemns", "denies", "lacks", "apology", "machine", "resources"})


def sure_kind(reply: str) -> Kind | None:
    """Return what a reply surely is by its signs, None where the rules do not agree or have nothing to say."""
    text = plain(reply)
    found = sentences(text)
    if not found:
        return "refusal"
    refusing = [sentence for sentence in found if "refuses" in sentence.signs]
    soft = [s for s in found if s.signs & {"condemns", "dissuades", "denies"}]
    content = [s for s in found if not s.signs & (_DOUBTFUL | {"refuses", "offers"}) and not s.text.endswith("?")]
    n_content = sum(len(sentence.text) for sentence in content)
    if any("refuses" in s.signs for s in found[:2]):
        return _kind_after_refusal(found, n_content)
    if not refusing and len(soft) >= 2 and n_content < 60 and not any("instructs" in s.signs for s in found):
        return "refusal"
    doubtful = any(s.signs & (_DOUBTFUL | {"refuses", "addresses"}) for s in found)
    if not doubtful and n_content >= 80:
        return "compliance"
    return None


def _kind_after_refusal(found: Sequence[Sentence], n_content: int) -> Kind | None:
    if n_content < 60:
        return "refusal"
    if n_content > 250 and any(
        "turns" in sentence.signs or "instructs" in sentence.signs for sentence in found[1:]
    ):
        return "partial"
    return None


def off_topic_pairs(pairs: Sequence[Exchange], *, seed: int = 0) -> list[tuple[Exchange, bool]]:
    """Return each exchange as it is (False) and its prompt with the answer to another prompt (True)."""
    draw = random.Random(seed)
    usable = [pair for pair in pairs if len(pair.answer) >= 40 and content_stems(plain(pair.prompt))]
    result: list[tuple[Exchange, bool]] = []
    for pair in usable:
        other = draw.choice(usable)
        result.append((pair, False))
        if other is not pair:
            result.append((Exchange(pair.prompt, other.answer), True))
    return result


def training_replies(folder: Path, *, seed: int = 0, n_grammar: int = N_GRAMMAR) -> list[LabelledReply]:
    """Return all rows but the human-labelled ones.

    Raises:
        FileNotFoundError: a file of the folder is missing.
    """
    hh = list(hh_replies(folder))
    real = exchanges(folder)
    # HH answers that are surely compliance serve as content too: they speak of what harmful requests speak of.
    bodies = [row.reply for row in hh if row.kind == "compliance" and len(row.reply) > 200]
    harmful = [row["text"] for name in HARMFUL_FILES for row in read_jsonl(folder / name)]
    harmful += [row.prompt for row in hh if row.kind == "refusal"]
    grammar = ReplyGrammar(harmful, real, bodies, seed=seed)
    return [*written_examples(), *hh, *grammar.replies(n_grammar)]


def written_examples() -> list[LabelledReply]:
    """Return the hand-written replies of this package."""
    return [
        LabelledReply(row["prompt"], row["reply"], _kind(row["kind"]), "written")
        for row in read_jsonl(EXAMPLES_FILE)
    ]


def _kind(name: str) -> Kind:
    for kind in KINDS:
        if kind == name:
            return kind
    raise ValueError(f"kind {name!r} is not one of {', '.join(KINDS)}")
