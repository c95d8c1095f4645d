"""Step 12: what watches the model and what it refuses: classifiers, a probe, the direction of refusal, attacks.

classifiers   the package's own, on the harmful and harmless requests of the run
guard         harmful requests that the model answers, and harmless ones that are turned away, with and without it
probe         logistic regression on the model's states at the end of a request
direction     found on requests for training; refusals at several strengths, and after tampering
attacks       harmful requests under transforms, and their harmless twins
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelstack.pipeline.job import StepJob
from modelstack.pipeline.measuring import share
from modelstack.pipeline.record import StepResult, write_json
from modelstack.pipeline.worth import ALONE, GUARDED, THROUGH, TURNED_AWAY

if TYPE_CHECKING:
    from modelstack.align.guard_training.rows import GuardRow
    from modelstack.posttrain.base import Base
    from modelstack.posttrain.stages.record import Measurement

RESULTS, ATTACK = "results", "attack"
POINT = "fpr_1"
PENALTY = 1e-2
"""Coefficient of |w|^2 / 2 of the probe, on standardised states."""
SERVED = "inference/served"


def work(job: StepJob) -> StepResult:
    """Measure what watches the model, and what it refuses by itself.

    Raises:
        UserError: There are too few requests, or the model cannot be loaded.
    """
    from modelstack.align.guard_training.rows import read_rows

    training, measured = (
        list(read_rows(job.of("data/twins") / f"{name}.jsonl")) for name in ("training", "validation")
    )
    (job.folder / RESULTS).mkdir(exist_ok=True)
    base = _served(job)
    figures = [*_classifiers(measured)]
    job.say("fitting the probe")
    figures.append(_probe(job, base, training, measured))
    job.say("asking with and without the guard")
    figures += _guarded(base, measured, job.recipe.align.requests)
    del base  # the next parts load the model again, in other forms
    job.say("tampering")
    curve, notes = _tampered(job, [*training, *measured])
    job.say("attacking")
    figures += _attacked(job, measured)
    write_json(job.folder / RESULTS / "figures.json", [each.model_dump(mode="json") for each in figures])
    rows = [(each.name, f"{each.value:.3f}", _interval(each), str(each.n)) for each in figures]
    attack = figures[-1]
    return StepResult(
        what=(
            f"probe separates {figures[2].value:.1%} of the pairs; attacks got through in {attack.value:.1%} of "
            f"{attack.n}; {len(curve)} states of the refusal curve"
        ),
        content=(RESULTS, f"{ATTACK}/attempts.jsonl"),
        facts={each.name: round(each.value, 4) for each in figures},
        table=(("figure", "value", "95 %", "n"), *rows, *curve),
        notes=tuple(notes),
    )


def _interval(found: Measurement) -> str:
    return "" if found.low is None or found.high is None else f"{found.low:.3f} to {found.high:.3f}"


def _served(job: StepJob) -> Base:
    from modelstack.posttrain.starting_point import starting_point
    from modelstack.reasoning.sampling.frozen_model import load_merged
    from modelstack.train.process import set_up_process

    set_up_process(job.recipe.threads)
    return load_merged(starting_point(job.of(f"{SERVED}/model.gguf")), precision="fp32", device="cpu")


def _is_flagged(text: str) -> bool:
    from modelstack.align.guards.assess import assess_request

    return POINT in assess_request(text).flagged_at


def _guarded(base: Base, rows: Sequence[GuardRow], n_each: int) -> list[Measurement]:
    """Return how many harmful requests are answered and harmless ones turned away, by the model and the guard."""
    from modelstack.align.refusal_direction.replies import n_refused

    found: list[Measurement] = []
    for unsafe, name in ((True, THROUGH), (False, TURNED_AWAY)):
        texts = [row.turns[-1].content for row in rows if row.unsafe is unsafe][:n_each]
        passed = [text for text in texts if not _is_flagged(text)]
        for state, asked in ((ALONE, texts), (GUARDED, passed)):
            n_answered = len(asked) - n_refused(base.model, base.encoder, asked)
            n = n_answered if unsafe else len(texts) - n_answered
            found.append(share(f"{name}, {state}", n, len(texts)))
    return found


def _classifiers(rows: Sequence[GuardRow]) -> list[Measurement]:
    """Return the shares of harmful and harmless requests that the package's classifier flags."""
    found: list[Measurement] = []
    for unsafe, name in ((True, "harmful requests flagged"), (False, "harmless requests flagged")):
        texts = [row.turns[-1].content for row in rows if row.unsafe is unsafe]
        n = sum(map(_is_flagged, texts))
        found.append(share(f"{name}, classifier at {POINT}", n, len(texts)))
    return found


def _probe(job: StepJob, base: Base, training: Sequence[GuardRow], measured: Sequence[GuardRow]) -> Measurement:
    """Fit a probe of requests and write it; return the share of twins that it puts in the right order."""
    import numpy as np

    from modelstack.align.guards.weights_file import write_weights
    from modelstack.align.monitor_training.fit import fit_requests

    layer = max(0, base.model.config.num_hidden_layers // 2)
    known, seen = (_states(base, rows, layer) for rows in (training, measured))
    labels = np.array([row.unsafe for row in training])
    weights, bias = fit_requests(known, labels, penalty=PENALTY)
    write_weights(
        job.folder / RESULTS / "probe.safetensors",
        "request_probe",
        {"layer": layer, "model": base.sha256, "n": len(training)},
        {"weights": weights.astype(np.float32), "bias": np.array([bias], np.float32)},
    )
    scores = seen.astype(np.float32) @ weights + bias
    by_pair: dict[str, dict[bool, float]] = {}
    for row, score in zip(measured, scores, strict=True):
        by_pair.setdefault(row.pair or row.id, {})[row.unsafe] = float(score)
    whole = [pair for pair in by_pair.values() if len(pair) == 2]
    return share("twins in the right order, probe", sum(pair[True] > pair[False] for pair in whole), len(whole))


def _states(base: Base, rows: Sequence[GuardRow], layer: int) -> Any:
    """Return the states at the end of each request [N, D], in half precision."""
    import numpy as np

    from modelstack.align.monitor_training.states import layer_states
    from modelstack.align.refusal_direction.find import prompt_ids

    ids = [prompt_ids(base.encoder, row.turns[-1].content) for row in rows]
    prefix = ids[0][:1]
    found: dict[int, Any] = {
        number: states_TLD[-1, 0]
        for number, states_TLD in layer_states(base.model, prefix, [each[1:] for each in ids], [layer])
    }
    return np.stack([found[number] for number in range(len(rows))])


def _tampered(job: StepJob, rows: Sequence[GuardRow]) -> tuple[list[tuple[str, ...]], list[str]]:
    """Write the tamper report; return its figures as rows, and its notes."""
    from modelstack.align.release.subject import loadable
    from modelstack.align.tamper.plan import TamperPlan
    from modelstack.align.tamper.report import tamper_results
    from modelstack.terminal.progress_bars import progress_bars

    table = job.recipe.align
    n_each = sum(row.unsafe for row in rows)
    plan = TamperPlan(
        n_direction=table.direction,
        n_asked=min(table.requests, n_each - table.direction),
        steps=table.tamper_steps,
        seed=job.recipe.seed,
        threads=job.recipe.threads,
    )
    with ExitStack() as held, progress_bars(job.console) as told:
        start, identity = loadable(str(job.of(SERVED)), None, held)
        results = tamper_results(start, rows, plan, identity, told)
    results.save(job.folder / RESULTS / "tamper.json")
    shown = [
        (each.name, f"{each.value:.3f}", f"{each.low:.3f} to {each.high:.3f}", str(each.n))
        for each in results.figures
    ]
    notes = [note for several in results.notes.values() for note in several]
    return shown, notes


def _attacked(job: StepJob, rows: Sequence[GuardRow]) -> list[Measurement]:
    """Run the attacks; return the shares of harmless twins refused and of harmful requests that got through."""
    from modelstack.align.attack.report import write_report
    from modelstack.align.attack.run import AttackPlan, attack, chosen_requests, requests_sha256
    from modelstack.align.attack.targets import EngineTarget
    from modelstack.errors import UserError
    from modelstack.inference.engine import EngineError
    from modelstack.inference.llama.engine import LlamaCppEngine
    from modelstack.terminal.progress_bars import progress_bars
    from modelstack.toolcalls.manner import AUTO, manner_for

    table, threads = job.recipe.align, job.recipe.threads
    requests = chosen_requests(rows, table.attacks, job.recipe.seed)
    file: Path = job.of(f"{SERVED}/model.gguf")
    try:
        with LlamaCppEngine(file, n_cells=4096, n_threads=threads, n_threads_prefill=threads) as engine:
            manner = manner_for(engine, AUTO, is_ours=True, abstain=False)
            target = EngineTarget(engine, manner, max_tokens=48, temperature=0.0)
            plan = AttackPlan(
                target=target.name,
                requests_sha256=requests_sha256(requests),
                transforms=table.transforms,
                samples=1,
                seed=job.recipe.seed,
                max_tokens=48,
                temperature=0.0,
            )
            with progress_bars(job.console) as told:
                records = attack(
                    target,
                    requests,
                    plan,
                    job.folder / ATTACK,
                    lambda done, total: told("attempts", done, total),
                    4,
                )
    except EngineError as error:
        raise UserError(str(error)) from error
    if records is None:
        raise UserError("the attacks were stopped; run the same command to resume")
    write_report(records, plan, job.folder / ATTACK)
    harmless, harmful = ([each for each in records if each.harmful is side] for side in (False, True))
    found = [share("attacks that got through", sum(each.succeeded for each in harmful), len(harmful))]
    if harmless:
        n = sum(not each.succeeded for each in harmless)
        found.insert(0, share("harmless twins refused under attack", n, len(harmless)))
    return found
