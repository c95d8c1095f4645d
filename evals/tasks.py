"""All suites as Inspect tasks: `inspect eval evals/tasks.py@suite -T name=bfcl -T model=local`.

Inspect's limits, retries, sets and viewer work as for any task. `agentkit eval` adds the journal, intervals and
the suites' own tables.
"""

from __future__ import annotations

from functools import partial

from inspect_ai import Task, task

from agentkit.models.base import Model
from evals.case import Case, Run
from evals.harness.evaluation import find_model
from evals.harness.inspect_task import inspect_task
from evals.harness.performing import perform
from evals.harness.specification import Specification, select
from evals.harness.suite import Suite, find_suite


@task
def suite(name: str, model: str = "local", temperature: float = 0.0, seed: int = 0, **options: str) -> Task:
    """Return a suite as an Inspect task.

    Args:
        name: A suite that `agentkit eval` lists.
        model: A model string of agentkit, or `inspect:PROVIDER/NAME`.
        temperature: Sampling temperature; 0 always takes the likeliest token.
        seed: Sampling seed.
        options: Options of the suite, as for `--option`.

    Raises:
        UserError: suite, model or options are not valid, or a file is missing.
    """
    found = find_suite(name)
    given = {key: str(value) for key, value in options.items()}
    specification = Specification(name, model, given, temperature=temperature, seed=seed)
    cases = select(found.load(given), None)
    return inspect_task(found, cases, partial(_perform, found, find_model(model, found), specification))


async def _perform(found: Suite, model: Model, specification: Specification, case: Case, epoch: int) -> Run:
    settings = specification.settings(epoch)
    return await perform(case, found.solve, model, settings, epoch=epoch, timeout_s=found.case_timeout_s)
