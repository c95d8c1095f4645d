"""Converts a suite to an Inspect task with dataset, solver and scorer.

Logs, limits and the viewer come from Inspect.

The solver takes the run of a case from the journal if it exists. A resumed evaluation therefore yields one
complete log with one sample per case and epoch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from inspect_ai import Epochs, Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageAssistant, ModelOutput
from inspect_ai.scorer import Metric, Score, Scorer, Target, grouped, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver
from pydantic_core import to_jsonable_python

from evals.case import Case, Run, json_line, run_from_json, run_to_json
from evals.harness.inspect_messages import to_inspect
from evals.harness.suite import Suite, judge

RUN_KEY = "agentkit_run"
"""Key of the run (JSON) in a sample's store; `agentkit trace` reads it."""
MODEL_KEY = "agentkit_model"
"""Key of the model name in an evaluation's metadata; Inspect itself gets the model `none`."""
GROUP_KEY = "group"

Perform = Callable[[Case, int], Awaitable[Run]]
"""Runs a case in an epoch, or takes its run from the journal."""


def inspect_task(suite: Suite, cases: Sequence[Case], perform: Perform, *, epochs: int = 1) -> Task:
    """Return a suite as a task.

    A score is the mean over all cases, including failed ones; means by group are added if there are several
    groups.
    """
    by_id = {case.id: case for case in cases}
    groups = {case.group for case in cases}
    metrics: list[Metric] = [mean(), stderr()]
    if len(groups) > 1:
        metrics.append(grouped(mean(), GROUP_KEY, all=False))
    return Task(
        name=suite.name,
        version=suite.version,
        dataset=MemoryDataset([_sample(case) for case in cases], name=suite.name),
        solver=_solver(by_id, perform),
        scorer=_scorer(suite, by_id, metrics),
        epochs=Epochs(epochs, "mean"),
        fail_on_error=False,
    )


def _sample(case: Case) -> Sample:
    target = case.target if isinstance(case.target, str) else json_line(case.target)
    metadata = {GROUP_KEY: case.group, **to_jsonable_python(dict(case.data), serialize_unknown=True)}
    return Sample(id=case.id, input=case.prompt, target=target, metadata=metadata)


def _solver(by_id: dict[str, Case], perform: Perform) -> Solver:
    @solver(name="agentkit")
    def agentkit_solver() -> Solver:
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            run = await perform(by_id[str(state.sample_id)], state.epoch)
            state.messages = to_inspect(run.messages) or state.messages
            state.output = _output(run)
            state.store.set(RUN_KEY, run_to_json(run))
            state.completed = True
            return state

        return solve

    return agentkit_solver()


def _scorer(suite: Suite, by_id: dict[str, Case], metrics: list[Metric]) -> Scorer:
    @scorer(name=suite.name.replace("-", "_"), metrics=metrics)  # type: ignore[arg-type]
    def suite_scorer() -> Scorer:
        async def score(state: TaskState, target: Target) -> Score:
            run = run_from_json(state.store.get(RUN_KEY))
            judged = judge(suite, by_id[run.case_id], run)
            return Score(
                value=judged.value,
                answer=judged.answer,
                explanation=judged.explanation,
                metadata={"status": run.status, "error": run.error, **judged.numbers},
            )

        return score

    return suite_scorer()


def _output(run: Run) -> ModelOutput:
    """Return the output that Inspect shows for a sample: the last response, or the error."""
    model = run.responses[-1].model_name if run.responses else ""
    if run.error is not None:
        return ModelOutput.from_content(model, "", stop_reason="unknown", error=run.error)
    last = to_inspect(run.messages[-1:])
    if last and isinstance(last[0], ChatMessageAssistant):
        output = ModelOutput.from_message(last[0])
        output.model = model
        return output
    return ModelOutput.from_content(model, "" if run.output is None else str(run.output))
