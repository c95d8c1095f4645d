"""Evaluation that spans a pipeline: the same figures and samples after every step that changes the model.

The figures are bits per byte on held-out text, valid and right tool calls on held-back tasks, and refusals of
harmful and of harmless requests; the same prompts are continued greedily. The cases are part of the data step's
output and the same for all steps, so a difference between two steps is the step's own. A step is measured once:
the file holds a hash of the model, the cases and the settings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from modelstack.files import replacing
from modelstack.pipeline.job import StepJob
from modelstack.pipeline.recipe import EvaluationTable
from modelstack.pipeline.record import StepRecord, key_of
from modelstack.pipeline.steps import BY_NAME
from modelstack.posttrain.stages.record import Measurement

if TYPE_CHECKING:
    from modelstack.posttrain.base import Base
    from modelstack.train.evaluation import Score

FOLDER = "evaluations"
TEXT_FILE, TASKS_FILE, REQUESTS_FILE = "held-out.jsonl", "tasks.jsonl", "requests.json"
CLEAN_FILE = "clean-pages.jsonl"
"""Texts of the domains of the made pages, of which no page is made; a run on a crawl has none."""
BITS, VALID, RIGHT, RIGHT_WITH_GRAMMAR, REFUSED, OVER_REFUSED = (
    "bits per byte",
    "valid replies",
    "right calls",
    "right calls, grammar",
    "harmful refused",
    "harmless refused",
)
IS_BETTER_LOWER = frozenset({BITS, OVER_REFUSED})


class Sample(BaseModel, frozen=True, extra="forbid"):
    """A prompt and its most probable continuation."""

    prompt: str
    is_request: bool
    text: str


class Evaluated(BaseModel, frozen=True, extra="forbid"):
    """Content of the file of a step."""

    key: str
    step: str
    figures: tuple[Measurement, ...]
    samples: tuple[Sample, ...]
    bits: tuple[float, ...] = ()
    """Bits of each held-out text, for differences between two steps."""
    n_bytes: tuple[int, ...] = ()
    """Scored bytes of each."""

    def figure(self, name: str) -> Measurement | None:
        """Return the figure with a name."""
        return next((each for each in self.figures if each.name == name), None)


def evaluation_key(model_digest: str, cases_digest: str, table: EvaluationTable, package: str) -> str:
    """Return the hash that a step's evaluation follows from."""
    inputs = {"model": model_digest, "cases": cases_digest}
    return key_of("evaluation", 2, package, {"evaluation": table.model_dump(mode="json")}, inputs)


def read_evaluation(folder: Path, step: str) -> Evaluated | None:
    """Return a step's evaluation; None: it is missing or unreadable, and is made again."""
    file = folder / FOLDER / f"{BY_NAME[step].folder}.json"
    try:
        return Evaluated.model_validate_json(file.read_bytes())
    except (OSError, ValueError):
        return None


def measure_step(job: StepJob, record: StepRecord) -> Evaluated:
    """Measure the model of a step and write the file."""
    from modelstack.pipeline.record import read_record

    assert record.result.model is not None  # a step that makes a model names it
    data = read_record(job.of("data/."))
    cases = data.part("evaluation") if data is not None else ""
    key = evaluation_key(record.digest, cases, job.recipe.evaluation, record.package)
    found = read_evaluation(Path(), job.step.name)
    if found is not None and found.key == key:
        return found
    job.say(f"measuring the model of step {job.step.name}")
    evaluated = measured(str(job.folder / record.result.model), job, key)
    path = Path(FOLDER) / f"{job.step.folder}.json"
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(evaluated.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return evaluated


def measured(model: str, job: StepJob, key: str) -> Evaluated:
    """Return the figures and samples of a model, under the hash that they follow from.

    Raises:
        UserError: The model cannot be read.
    """
    from modelstack.posttrain.starting_point import starting_point
    from modelstack.reasoning.sampling.frozen_model import load_merged
    from modelstack.train.process import set_up_process

    set_up_process(job.recipe.threads)
    base = load_merged(starting_point(model), precision="fp32", device="auto")
    table = job.recipe.evaluation
    score = _scored(base, job.of("data/evaluation") / TEXT_FILE, table)
    figures = (
        _bits_per_byte(score),
        *_calls(base, job.of("data/evaluation") / TASKS_FILE, table),
        *_refusals(base, job.of("data/evaluation") / REQUESTS_FILE, table.requests),
    )
    for each in figures:
        job.say(f"{each.name}: {each.value:.4f} (n = {each.n})")
    return Evaluated(
        key=key,
        step=job.step.name,
        figures=figures,
        samples=tuple(_samples(base, table)),
        bits=tuple(round(float(nats) / math.log(2), 3) for nats in score.nats),
        n_bytes=tuple(map(int, score.n_bytes)),
    )


def share(name: str, n: int, of: int, note: str = "") -> Measurement:
    """Return a share with Wilson's interval."""
    from modelstack.align.attack.report import Rate

    low, high = Rate(n, of).interval
    value = n / of
    return Measurement(name=name, value=value, low=min(low, value), high=max(high, value), n=of, note=note)


def _scored(base: Base, file: Path, table: EvaluationTable) -> Score:
    from modelstack.tokenizer.documents import read_documents, sample_of
    from modelstack.train.evaluation import evaluate, held_out

    texts = [each.text for each in sample_of(read_documents(file), int(1000 * table.kilobytes))]
    return evaluate(base.model, held_out(texts, base.tokenizer), table.row_tokens)


def _bits_per_byte(score: Score) -> Measurement:
    interval = score.interval()
    return Measurement(
        name=BITS,
        value=score.bits_per_byte,
        low=min(interval.low, score.bits_per_byte),
        high=max(interval.high, score.bits_per_byte),
        n=len(score.nats),
        note="held-out text",
    )


def _calls(base: Base, file: Path, table: EvaluationTable) -> list[Measurement]:
    from modelstack.reasoning.rollouts.call_shares import call_shares
    from modelstack.reasoning.sampling.continuing import TorchPolicy
    from modelstack.reasoning.tasks.task import read_tasks

    tasks = [task.judged_by("calls") for task in read_tasks(file)][: table.tasks]
    found = call_shares(TorchPolicy(base.model), base.encoder, tasks, table.reply_tokens)
    shares = ((VALID, found.valid), (RIGHT, found.right), (RIGHT_WITH_GRAMMAR, found.right_with_grammar))
    return [share(name, round(value * len(tasks)), len(tasks)) for name, value in shares]


def _refusals(base: Base, file: Path, n: int) -> list[Measurement]:
    from modelstack.align.refusal_direction.replies import n_refused

    asked: dict[str, list[str]] = json.loads(file.read_text(encoding="utf-8"))
    found: list[Measurement] = []
    for name, kind in ((REFUSED, "harmful"), (OVER_REFUSED, "harmless")):
        texts = asked[kind][:n]
        found.append(share(name, n_refused(base.model, base.encoder, texts), len(texts)))
    return found


def _samples(base: Base, table: EvaluationTable) -> list[Sample]:
    from modelstack.align.refusal_direction.find import prompt_ids as request_ids
    from modelstack.align.refusal_direction.replies import greedy_replies
    from modelstack.train.samples import prompt_ids

    prompts: Sequence[Sequence[int]] = [
        *(prompt_ids(base.tokenizer, text) for text in table.prompts),
        *(request_ids(base.encoder, text) for text in table.asked),
    ]
    vocabulary = base.tokenizer.vocabulary
    replies = greedy_replies(base.model, base.encoder.end_ids, prompts, table.sample_tokens)
    asked = [*((text, False) for text in table.prompts), *((text, True) for text in table.asked)]
    return [
        Sample(prompt=text, is_request=is_request, text=vocabulary.decode(list(reply.ids)))
        for (text, is_request), reply in zip(asked, replies, strict=True)
    ]
