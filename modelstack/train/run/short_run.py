"""A short run without a folder of its own: train on prepared text, score on documents, discard the model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from modelstack.run_folder import RunFolder
from modelstack.train.evaluation import Score
from modelstack.train.run.recipe import Resolved

if TYPE_CHECKING:
    from modelstack.architecture.decoder import CausalLM


@dataclass(frozen=True, slots=True)
class Measured:
    """Result of a run."""

    score: Score
    seconds: float
    """Seconds of its training."""


def train_and_score(resolved: Resolved, folder: RunFolder, texts: Sequence[str] | None = None) -> Measured:
    """Train a run to its end and score the model; preferably in a separate process.

    Args:
        resolved: The run.
        folder: Folder with the prepared text (`modelstack.train.run.prepare`); runs may share it.
        texts: Texts to score; None: the run's held-out documents.

    Raises:
        UserError: The folder's prepared text is missing, or was made from other inputs.
    """
    import torch

    from modelstack.train.evaluation import evaluate, held_out
    from modelstack.train.loop import train
    from modelstack.train.process import set_up_process
    from modelstack.train.run.assemble import unsupervised
    from modelstack.train.run.prepare import open_prepared

    set_up_process(resolved.recipe.threads or 1)
    prepared = open_prepared(resolved, folder)
    trained = unsupervised(resolved, prepared, torch.device("cpu"))
    started = time.perf_counter()
    for _ in train(trained):
        pass
    seconds = time.perf_counter() - started
    asked = [document.text for document in prepared.held_out] if texts is None else texts
    model = cast("CausalLM", trained.state.model)  # a run in a single process holds a whole model
    return Measured(evaluate(model, held_out(asked, prepared.tokenizer), resolved.row_tokens), seconds)
