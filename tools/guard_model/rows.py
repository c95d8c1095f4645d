"""Rows of the guard model: requests and replies with verdicts, from public sets and pairs written for it.

    python -m tools.guard_model.rows DATA_DIR --out runs/guard-rows

Writes `training.jsonl` and `validation.jsonl`. Sources and licences are those of `tools.classifiers.data_files`,
so that weights may be shipped. `near_boundary.jsonl.zst` holds pairs of requests that share words, one harmful and
one harmless, written for this project by a language model; an eighth of them, drawn by hash, is held back. Rows
that repeat an evaluation item are left out. The rows of public sets are not part of the repository.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from modelstack.align.guard_training.rows import GuardRow, Turn
from modelstack.align.guards.refusal_judge import judge_refusal
from modelstack.errors import UserError
from modelstack.files import read_toml, replacing
from tools.classifiers.attack_rows import trigger_negatives
from tools.classifiers.data_files import SOURCES, read_records, read_source
from tools.classifiers.fitting import Example
from tools.classifiers.hazards import hazard_by_rule
from tools.classifiers.near_duplicates import NearDuplicateIndex, evaluation_items
from tools.classifiers.request_rows import HARM, request_rows

PAIRS = Path(__file__).with_name("near_boundary.jsonl.zst")
N_MOST: dict[str, int] = {
    "contrast_safe": 500, "contrast_unsafe": 450, "hh_harmful": 1200, "advbench": 477, "harmfulqa": 600,
    "davidson_hate": 100, "ordinary": 1400, "metatool": 450, "textbook_questions": 280, "tldr": 280,
    "seal-tools": 180, "nlu-eval": 150, "gsm8k": 100, "textbooks": 80, "davidson_neither": 80, "snips": 90,
    "bias_templates": 50, "taskmaster": 120, "mbpp": 90, "toolrl-sft": 80, "stories": 40,
}  # fmt: skip
"""Number of rows of a source; all rows of the others. Many more pairs by rule would teach their templates."""
NOT_ORDINARY = frozenset(
    {"contrast_safe", "hh_benign", "textbooks", "stories", "davidson_neither", "bias_templates"}
)
N_REPLIES, N_TRIGGERS = 600, 250
HELD_BACK = 8
"""Every so many groups of pairs and of ordinary rows are held back."""
OWN = "Apache-2.0"
MAX_CHARACTERS = 500
"""Longest message of a row; longer ones are cut, as activations of long rows fill the memory."""


def guard_rows(folder: Path, seed: int = 0) -> tuple[list[GuardRow], list[GuardRow]]:
    """Return training and held-back rows.

    Raises:
        UserError: A file is missing or broken.
    """
    draw = random.Random(seed)
    sides: tuple[list[GuardRow], list[GuardRow]] = ([], [])
    for example in _sampled(request_rows(folder, seed), draw):
        is_ordinary = not example.labels and example.source not in NOT_ORDINARY
        held_back = is_ordinary and _is_held_back(example.group)
        sides[held_back].append(_request(example, is_ordinary))
    for pair in read_records(PAIRS):
        held_back = _is_held_back(pair["safe"])
        for side in ("safe", "unsafe"):
            row = GuardRow(
                id=f"pair-{_digest(pair[side])}",
                turns=(Turn(role="user", content=pair[side]),),
                unsafe=side == "unsafe",
                categories=(pair["hazard"],) if side == "unsafe" else (),
                source="near_boundary",
                license=OWN,
                pair=_digest(pair["safe"]),
            )
            sides[held_back].append(row)
    sides[0].extend(_triggers(draw))
    sides[0].extend(_copyright(draw))
    for row in reply_rows(folder, draw, N_REPLIES):
        sides[_is_held_back(row.turns[0].content)].append(row)
    index = NearDuplicateIndex(evaluation_items(folder))
    kept = tuple([row for row in rows if not index.repeats(row.turns[-1].content)] for rows in sides)
    for rows in kept:
        draw.shuffle(rows)
    return kept[0], kept[1]


def _sampled(rows: Sequence[Example], draw: random.Random) -> Iterator[Example]:
    by_source: dict[str, list[Example]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    for source, several in by_source.items():
        yield from draw.sample(several, min(N_MOST.get(source, len(several)), len(several)))


def _request(example: Example, is_ordinary: bool) -> GuardRow:
    harmful = HARM in example.labels
    hazards = sorted(example.labels - {HARM})
    if harmful and not hazards and (hazard := hazard_by_rule(example.text)):
        hazards = [hazard]
    return GuardRow(
        id=f"{example.source}-{_digest(example.text)}",
        turns=(Turn(role="user", content=example.text[:MAX_CHARACTERS]),),
        unsafe=harmful,
        categories=tuple(hazards),
        source=example.source,
        license=_licence(example.source),
        ordinary=is_ordinary,
    )


def _triggers(draw: random.Random) -> Iterator[GuardRow]:
    """Yield harmless texts with the words of attacks on a model."""
    for text in trigger_negatives(draw, N_TRIGGERS):
        yield _own("triggers", text, unsafe=False)


def _copyright(draw: random.Random) -> Iterator[GuardRow]:
    """Yield requests for whole protected works, and requests about them or for works that are free."""
    words = read_toml(Path(__file__).with_name("copyright.toml"), "word list")
    for work in words["protected"]:
        for template in draw.sample(words["whole"], 3):
            yield _own("copyright", template.format(work=work), unsafe=True, categories=("S8",))
        for template in draw.sample(words["about"], 2):
            yield _own("copyright", template.format(work=work), unsafe=False)
    for work in words["free"]:
        for template in draw.sample(words["whole"], 3):
            yield _own("copyright", template.format(work=work), unsafe=False)


_HUMAN_ASSISTANT = re.compile(r"\n\n(Human|Assistant): ")


def reply_rows(folder: Path, draw: random.Random, n_most: int) -> Iterator[GuardRow]:
    """Yield at most `n_most` first replies of the red-teaming set.

    Compliance with a harmful opening is unsafe, a refusal is safe. Openings have labels (`hh_labels.json`); the
    refusal judge tells the two kinds of replies apart. Partial refusals and short replies to harmful openings are
    left out.
    """
    labels = json.loads((Path(__file__).parents[1] / "classifiers/hh_labels.json").read_text("utf-8"))
    harmful, benign = frozenset(labels["harmful"]), frozenset(labels["benign"])
    found: list[GuardRow] = []
    for record in read_source(folder, "hh"):
        for side in ("chosen", "rejected"):
            parts = _HUMAN_ASSISTANT.split(str(record[side]))
            if len(parts) < 5 or not parts[4].strip():
                continue
            opening, reply = parts[2].strip(), parts[4].strip()[:MAX_CHARACTERS]
            digest = hashlib.sha256(opening.encode()).hexdigest()[: len(next(iter(harmful)))]
            if digest not in harmful | benign:
                continue
            kind = judge_refusal(opening, reply).kind
            if digest in harmful and kind == "partial":
                continue
            unsafe = digest in harmful and kind == "compliance" and len(reply) > 60
            if digest in harmful and kind == "compliance" and not unsafe:
                continue
            hazard = hazard_by_rule(opening) if unsafe else None
            found.append(
                GuardRow(
                    id=f"hh-reply-{_digest(opening + reply)}",
                    turns=(
                        Turn(role="user", content=opening[:MAX_CHARACTERS]),
                        Turn(role="assistant", content=reply),
                    ),
                    unsafe=unsafe,
                    categories=(hazard,) if hazard else (),
                    source="hh_replies",
                    license="MIT",
                )
            )
    unique = list({row.id: row for row in found}.values())
    yield from draw.sample(unique, min(n_most, len(unique)))


def _own(source: str, text: str, *, unsafe: bool, categories: tuple[str, ...] = ()) -> GuardRow:
    turns = (Turn(role="user", content=text),)
    return GuardRow(
        id=f"{source}-{_digest(text)}",
        turns=turns,
        unsafe=unsafe,
        categories=categories,
        source=source,
        license=OWN,
    )


_SOURCE_NAMES = {
    "hh_harmful": "hh", "hh_benign": "hh", "davidson_hate": "davidson", "davidson_neither": "davidson",
    "textbook_questions": "textbooks", "tldr": "howto", "taskmaster": "dialogues",
}  # fmt: skip
"""Name in `SOURCES` by source of a row, where they differ."""


def _licence(source: str) -> str:
    name = _SOURCE_NAMES.get(source, source)
    if name in SOURCES:
        return SOURCES[name].licence
    return OWN if name in ("ordinary", "contrast_safe", "contrast_unsafe") else SOURCES["tool_requests"].licence


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _is_held_back(key: str) -> bool:
    return hashlib.sha256(f"held back {key}".encode()).digest()[0] % HELD_BACK == 0


def write(rows: Iterable[GuardRow], path: Path) -> None:
    """Write rows as JSON Lines."""
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{row.model_dump_json(exclude_defaults=True)}\n" for row in rows), "utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write both files and print counts; return 0, or 2 with a message if data is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        training, held_back = guard_rows(options.data_dir, options.seed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("training", training), ("validation", held_back)):
        write(rows, options.out / f"{name}.jsonl")
        print(f"{name}: {len(rows):,} rows, {sum(row.unsafe for row in rows):,} unsafe")
        for source, n in Counter(row.source for row in rows).most_common():
            print(f"  {source:20} {n:6,}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
