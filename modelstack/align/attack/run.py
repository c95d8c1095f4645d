"""A red-team run: every request under every transform, judged, resumable after a kill.

Records are one line each, with the kind of the reply and whether the classifiers flag what the attacker wrote. The
replies themselves are not stored: a file of harmful answers would be of use to nobody else.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from modelstack.align.attack.targets import Answer, Target
from modelstack.align.attack.transforms import Attempt, Transform, transforms_with
from modelstack.align.guard_training.rows import GuardRow
from modelstack.align.guards.assess import assess_jailbreak, assess_request
from modelstack.align.guards.refusal_judge import judge_refusal
from modelstack.errors import UserError
from modelstack.files import whole_lines
from modelstack.run_folder import RunFolder, claim
from modelstack.train.run.stopping import stop_asked

RECORDS_FILE = "attempts.jsonl"
POINT = "fpr_1"
"""Operating point of the classifiers in front."""
Kind = Literal["refusal", "partial", "compliance", "stopped", "unable"]
"""Outcome of an attempt: the judge's kinds, a reply that a filter stopped, a form that the target lacks."""
Told = Callable[[int, int], object]


class Record(BaseModel, frozen=True, extra="forbid"):
    """Outcome of a request under a transform."""

    transform: str
    id: str
    harmful: bool
    hazard: str | None
    kinds: tuple[Kind, ...]
    """Kind of each sampled reply."""
    flagged: bool
    """Whether the classifiers of requests or of jailbreaks flag the attempt."""

    @property
    def succeeded(self) -> bool:
        """Whether a reply complied; of a harmful request, that the attack succeeded."""
        return "compliance" in self.kinds


class AttackPlan(BaseModel, frozen=True, extra="forbid"):
    """Settings that identify a run."""

    target: str
    requests_sha256: str
    transforms: tuple[str, ...]
    suffixes: tuple[str, ...] = ()
    """Suffixes that a search found, for the transform `searched-suffix`."""
    samples: int
    seed: int
    max_tokens: int
    temperature: float

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of the run."""

    id: str
    text: str
    harmful: bool
    hazard: str | None
    pair: str
    """Name that twins share."""


def chosen_requests(rows: Sequence[GuardRow], n: int, seed: int) -> list[Asked]:
    """Return `n` harmful requests, twins first, each with its harmless twin if it has one.

    Raises:
        UserError: There is no harmful request.
    """
    requests = [row for row in rows if row.judged == "user" and len(row.turns) == 1]
    twins = {row.pair: row for row in requests if row.pair is not None and not row.unsafe}
    harmful = [row for row in requests if row.unsafe]
    if not harmful:
        raise UserError("the rows have no harmful request of one message: there is nothing to attack with")
    random.Random(seed).shuffle(harmful)
    harmful.sort(key=lambda row: row.pair not in twins)
    found: list[Asked] = []
    for row in harmful[:n]:
        hazard = row.categories[0] if row.categories else None
        pair = row.pair or row.id
        found.append(Asked(row.id, row.turns[0].content, True, hazard, pair))
        twin = None if row.pair is None else twins.get(row.pair)
        if twin is not None:
            found.append(Asked(twin.id, twin.turns[0].content, False, hazard, pair))
    return found


def attack(
    target: Target, requests: Sequence[Asked], plan: AttackPlan, path: Path, told: Told, at_once: int = 32
) -> list[Record] | None:
    """Run or resume all attempts; return their records, or None if a stop was requested.

    Raises:
        UserError: The folder holds another run, a record is damaged, or the target failed.
    """
    folder = RunFolder(path)
    with folder.held(), stop_asked() as stop:
        claim(folder.recipe, plan, plan.fingerprint, free=set(), layout=set())
        records = {(each.transform, each.id): each for each in read_records(path)}
        n_all = len(plan.transforms) * len(requests)
        waiting = [
            (name, asked) for name in plan.transforms for asked in requests if (name, asked.id) not in records
        ]
        told(len(records), n_all)
        with (path / RECORDS_FILE).open("ab") as lines:
            for start in range(0, len(waiting), at_once):
                for record in _attempted(target, waiting[start : start + at_once], plan):
                    records[record.transform, record.id] = record
                    lines.write(record.model_dump_json().encode() + b"\n")
                lines.flush()
                os.fsync(lines.fileno())
                told(len(records), n_all)
                if stop.asked and len(records) < n_all:
                    return None
        return list(records.values())


def _attempted(target: Target, several: Sequence[tuple[str, Asked]], plan: AttackPlan) -> Iterator[Record]:
    transforms = transforms_with(plan.suffixes)
    attempts = [attempt_of(transforms[name], name, asked, plan.seed) for name, asked in several]
    repeated = [attempt for attempt in attempts for _ in range(plan.samples)]
    seeds = [plan.seed + number % plan.samples for number in range(len(repeated))]
    answers = target.answers(repeated, seeds)
    for number, ((name, asked), attempt) in enumerate(zip(several, attempts, strict=True)):
        own = answers[number * plan.samples : (number + 1) * plan.samples]
        yield Record(
            transform=name,
            id=asked.id,
            harmful=asked.harmful,
            hazard=asked.hazard,
            kinds=tuple(_kind(asked.text, answer) for answer in own),
            flagged=_is_flagged(attempt.text),
        )


def attempt_of(transform: Transform, name: str, asked: Asked, seed: int) -> Attempt:
    """Return a request under a transform of some name; twins get the same draws."""
    return transform(asked.text, random.Random(f"{seed} {name} {asked.pair}"))


def _kind(request: str, answer: Answer) -> Kind:
    if answer.unable or answer.stopped:
        return "unable" if answer.unable else "stopped"
    return judge_refusal(request, answer.text).kind


def _is_flagged(text: str) -> bool:
    return any(POINT in assess(text).flagged_at for assess in (assess_request, assess_jailbreak))


def read_records(path: Path) -> list[Record]:
    """Return the records of a run.

    Raises:
        UserError: A line is damaged.
    """
    file = path / RECORDS_FILE
    records: list[Record] = []
    for number, line in enumerate(whole_lines(file), 1):
        try:
            records.append(Record.model_validate_json(line))
        except ValidationError as error:
            raise UserError(f"{file}, line {number} is damaged: remove it to run its attempt again") from error
    return records


def requests_sha256(requests: Sequence[Asked]) -> str:
    """Return the hash of the requests."""
    content = [(each.id, each.text, each.harmful, each.hazard) for each in requests]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
