"""The release: a signed folder if the gate finds nothing missing, else the list of what is."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from modelstack.pipeline.job import StepJob
from modelstack.pipeline.measuring import TASKS_FILE, read_evaluation
from modelstack.pipeline.record import StepResult, write_json
from modelstack.pipeline.steps import STEPS

KEYS = Path("keys")
VERDICT, RELEASE, RESULTS = "verdict", "release", "results"
SERVED = "inference/served"


def work(job: StepJob) -> StepResult:
    """Measure what only a release needs, and release the served stage or name what is missing.

    Raises:
        UserError: The stage is damaged.
    """
    from modelstack.align.release.about import About
    from modelstack.align.release.build import Inputs, Refused, build
    from modelstack.align.release.signature import new_key, read_private_key
    from modelstack.align.release.sources import read_source
    from modelstack.posttrain.stages.stage import is_stage, read_record

    (job.folder / RESULTS).mkdir(exist_ok=True)
    measured = [*_reports(job), job.of("align/results/tamper.json"), job.of("align/attack")]
    earlier = tuple(
        read_record(Path(step.folder))
        for step in STEPS
        if step.name != job.step.name and is_stage(Path(step.folder))
    )
    KEYS.mkdir(mode=0o700, exist_ok=True)
    key = KEYS / "release.pem"
    if not key.exists():
        new_key(key)
    about = About.model_validate(_about(job))
    (job.folder / "about.json").write_text(about.model_dump_json(indent=1) + "\n", encoding="utf-8")
    inputs = Inputs(
        stage=str(job.of(SERVED)),
        about=about,
        results=(*map(read_source, measured), _span(job)),
        earlier=earlier,
    )
    out = job.folder / RELEASE
    faults: list[str] = []
    if not out.exists():
        try:
            build(inputs, out, read_private_key(key))
        except Refused as error:
            faults = [str(fault) for fault in error.faults]
    (job.folder / VERDICT).mkdir(exist_ok=True)
    write_json(job.folder / VERDICT / "gate.json", {"passes": not faults, "faults": faults})
    what = f"released, signed by {key}.pub" if not faults else f"refused by the gate: {len(faults)} faults"
    return StepResult(
        what=what,
        content=(VERDICT,),
        facts={"faults": len(faults)},
        table=(("missing or wrong",), *((fault,) for fault in faults)) if faults else (),
        notes=tuple(faults[:3]),
    )


def _reports(job: StepJob) -> list[Path]:
    """Write the reports on memorisation and contamination; return their files."""
    from modelstack.align.release import memorisation
    from modelstack.align.release.contamination import measured_results
    from modelstack.align.release.subject import loadable
    from modelstack.posttrain.stages.stage import is_stage, read_record
    from modelstack.reasoning.sampling.frozen_model import load_merged
    from modelstack.terminal.progress_bars import progress_bars
    from modelstack.train.process import set_up_process

    set_up_process(job.recipe.threads)
    data, held_out = job.of("data/examples/train.jsonl"), job.of("data/examples/validation.jsonl")
    files = [job.folder / RESULTS / name for name in ("memorisation.json", "contamination.json")]
    sft = Path(next(step.folder for step in STEPS if step.name == "sft"))
    with ExitStack() as held, progress_bars(job.console) as told:
        start, identity = loadable(str(job.of(SERVED)), None, held)
        base = load_merged(start, precision="bf16", device="cpu")
        recorded = {file.sha256 for file in read_record(sft).data.files} if is_stage(sft) else set[str]()
        memorisation.memorisation(
            base.model,
            base.encoder,
            [data],
            [held_out],
            n=job.recipe.release.memorisation_rows,
            seed=job.recipe.seed,
            weights_sha256=identity,
            recorded=recorded,
            told=told,
        ).save(files[0])
        if not is_stage(sft):
            return files[:1]
        found = measured_results(read_record(sft), [data], [job.of("data/evaluation") / TASKS_FILE])
        # Measured on the rows of the fine-tuning, for the weights that descend from it.
        found.model_copy(update={"weights_sha256": identity}).save(files[1])
    return files


def _span(job: StepJob) -> Any:
    """Return the figures of the evaluation that spans the run, of the served model."""
    from modelstack.align.release.figures import Results, figure_of
    from modelstack.pipeline.measuring import IS_BETTER_LOWER

    found = read_evaluation(Path(), "inference")
    figures = () if found is None else found.figures
    return Results(
        figures=tuple(
            figure_of(
                each,
                "lower" if each.name in IS_BETTER_LOWER else "higher",
                "modelstack pipeline",
                None,
                job.recipe.seed,
            )
            for each in figures
        )
    )


def _about(job: StepJob) -> dict[str, Any]:
    """Return the facts of the release, from the recipe and from what the run did."""
    table, recipe = job.recipe.release, job.recipe
    skipped = ", ".join(sorted(recipe.skipped))
    name = re.sub(r"[^A-Za-z0-9._-]", "-", recipe.name)
    base = {"id": f"{name}-base", "licence": "Apache-2.0"}
    if recipe.base is not None:
        known = re.sub(r"[^A-Za-z0-9._-]", "-", Path(recipe.base).name)
        base = {"id": known, "licence": table.base_licence}
    return {
        "name": name,
        "version": table.version,
        "summary": "A small language model made by one pipeline: from raw text to tool calls behind a guard.",
        "licence": "Apache-2.0",
        "notice": (_credits(job),),
        "base": base | {"relation": "finetune"},
        "languages": ("en",),
        "supplier": table.supplier,
        "contact": table.contact,
        "domain": "tool use",
        "autonomy": "Proposes tool calls; the runtime asks a person before calls that change something.",
        "users": ("people who study how a model is made",),
        "uses": ("Reading every step of its making, and repeating it.",),
        "limits": (
            "A model of this size knows little and is often wrong; the figures say how often.",
            *((f"Steps that were skipped: {skipped}.",) if skipped else ()),
        ),
        "risks": (
            {"name": "Harmful requests", "mitigation": "Put a guard in front; see what the model refuses itself."},
        ),
        "fairness": "English alone; no group was measured apart.",
        "explanation": "Each choice between tools has a probability, which traces show.",
        "threshold": "None: a reply is shown as it is written.",
        "preprocessing": "Rules of FineWeb on raw pages, decontaminated against the evaluation of the run.",
        "personal_data": "E-mail and IP addresses in raw pages were replaced by placeholders.",
        "links": {
            "website": table.website,
            "source": f"{table.website}/source",
            "download": f"{table.website}/{name}",
            "paper": "https://arxiv.org/abs/1810.03993",
        },
        "energy": {"watts": table.watts, "note": "release.watts of the recipe"},
        "better": {"KL to the weights before rounding": "lower", "same most probable token": "higher"},
    }


def _credits(job: StepJob) -> str:
    about = json.loads((job.of("data/text") / "about.json").read_text(encoding="utf-8"))
    licences = sorted({licence for several in about["licences"].values() for licence in several if licence})
    kinds = sorted({re.sub(r"\s*\(.*", "", licence) for licence in licences})
    return f"Texts of the training are under {', '.join(kinds)}; the data step lists every source."
