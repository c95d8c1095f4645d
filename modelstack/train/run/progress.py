"""Display of a run: the current preparation, a progress bar during training, and permanent lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from modelstack.terminal.progress_bars import Tell, activity, progress_bars
from modelstack.terminal.tables import print_wrapped
from modelstack.train.evaluation import Evaluation
from modelstack.train.loop import Run
from modelstack.train.step import StepReport


class Display:
    """The console of a run; quiet on all ranks but one."""

    def __init__(self, console: Console) -> None:
        """Display on a console."""
        self._console = console
        self._told: Tell | None = None
        self._shown_evaluation: object = None

    def say(self, text: str) -> None:
        """Print a permanent line; on a terminal, the lines into which it is wrapped are indented by two more."""
        margin = len(text) - len(text.lstrip())
        print_wrapped(self._console, text, indent=" " * (margin + 2))

    @contextmanager
    def preparing(self) -> Iterator[Callable[[str], None]]:
        """Display the current activity; yield a function that changes its text."""
        with activity(self._console, "preparing") as told:
            yield told

    @contextmanager
    def training(self, run: Run) -> Iterator[None]:
        """Display the run's steps."""
        with progress_bars(self._console) as told:
            self._told = told
            told("steps", run.state.step, run.config.n_steps)
            try:
                yield
            finally:
                self._told = None

    def after_step(self, run: Run, report: StepReport) -> None:
        """Display the step; print a line for each evaluation."""
        speed = report.n_tokens / report.seconds if report.seconds else 0.0
        if self._told is not None:
            note = f"loss {report.losses['total']:.3f}  norm {report.gradient_norm:.2f}  {speed:,.0f} tokens/s"
            self._told("steps", run.state.step, run.config.n_steps, note)
        evaluation = run.hooks.get("evaluation")
        if isinstance(evaluation, Evaluation) and evaluation.last is not self._shown_evaluation:
            self._shown_evaluation = score = evaluation.last
            if score is not None:
                self.say(
                    f"step {run.state.step}: loss {report.losses['total']:.3f}, held out {score.loss:.3f} "
                    f"({score.bits_per_byte:.3f} bits per byte); {speed:,.0f} tokens/s"
                )
