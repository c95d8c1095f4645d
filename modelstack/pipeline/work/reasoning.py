"""Step 9: reinforcement with rewards that a program verifies: the right call with the right arguments."""

from __future__ import annotations

from modelstack.pipeline.job import StepJob
from modelstack.pipeline.record import StepResult
from modelstack.pipeline.work.tuned import tuned


def work(job: StepJob) -> StepResult | None:
    """Train the newest model by rewards, or resume; None: a stop was requested.

    Raises:
        UserError: The recipe does not fit the model or the tasks.
    """
    from modelstack.reasoning.policy.run import reinforce

    filled = {
        "data.training": [job.of("data/tasks/train.jsonl").as_posix()],
        "data.validation": [job.of("data/tasks/held-back.jsonl").as_posix()],
        "data.verifier": "calls",
    }
    return tuned(job, reinforce, filled)
