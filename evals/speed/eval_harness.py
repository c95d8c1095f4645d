"""Cost per case of the evaluation harness: journal, identity, Inspect log, scores, tables.

The same cases, solver, scorer and immediate model run in three ways: through `evals.harness.evaluation`, as a
handwritten inspect-ai task (same log settings, no journal, no stored run), and in a plain loop that stores
nothing. The measured time is the work of each harness; its decrease with the number of cases shows the fixed cost
of an evaluation.

CPU time of the whole process is the main figure, since wall time on a shared machine is not comparable. CPU time
does not include waiting for the disk, which the journal does after every case (`fsync`), so wall time is reported
too. Runs are interleaved and each figure is a median. Everything runs once before the first measurement, because
the first evaluation of a process imports Inspect.

    python -m evals.speed.eval_harness
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentkit.messages import ModelMessage, ModelResponse, TextPart
from agentkit.models.base import Model, ModelRequestParameters, ModelSettings
from agentkit.testing import FunctionModel
from evals.case import Case, Run, Score
from evals.harness.evaluation import evaluate
from evals.harness.solving import ask_model
from evals.harness.specification import Specification
from evals.harness.suite import SUITES, Suite
from evals.speed.results import BenchmarkResult, Comparison, Curves, Figure, add_result_option, write_result

NAME = "nothing"
SIZES = (50, 200, 800)
OURS, INSPECT, LOOP = "agentkit eval", "inspect-ai task", "plain loop"


@dataclass(frozen=True, slots=True)
class Cost:
    """Time per case: the total over all cases of one size, divided by their number."""

    cpu_ms: float
    wall_ms: float


def load(options: Mapping[str, str]) -> Sequence[Case]:
    """Return `n` cases, where `n` is an option."""
    return [Case(f"case {n}", f"What is {n}?", target=str(n)) for n in range(int(options["n"]))]


async def solve(case: Case, model: Model, settings: ModelSettings) -> Run:
    """Ask the model, which answers immediately."""
    return await ask_model(case, model, ModelRequestParameters(settings=settings))


def score(case: Case, run: Run) -> Score:
    """Compare the output with the target."""
    return Score(float(run.output == case.target))


SUITE = Suite(NAME, 1, "cases that take no time", load, solve, score, options={"n": "number of cases"})


def answer(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
    """Return a constant answer; it is correct for one case."""
    return ModelResponse((TextPart("42"),))


def with_agentkit(n_cases: int, folder: Path) -> int:
    """Run an agentkit evaluation; return the number of scored cases."""
    specification = Specification(NAME, "none", options={"n": str(n_cases)})
    done = evaluate(specification, folder, model=FunctionModel(answer))
    return sum(scored.run.status == "completed" for scored in done.scored)


def with_inspect(n_cases: int, folder: Path) -> int:
    """Run the cases as a plain inspect-ai task; return the number of scored cases."""
    import inspect_ai
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import ModelOutput
    from inspect_ai.scorer import Score as InspectScore
    from inspect_ai.scorer import Scorer, Target, mean, scorer, stderr
    from inspect_ai.solver import Generate, Solver, TaskState, solver

    cases = {case.id: case for case in load({"n": str(n_cases)})}
    model = FunctionModel(answer)

    @solver(name="scripted")
    def scripted() -> Solver:
        async def run(state: TaskState, generate: Generate) -> TaskState:
            done = await solve(cases[str(state.sample_id)], model, ModelSettings())
            state.output = ModelOutput.from_content("scripted", str(done.output))
            state.messages.append(state.output.message)
            return state

        return run

    @scorer(name="same", metrics=[mean(), stderr()])
    def same() -> Scorer:
        async def judge(state: TaskState, target: Target) -> InspectScore:
            given = state.output.completion
            return InspectScore(value=float(given == target.text), answer=given)

        return judge

    samples = [Sample(id=case.id, input=case.prompt, target=str(case.target)) for case in cases.values()]
    task = inspect_ai.Task(name=NAME, dataset=MemoryDataset(samples), solver=scripted(), scorer=same())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # as in the harness: inspect-ai leaves streams unclosed
        (log,) = inspect_ai.eval(
            task, model="none", display="none", log_dir=str(folder), log_format="eval", log_realtime=False,
            max_samples=1, log_level="warning",
        )  # fmt: skip
    return log.results.completed_samples if log.status == "success" and log.results is not None else 0


def with_loop(n_cases: int, folder: Path) -> int:
    """Run the cases in a loop that keeps only the scores; return their number."""

    async def all_cases() -> list[Score]:
        model = FunctionModel(answer)
        return [score(case, await solve(case, model, ModelSettings())) for case in load({"n": str(n_cases)})]

    return len(asyncio.run(all_cases()))


WAYS: dict[str, Callable[[int, Path], int]] = {OURS: with_agentkit, INSPECT: with_inspect, LOOP: with_loop}


def measure(way: str, n_cases: int) -> Cost:
    """Run the cases in one way and return the time per case.

    Raises:
        RuntimeError: not every case was completed and scored.
    """
    with tempfile.TemporaryDirectory() as folder:
        gc.collect()  # garbage of the previous run must not count for this one
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        n_done = WAYS[way](n_cases, Path(folder))
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    if n_done != n_cases:
        raise RuntimeError(f"{way} lost cases: {n_done} of {n_cases} were scored.")
    return Cost(1e3 * cpu_s / n_cases, 1e3 * wall_s / n_cases)


def measure_all(sizes: Sequence[int], repeats: int) -> dict[str, dict[int, Cost]]:
    """Return the median cost of each way by number of cases."""
    runs: dict[tuple[str, int], list[Cost]] = {}
    for _ in range(repeats):
        for n in sizes:
            for way in WAYS:
                runs.setdefault((way, n), []).append(measure(way, n))
    return {way: {n: _median(runs[way, n]) for n in sizes} for way in WAYS}


def to_result(costs: Mapping[str, Mapping[int, Cost]], repeats: int) -> BenchmarkResult:
    """Convert the figures to the common result type; the inner keys are numbers of cases."""
    sizes = sorted(costs[OURS])
    last = sizes[-1]
    ours, inspect, loop = (costs[way][last] for way in (OURS, INSPECT, LOOP))
    cpu = {way: by_size[last].cpu_ms for way, by_size in costs.items()}
    lines = {way: tuple(by_size[n].cpu_ms for n in sizes) for way, by_size in costs.items()}
    return BenchmarkResult(
        figures=(
            Figure(f"CPU time that our harness adds to a case, {last} cases", ours.cpu_ms - loop.cpu_ms, "ms"),
            Figure(f"of it beyond inspect-ai's own, {last} cases", ours.cpu_ms - inspect.cpu_ms, "ms"),
            Figure(
                f"wall time that our harness adds to a case, {last} cases", ours.wall_ms - loop.wall_ms, "ms"
            ),
        ),
        comparisons=(Comparison(f"CPU time of a case, {last} cases", "ms", OURS, cpu),),
        curves=(
            Curves("CPU time of a case", "cases in the evaluation", "CPU time of a case (ms)",
                   tuple(map(float, sizes)), lines, ours=OURS),
        ),
        parameters={"repeats": str(repeats), "files in": tempfile.gettempdir()},
    )  # fmt: skip


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="numbers of cases")
    add_result_option(parser)
    options = parser.parse_args()
    # With `python -m` this module is `__main__`; the registry imports it again under its own name.
    SUITES[NAME] = "evals.speed.eval_harness:SUITE"
    for way in WAYS:
        measure(way, 2)
    costs = measure_all(options.sizes, options.repeats)
    print(f"ms a case, median of {options.repeats}: CPU (wall)")
    print(f"{'cases':>8}" + "".join(f"{way:>20}" for way in WAYS))
    for n in options.sizes:
        cells = [costs[way][n] for way in WAYS]
        print(f"{n:8}" + "".join(f"{f'{cost.cpu_ms:.3f} ({cost.wall_ms:.3f})':>20}" for cost in cells))
    write_result(options.result, to_result(costs, options.repeats))
    return 0


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(statistics.median(c.cpu_ms for c in costs), statistics.median(c.wall_ms for c in costs))


if __name__ == "__main__":
    sys.exit(main())
