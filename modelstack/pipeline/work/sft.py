"""Step 7: supervised fine-tuning on the examples of the data step."""

from __future__ import annotations

from modelstack.pipeline.job import StepJob
from modelstack.pipeline.record import StepResult
from modelstack.pipeline.work.tuned import tuned


def work(job: StepJob) -> StepResult | None:
    """Fine-tune the newest model, or resume; None: a stop was requested.

    Raises:
        UserError: The recipe does not fit the model or the data.
    """
    from modelstack.sft.run import fine_tune

    filled = {
        "data.training": [job.of("data/examples/train.jsonl").as_posix()],
        "data.validation": [job.of("data/examples/validation.jsonl").as_posix()],
    }
    return tuned(job, fine_tune, filled)
