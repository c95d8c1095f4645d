"""Rows for the request-harm classifier and its hazard head."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from tools.classifiers.contrast_pairs import TEMPLATES, contrast_pairs
from tools.classifiers.data_files import read_source
from tools.classifiers.fitting import Example
from tools.classifiers.hazards import MILD_CATQA, catqa_hazard, hazard_by_rule
from tools.classifiers.near_duplicates import near_duplicate_groups
from tools.classifiers.ordinary_requests import ordinary_requests

HARM = "harm"
N_BENIGN: dict[str, int] = {
    "metatool": 2400, "seal-tools": 900, "snips": 500, "nlu-eval": 900, "toolrl-sft": 300, "toolalpaca": 139,
    "api-bank": 109, "glaive-demo": 98, "home-assistant": 100,
}  # fmt: skip
"""Number of requests by source of tool requests; sources without a clear licence are not listed."""
MADE_BY_RULE = frozenset({"ordinary", "tldr"})
"""Benign sources made of templates; they are fitted on, but set no false-positive rates."""
_QUESTION = re.compile(r"(?<=[.?!\n] )[A-Z][^.?!\n]{20,180}\?")


def ordinary_rows(folder: Path, seed: int = 0) -> list[Example]:
    """Return benign rows of everyday requests, from public sets and by rule."""
    draw = random.Random(seed)
    tasks = _command_tasks(folder, draw)
    parts: dict[str, list[str]] = {
        **_tool_requests(folder, draw),
        "self_instruct": [str(r["text"]) for r in read_source(folder, "self_instruct")],
        "gsm8k": _sample([str(r["question"]) for r in read_source(folder, "gsm8k")], 700, draw),
        "mbpp": [str(r["text"]) for r in read_source(folder, "mbpp") if 601 <= int(r["task_id"]) <= 974],
        "tldr": [f"{draw.choice(TEMPLATES.how)} {task}" for task in tasks[:1200]],
        "ordinary": ordinary_requests(seed, 3500, tuple(tasks[1200:3000])),
        "textbook_questions": _sample(list(_textbook_questions(folder)), 1500, draw),
        "taskmaster": _sample(list(_first_turns(folder)), 400, draw),
    }
    rows: list[Example] = []
    for source, texts in parts.items():
        texts = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
        for text, group in zip(texts, near_duplicate_groups(texts), strict=True):
            made = source in MADE_BY_RULE
            # Two tasks in one template are not near-duplicates, and templates are not what people write.
            key = f"{source}:{len(rows)}" if made else f"{source}:{group}"
            rows.append(Example(text, frozenset(), source, key, sets_thresholds=not made))
    return rows


def passages(folder: Path, name: str, n: int, draw: random.Random, length: tuple[int, int]) -> list[str]:
    """Return pieces of documents that begin at a paragraph and are `length` characters long."""
    found: list[str] = []
    for record in read_source(folder, name):
        paragraphs = str(record["text"]).split("\n\n")
        start = draw.randrange(len(paragraphs))
        piece = "\n\n".join(paragraphs[start : start + 8])[: draw.randint(*length)].strip()
        if len(piece) >= length[0] // 2:
            found.append(piece)
    return _sample(found, n, draw)


def request_rows(folder: Path, seed: int = 0) -> list[Example]:
    """Return all rows for request harm except the held-out contrast pairs.

    Raises:
        UserError: a file is missing or broken.
    """
    draw = random.Random(seed)
    rows = [*_public(folder), *_hateful_posts(folder, draw), *ordinary_rows(folder, seed)]
    for text in passages(folder, "textbooks", 700, draw, (200, 1200)):
        rows.append(Example(text, frozenset(), "textbooks", f"textbooks:{len(rows)}", weight=0.5))
    for text in passages(folder, "stories", 300, draw, (200, 1200)):
        rows.append(Example(text, frozenset(), "stories", f"stories:{len(rows)}", weight=0.5))
    harm = frozenset({HARM})
    for pair in contrast_pairs(seed):
        if not pair.held_out:
            group = f"contrast:{pair.family}"
            if pair.family == "two_senses":  # a fold holds out verbs, not the whole kind
                group += ":" + pair.safe.split()[-1]
            rows.append(Example(pair.safe, frozenset(), "contrast_safe", group))
            rows.append(Example(pair.unsafe, harm | {pair.hazard}, "contrast_unsafe", group))
    return _distinct(rows)


def _distinct(rows: list[Example]) -> list[Example]:
    seen: dict[str, Example] = {}
    for row in rows:
        seen.setdefault(row.text, row)
    return list(seen.values())


def _public(folder: Path) -> Iterator[Example]:
    found: list[tuple[str, str, frozenset[str], float]] = []
    found += [
        (r["text"], "advbench", _harmful(hazard_by_rule(r["text"])), 1.0) for r in read_source(folder, "advbench")
    ]
    for record in read_source(folder, "catqa"):
        mild = record["category"].startswith(MILD_CATQA)
        hazard = catqa_hazard(record["category"])
        found.append((record["text"], "catqa", _harmful(hazard), 0.3 if mild else 1.0))
    found += [(r["text"], "harmfulqa", _harmful(None), 0.3) for r in read_source(folder, "harmfulqa")]
    for text, harmful in _red_team_openings(folder):
        if harmful:
            found.append((text, "hh_harmful", _harmful(hazard_by_rule(text)), 1.0))
        else:
            found.append((text, "hh_benign", frozenset(), 1.0))
    groups = near_duplicate_groups([text for text, *_ in found])
    for (text, source, labels, weight), group in zip(found, groups, strict=True):
        yield Example(text, labels, source, f"public:{group}", weight=weight)


def _harmful(hazard: str | None) -> frozenset[str]:
    return frozenset({HARM, hazard} if hazard else {HARM})


def _red_team_openings(folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield first turns of red-teamers, and whether each is harmful by our labels.

    The set itself has no such label, and many openings are harmless. `hh_labels.json` holds digests of the texts
    that were read and labelled once; insults, opinions and small talk were left out.
    """
    labels = json.loads((Path(__file__).parent / "hh_labels.json").read_text("utf-8"))
    harmful, benign = frozenset(labels["harmful"]), frozenset(labels["benign"])
    seen: set[str] = set()
    for record in read_source(folder, "hh"):
        opening = str(record["chosen"]).partition("\n\nHuman: ")[2].partition("\n\nAssistant:")[0].strip()
        digest = hashlib.sha256(opening.encode()).hexdigest()[:12]
        if digest not in seen and digest in harmful | benign:
            seen.add(digest)
            yield opening, digest in harmful


def _hateful_posts(folder: Path, draw: random.Random) -> Iterator[Example]:
    """Yield posts labelled by people as hate speech or neither; offensive posts are left out (dialect bias)."""
    posts: dict[str, list[str]] = {"hate": [], "neither": []}
    for record in read_source(folder, "davidson"):
        if record["label"] in posts:
            text = re.sub(r"&amp;|&#\d+;|@\w+:?|\bRT\b|https?://\S+|!{2,}", " ", record["text"])
            posts[record["label"]].append(re.sub(r"\s+", " ", text).strip(' "'))
    for label, n in (("hate", 600), ("neither", 700)):
        for i, text in enumerate(_sample([t for t in posts[label] if len(t) > 15], n, draw)):
            labels = frozenset({HARM, "S10"}) if label == "hate" else frozenset[str]()
            yield Example(text, labels, f"davidson_{label}", f"davidson:{label}:{i}", weight=0.3)
    identity = [r["text"] for r in read_source(folder, "bias_templates") if r["label"] == "nontoxic"]
    for text in _sample(identity, 400, draw):
        yield Example(text, frozenset(), "bias_templates", "bias_templates", weight=0.5)


def _tool_requests(folder: Path, draw: random.Random) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {source: [] for source in N_BENIGN}
    for record in read_source(folder, "tool_requests"):
        first = record["messages"][0]
        if record["source"] in found and first["role"] == "user":
            found[record["source"]].append(first["content"].strip().strip('"'))
    return {source: _sample(sorted(set(texts)), N_BENIGN[source], draw) for source, texts in found.items()}


def _command_tasks(folder: Path, draw: random.Random) -> list[str]:
    """Return tasks of command-line pages in the imperative, such as "kill all processes that match a pattern"."""
    tasks: set[str] = set()
    for record in read_source(folder, "howto"):
        for line in str(record["text"]).splitlines():
            if line.startswith("- ") and line.endswith(":"):
                task = re.sub(r"[\[\]`]", "", line[2:-1]).strip()
                tasks.add(task[:1].lower() + task[1:])
    ordered = sorted(tasks)
    draw.shuffle(ordered)
    return ordered


def _textbook_questions(folder: Path) -> Iterator[str]:
    for record in read_source(folder, "textbooks"):
        yield from _QUESTION.findall(str(record["text"]))


def _first_turns(folder: Path) -> Iterator[str]:
    for record in read_source(folder, "dialogues"):
        first = str(record["text"]).split("\n", 1)[0]
        if first.startswith("User: "):
            yield first.removeprefix("User: ")


def _sample(texts: list[str], n: int, draw: random.Random) -> list[str]:
    return texts if len(texts) <= n else draw.sample(texts, n)
