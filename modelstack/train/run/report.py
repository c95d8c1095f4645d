"""Report of a run: model, data, recipe, results, speed, and incidents.

All content comes from the run's own records: the recipe with its hash, the metrics, the held-out documents and the
files of text with their hashes and licences. Baselines (n-gram models, compressors) are scored on the same
documents as the model. `page` is a function of plain data. `write_report` writes it to the run's folder, with the
curves and with `report.json` for programs.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, Field

from modelstack.architecture.counts.table import quantity
from modelstack.decide.outcome import Outcome, compare, comparison_table
from modelstack.decide.plan_file import Plan
from modelstack.files import replacing, sha256_of
from modelstack.tokenizer.documents import is_held_out, read_documents
from modelstack.train.curves import PLOT_FILE, ROLL_BACK, write_curves
from modelstack.train.evaluation import HeldOut, Score
from modelstack.train.metrics import Measured, read_metrics
from modelstack.train.run.baselines import Baseline
from modelstack.train.samples import last_section
from modelstack.train.utilisation import Utilisation, mean_mfu

REPORT_FILE, FACTS_FILE = "report.md", "report.json"
SHOWN_EVENTS = 40
UNKNOWN_LICENCE = "not stated"


class HeldOutResult(BaseModel, frozen=True, extra="forbid"):
    """Score of the trained model on held-out documents."""

    bits_per_byte: float
    low: float
    high: float
    """95 % interval from a bootstrap over documents, from `low` to here."""
    loss: float
    """Nats per scored token."""
    n_documents: int
    n_bytes: int
    n_tokens: int
    fingerprint: str
    """SHA-256 of the scored bytes."""


class DataFile(BaseModel, frozen=True, extra="forbid"):
    """A file of text, with counts for the split."""

    name: str
    sha256: str
    n_documents: int
    n_bytes: int
    n_held_out: int
    """Number of held-out documents."""
    licences: dict[str, int]
    """Number of documents by licence, as stated in each record."""


class Speed(BaseModel, frozen=True, extra="forbid"):
    """Inputs of the utilisation."""

    flops_per_token: float
    """FLOPs of forward and backward pass, with causal attention."""
    plain_flops_per_token: float
    """6 N + 12 L d T, the formula of other code bases."""
    peak_flops: float
    """Peak FLOP/s of one device."""
    peak_source: str
    n_devices: int = 1


class RunFacts(BaseModel, frozen=True, extra="forbid"):
    """Facts of the report in addition to the metrics."""

    name: str
    recipe: str
    """The resolved recipe as text."""
    recipe_sha256: str
    steps: int
    """Number of steps in the recipe."""
    model: dict[str, str]
    """Rows of the model table: shape, precision, layout."""
    n_parameters: int
    n_active: int
    seeds: dict[str, int]
    machine: dict[str, str]
    data: tuple[DataFile, ...] = ()
    held_out: HeldOutResult | None = None
    """None for an interrupted run."""
    baselines: tuple[Baseline, ...] = ()
    speed: Speed | None = None
    peak_memory_bytes: int | None = Field(default=None, gt=0)
    goodput: tuple[str, ...] = ()
    """Lines of `modelstack goodput`."""


def write_report(
    facts: RunFacts,
    folder: Path,
    *,
    metrics_file: Path,
    samples_file: Path | None = None,
    plan: Plan | None = None,
) -> Path:
    """Write `report.md`, `report.json` and the curves to a run's folder; return the page's path.

    Raises:
        UserError: The metrics are missing or broken.
    """
    measured = read_metrics(metrics_file)
    write_curves(metrics_file, folder, {each.name: each.bits_per_byte for each in facts.baselines})
    samples = samples_file.read_text(encoding="utf-8") if samples_file and samples_file.exists() else ""
    with replacing(folder / FACTS_FILE) as temporary:
        temporary.write_text(facts.model_dump_json(indent=1) + "\n", encoding="utf-8")
    with replacing(folder / REPORT_FILE) as temporary:
        temporary.write_text(page(facts, measured, samples, plan), encoding="utf-8")
    return folder / REPORT_FILE


def page(facts: RunFacts, measured: Measured, samples: str = "", plan: Plan | None = None) -> str:
    """Return the report as Markdown.

    Args:
        facts: Facts of the run.
        measured: Metrics of the run.
        samples: The content of `samples.md`.
        plan: The plan that the recipe followed.
    """
    parts = [
        f"# Run: {facts.name}\n",
        *_notes(facts, measured),
        _table(("", ""), _outcome_rows(facts, measured)),
        f"![Loss, held-out bits per byte, gradient norm, learning rates]({PLOT_FILE})\n",
        *_comparison(facts),
        *_plan(facts, measured, plan),
        *_time(facts, measured),
        *_events(measured),
        "## Model\n",
        _table(("", ""), [("parameters", _parameters(facts)), *facts.model.items()]),
        *_data(facts),
        *_samples(samples),
        "## Recipe\n",
        f"SHA-256 `{facts.recipe_sha256}`; seeds: {_pairs(facts.seeds)}.\n",
        "\n".join(f"    {line}" for line in facts.recipe.splitlines()) + "\n",
        "## Machine\n",
        _table(("", ""), facts.machine.items()),
    ]
    return "\n".join(parts)


def outcome_of(facts: RunFacts, measured: Measured) -> Outcome:
    """Return the measurements of the run that are compared with its plan."""
    causes = time_by_cause(measured)
    return Outcome(
        n_parameters=facts.n_parameters,
        n_tokens=measured.steps[-1].n_tokens if measured.steps else 0,
        hours=sum(seconds for cause, seconds in causes.items() if cause != "nothing ran") / 3600,
        loss=facts.held_out.loss if facts.held_out else None,
        utilisation=_utilisation(measured),
        peak_memory_bytes=facts.peak_memory_bytes,
    )


def time_by_cause(measured: Measured) -> dict[str, float]:
    """Return the elapsed seconds of the run by cause; they add up to the total."""
    causes = {
        "steps": sum(record.seconds for record in measured.steps if not record.rejected),
        "rejected steps": sum(record.seconds for record in measured.steps if record.rejected),
        "evaluation": sum(record.seconds for record in measured.evaluations),
    }
    for record in measured.spent:
        causes[record.cause] = causes.get(record.cause, 0.0) + record.seconds
    causes["steps taken again"] = sum(start.lost_seconds for start in measured.starts)
    causes["nothing ran"] = sum(start.down_seconds for start in measured.starts)
    wall = measured.last_time - measured.starts[0].began if measured.starts else sum(causes.values())
    causes["data, checkpoints, the rest"] = max(0.0, wall - sum(causes.values()))
    return {cause: seconds for cause, seconds in causes.items() if seconds > 0}


def held_out_result(score: Score, documents: HeldOut) -> HeldOutResult:
    """Return a model's score in the form of the report."""
    interval = score.interval()
    return HeldOutResult(
        bits_per_byte=interval.value,
        low=interval.low,
        high=interval.high,
        loss=score.loss,
        n_documents=len(score.nats),
        n_bytes=int(score.n_bytes.sum()),
        n_tokens=int(score.n_tokens.sum()),
        fingerprint=documents.fingerprint,
    )


def data_files(files: Iterable[Path], held_out_share: float) -> tuple[DataFile, ...]:
    """Return files of text with hashes, counts and licences; each file is read once.

    Raises:
        UserError: A file is broken.
    """
    return tuple(_data_file(file, held_out_share) for file in files)


def speed_of(utilisation: Utilisation, plain_flops_per_token: float) -> Speed:
    """Return the inputs of the utilisation in the form of the report."""
    return Speed(
        flops_per_token=utilisation.flops_per_token,
        plain_flops_per_token=plain_flops_per_token,
        peak_flops=utilisation.peak.flops,
        peak_source=utilisation.peak.source,
        n_devices=utilisation.n_devices,
    )


def machine_facts(device: torch.device) -> dict[str, str]:
    """Return facts on the machine, without names of the machine or its user."""
    n_cores = len(os.sched_getaffinity(0))
    facts = {
        "processor": f"{platform.machine()}, {n_cores} cores, {torch.get_num_threads()} threads",
        "system": f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}",
    }
    if device.type == "cuda":
        facts["device"] = torch.cuda.get_device_name(device)
    return facts


def _notes(facts: RunFacts, measured: Measured) -> list[str]:
    notes = []
    done = measured.steps[-1].step + 1 if measured.steps else 0
    if done < facts.steps:
        notes.append(f"The run is not finished: {done:,} of {facts.steps:,} steps.")
    if facts.held_out is not None and facts.baselines:
        best = min(facts.baselines, key=lambda each: each.bits_per_byte)
        if best.bits_per_byte <= facts.held_out.bits_per_byte:
            notes.append(f"The model is no better than the baseline {best.name!r}.")
    return [f"> **Note.** {note}\n" for note in notes]


def _outcome_rows(facts: RunFacts, measured: Measured) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    if (result := facts.held_out) is not None:
        bits = f"**{result.bits_per_byte:.4f}** ({result.low:.4f} to {result.high:.4f}, 95 %)"
        rows += [
            ("held-out bits per byte", bits),
            ("measured on", f"{result.n_bytes:,} bytes of {result.n_documents:,} documents"),
            ("held-out loss", f"{result.loss:.4f} nats per token, {result.n_tokens:,} tokens"),
        ]
    if measured.steps:
        last = measured.steps[-1]
        rows.append(("trained on", f"{last.n_tokens:,} tokens in {last.step + 1:,} steps"))
        taken = [record for record in measured.steps if not record.rejected]
        if taken and (loss := taken[-1].losses.get("total")) is not None:
            rows.append(("loss of the last step", f"{loss:.4f}"))
        if taken:
            rate = statistics.median(record.tokens_per_second for record in taken)
            rows.append(("throughput", f"{rate:,.0f} tokens per second (median of steps)"))
    if (mfu := _utilisation(measured)) is not None and facts.speed is not None:
        plain = mfu * facts.speed.plain_flops_per_token / facts.speed.flops_per_token
        rows += [
            ("utilisation (MFU)", f"{mfu:.1%} ({plain:.1%} by 6 N + 12 L d T)"),
            ("of a peak of", f"{facts.speed.peak_flops / 1e9:,.1f} GFLOP/s a device: {facts.speed.peak_source}"),
        ]
    if facts.peak_memory_bytes:
        rows.append(("memory at most", quantity(facts.peak_memory_bytes, "B")))
    return rows


def _comparison(facts: RunFacts) -> list[str]:
    if facts.held_out is None or not facts.baselines:
        return []
    result = facts.held_out
    ours = ("**this model**", f"{result.bits_per_byte:.4f}", _interval(result.low, result.high), "", "")
    rows = [
        (
            each.name,
            f"{each.bits_per_byte:.4f}",
            _interval(each.low, each.high),
            f"{each.bits_per_byte / result.bits_per_byte:.2f}x",
            f"{each.what}; {each.seconds:.1f} s",
        )
        for each in sorted(facts.baselines, key=lambda each: each.bits_per_byte)
    ]
    head = ("", "bits per byte", "95 %", "of the model's", "what")
    return ["## Baselines\n", "On the same held-out documents.\n", _table(head, [ours, *rows])]


def _plan(facts: RunFacts, measured: Measured, plan: Plan | None) -> list[str]:
    if plan is None:
        return []
    return [
        "## Plan and outcome\n",
        f"Plan `{plan.fingerprint}`. Hours are those in which a process ran.\n",
        comparison_table(compare(plan, outcome_of(facts, measured))),
    ]


def _time(facts: RunFacts, measured: Measured) -> list[str]:
    causes = time_by_cause(measured)
    total = sum(causes.values())
    if not total:
        return []
    rows = [(cause, f"{seconds:,.1f}", f"{seconds / total:.1%}") for cause, seconds in causes.items()]
    goodput = ["\n".join(f"    {line}" for line in facts.goodput) + "\n"] if facts.goodput else []
    return ["## Time\n", _table(("", "seconds", "share"), [*rows, ("all", f"{total:,.1f}", "")]), *goodput]


def _events(measured: Measured) -> list[str]:
    rejected = [record for record in measured.steps if record.rejected]
    roll_backs = [event for event in measured.events if ROLL_BACK in event.text]
    lost = sum(start.lost_steps for start in measured.starts)
    counts = (
        f"{len(rejected):,} steps rejected, {len(roll_backs):,} roll-backs; the run was started "
        f"{len(measured.starts):,} times, and took {lost:,} steps again.\n"
    )
    shown = measured.events[-SHOWN_EVENTS:]
    left_out = len(measured.events) - len(shown)
    note = [f"The last {SHOWN_EVENTS} of {len(measured.events):,}.\n"] if left_out else []
    table = [_table(("step", "event"), [(f"{event.step:,}", event.text) for event in shown])] if shown else []
    return ["## Guard\n", counts, *note, *table]


def _data(facts: RunFacts) -> list[str]:
    if not facts.data:
        return []
    rows = [
        (
            each.name,
            f"{each.n_documents:,}",
            f"{each.n_held_out:,}",
            f"{each.n_bytes:,}",
            ", ".join(f"{licence} ({n:,})" for licence, n in each.licences.items()),
            f"`{each.sha256}`",
        )
        for each in facts.data
    ]
    head = ("file", "documents", "held out", "bytes", "licences (documents)", "SHA-256")
    held_out = facts.held_out
    scored = [f"SHA-256 of the scored bytes: `{held_out.fingerprint}`.\n"] if held_out else []
    return ["## Data\n", _table(head, rows), *scored]


def _samples(samples: str) -> list[str]:
    section = last_section(samples)
    return [f"## Samples\n\n#{section}"] if section else []  # its heading moves one level down


def _data_file(file: Path, held_out_share: float) -> DataFile:
    licences: Counter[str] = Counter()
    n_bytes = n_held_out = 0
    for document in read_documents(file):
        licences[document.license or UNKNOWN_LICENCE] += 1
        n_bytes += len(document.text.encode("utf-8", "replace"))
        n_held_out += is_held_out(document.text, held_out_share)
    return DataFile(
        name=file.name,
        sha256=sha256_of(file),
        n_documents=licences.total(),
        n_bytes=n_bytes,
        n_held_out=n_held_out,
        licences=dict(licences.most_common()),
    )


def _utilisation(measured: Measured) -> float | None:
    return mean_mfu((record.mfu for record in measured.steps), (record.seconds for record in measured.steps))


def _parameters(facts: RunFacts) -> str:
    active = "" if facts.n_active == facts.n_parameters else f", {facts.n_active:,} of them read for a token"
    return f"{facts.n_parameters:,}{active}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.4f} to {high:.4f}"


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    """Return text that cannot break its table cell."""
    return " ".join(text.replace("|", "\\|").split())
