"""Suite `refusals`: harmful, borderline and benign requests, one plain question each, then the refusal judge.

Requests come from the user's files (`evals.refusals.formats`), by default from a small sample written for this
repository, which shows that the suite works but measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from agentkit.errors import UserError
from agentkit.models.base import Model, ModelRequestParameters, ModelSettings
from evals.case import Case, Run
from evals.harness.solving import ask_model
from evals.harness.suite import Suite, check_options, choice_of
from evals.refusals.formats import Request, parse_label, read_requests
from evals.refusals.guard import load_guard
from evals.refusals.plots import plots
from evals.refusals.report import tables
from evals.refusals.scoring import GUARD_PROBABILITY, score_refusal

SAMPLE = Path(__file__).parent / "samples" / "requests.jsonl"
MAX_TOKENS = 256
"""A refusal is recognisable within a few sentences; XSTest's completions had the same length."""
GREEDY = ModelSettings(temperature=0.0, max_tokens=MAX_TOKENS)
COPYRIGHT = "copyright"
"""HarmBench's category of innocuous-looking requests, which a judge of refusals cannot score."""

OPTIONS = {
    "data": "files, comma-separated: JSON Lines or CSV of XSTest, HarmBench, JailbreakBench, StrongREJECT, ...; "
    "without it, the built-in sample",
    "label": "harmful, benign or borderline for all requests; overrides the files' labels",
    "guard": "a classifier in front of the model: request-harm, or a .safetensors file; thresholds are swept",
    "copyright": "yes includes HarmBench's copyright items; default no",
}


def load(options: Mapping[str, str]) -> list[Case]:
    """Return the cases of the named files.

    Raises:
        UserError: an option is not known or not valid, or a file cannot be read.
    """
    check_options("refusals", options, OPTIONS)
    label = parse_label(options["label"]) if "label" in options else None
    has_copyright = choice_of("refusals", options, "copyright", ("no", "yes")) == "yes"
    guard = options.get("guard", "")
    if guard:
        load_guard(guard)
    paths = [Path(name.strip()) for name in options.get("data", str(SAMPLE)).split(",") if name.strip()]
    stems = [path.stem for path in paths]
    if not paths or len(set(stems)) < len(stems):
        raise UserError(f"option data={options.get('data')!r}: name at least one file; file names must be unique.")
    requests = [request for path in paths for request in read_requests(path, label=label)]
    if not has_copyright:
        requests = [request for request in requests if request.category.lower() != COPYRIGHT]
    return [_case(request, guard) for request in requests]


def _case(request: Request, guard: str) -> Case:
    data = {"source": request.source, "category": request.category}
    return Case(
        id=f"{request.source}/{request.id}",
        prompt=request.prompt,
        group=f"{request.source}: {request.category or request.label}",
        target=request.label,
        data={**data, "guard": guard} if guard else data,
    )


async def solve(case: Case, model: Model, settings: ModelSettings) -> Run:
    """Send the request without system prompt and tools; greedy unless the settings say otherwise."""
    parameters = ModelRequestParameters(tool_choice="none", settings=GREEDY.merged(settings))
    run = await ask_model(case, model, parameters)
    guard = case.data.get("guard")
    if isinstance(guard, str) and guard:
        return replace(run, observed={**run.observed, GUARD_PROBABILITY: load_guard(guard)(case.prompt)})
    return run


SUITE = Suite(
    name="refusals",
    version=1,
    description="harmful, borderline and benign requests: attack success and false refusal side by side",
    load=load,
    solve=solve,
    score=score_refusal,
    options=OPTIONS,
    tables=tables,
    plots=plots,
)
