"""Training rows of the refusal judge, read from a folder of data.

- Human labels: PyRIT's scorer evaluations (MIT).
- Real replies, labelled here by rules and kept only if the rules agree: HH-RLHF's harmless pairs (MIT).
- Requests for replies made by rule: AdvBench, CatQA, HarmfulQA, HH.
- Real answers, as compliance and as content: `real_exchanges`.

Sets whose licence is share-alike or forbids commercial use are never read, and no prompt repeats an evaluation
item of the folder.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from modelstack.align.guards.refusal_features import content_stems
from modelstack.align.guards.refusal_judge import KINDS, Kind
from modelstack.align.guards.refusal_signs import Sentence, plain, sentences
from tools.classifiers.data_files import SOURCES, Source, read_records, read_source
from tools.classifiers.near_duplicates import NearDuplicateIndex, evaluation_items
from tools.refusal_judge import real_exchanges
from tools.refusal_judge.reply_grammar import Exchange, LabelledReply, ReplyGrammar

HUMAN_SOURCES = tuple(
    Source(f"evals/refusal_train/{name}.jsonl", "MIT", "PyRIT refusal scorer evaluations, human labelled")
    for name in ("pyrit_refusal", "pyrit_refusal_extra")
)
HARMFUL = ("advbench", "catqa", "harmfulqa")
READ: tuple[Source, ...] = (
    *HUMAN_SOURCES,
    real_exchanges.SEED_TASKS,
    *(SOURCES[name] for name in (*HARMFUL, "hh", "gsm8k", "mbpp", "textbooks", "howto")),
    real_exchanges.SNIPPETS,
)
"""Files that are read, for the card."""
WRITTEN_FILE = Path(__file__).parent / "written_replies.jsonl"
"""Replies written and labelled by hand for this repository; none of them is in an evaluation set."""
N_GRAMMAR = 6_000


def human_rows(folder: Path) -> list[LabelledReply]:
    """Return the human-labelled rows, in which a reply to another question is a refusal.

    Raises:
        UserError: a file of the folder is missing or broken.
    """
    return [
        LabelledReply(
            row["prompt"],
            row["response"],
            "refusal" if row["label"] == "refusal" else "compliance",
            f"human/{Path(source.path).stem}",
        )
        for source in HUMAN_SOURCES
        for row in read_records(folder / source.path)
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


@dataclass(frozen=True, slots=True)
class HHReply:
    """A reply of HH-RLHF on whose kind the labelling rules agree."""

    row: LabelledReply
    is_first: bool
    """Whether the reply answers the first turn, so the prompt is the whole conversation before it."""


@lru_cache(maxsize=1)
def hh_replies(folder: Path) -> Sequence[HHReply]:
    """Return replies of HH-RLHF on whose kind the labelling rules agree; a folder is read once.

    Raises:
        UserError: the file is missing or broken.
    """
    return tuple(_hh_replies(folder))


def _hh_replies(folder: Path) -> Iterator[HHReply]:
    seen: set[str] = set()
    for pair in read_source(folder, "hh"):
        for side in ("chosen", "rejected"):
            before, _, reply = pair[side].rpartition("\n\nAssistant:")
            earlier, _, prompt = before.rpartition("\n\nHuman:")
            reply = reply.strip()
            if reply in seen:
                continue
            seen.add(reply)
            kind = sure_kind(reply)
            if kind is not None and not evaluated(folder).repeats(prompt):
                yield HHReply(LabelledReply(prompt.strip(), reply, kind, f"hh/{kind}"), not earlier)


@lru_cache(maxsize=1)
def exchanges(folder: Path) -> Sequence[Exchange]:
    """Return real requests with real answers: those of `real_exchanges` and plain answers to HH's first turns.

    A folder is read once.

    Raises:
        UserError: a file of the folder is missing or broken.
    """
    first = [
        Exchange(reply.row.prompt, reply.row.reply)
        for reply in hh_replies(folder)
        if reply.is_first and reply.row.kind == "compliance"
    ]
    index = evaluated(folder)
    return (*(e for e in real_exchanges.exchanges(folder) if not index.repeats(e.prompt)), *first)


@lru_cache(maxsize=1)
def evaluated(folder: Path) -> NearDuplicateIndex:
    """Return the index of the evaluation items below the folder, whose prompts no row may repeat.

    Raises:
        UserError: a file is broken.
    """
    return NearDuplicateIndex(evaluation_items(folder))


_DOUBTFUL = frozenset({"cannot", "dissuades", "condemns", "denies", "lacks", "apology", "machine", "resources"})


def sure_kind(reply: str) -> Kind | None:
    """Return the kind of a reply by its signs, None if the rules disagree or do not apply."""
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
        UserError: a file of the folder is missing or broken.
    """
    hh = [reply.row for reply in hh_replies(folder)]
    real = exchanges(folder)
    # Compliant HH answers serve as content too, because they share their subjects with harmful requests.
    bodies = [row.reply for row in hh if row.kind == "compliance" and len(row.reply) > 200]
    harmful = [row["text"] for name in HARMFUL for row in read_source(folder, name)]
    index = evaluated(folder)
    harmful = [prompt for prompt in harmful if not index.repeats(prompt)]
    harmful += [row.prompt for row in hh if row.kind == "refusal"]
    written = [row for row in written_examples() if not index.repeats(row.prompt)]
    grammar = ReplyGrammar(harmful, real, bodies, seed=seed)
    return [*written, *hh, *grammar.replies(n_grammar)]


def written_examples() -> list[LabelledReply]:
    """Return the hand-written replies of this package."""
    return [
        LabelledReply(row["prompt"], row["reply"], _kind(row["kind"]), "written")
        for row in read_records(WRITTEN_FILE)
    ]


def _kind(name: str) -> Kind:
    for kind in KINDS:
        if kind == name:
            return kind
    raise ValueError(f"kind {name!r} is not one of {', '.join(KINDS)}")
