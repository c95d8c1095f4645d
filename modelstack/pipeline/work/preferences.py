"""Step 8: training on pairs of a better and a worse reply."""

from __future__ import annotations

from modelstack.pipeline.job import StepJob
from modelstack.pipeline.record import StepResult
from modelstack.pipeline.work.tuned import tuned


def work(job: StepJob) -> StepResult | None:
    """Train the newest model on preferences, or resume; None: a stop was requested.

    Raises:
        UserError: The recipe does not fit the model or the data.
    """
    from modelstack.preferences.run import prefer

    filled = {
        "data.training": [job.of("data/pairs/train.jsonl").as_posix()],
        "data.validation": [job.of("data/pairs/validation.jsonl").as_posix()],
    }
    return tuned(job, prefer, filled)
