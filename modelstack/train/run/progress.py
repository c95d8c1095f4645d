"""Display of a run: the current preparation, a progress bar during training, and permanent lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from modelstack.train.evaluation import Evaluation
from modelstack.train.loop import Run
from modelstack.train.step import StepReport


class Display:
    """The console of a run; quiet on all ranks but one."""

    def __init__(self, console: Console) -> None:
        """Display on a console."""
        self._console = console
        self._bar: tuple[Progress, TaskID] | None = None
        self._shown_evaluation: object = None

    def say(self, text: str) -> None:
        """Print a permanent line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def preparing(self) -> Iterator[Callable[[str], None]]:
        """Display the current activity; yield a function that changes its text."""
        with self._console.status("preparing") as status:
            yield lambda text: status.update(text)

    @contextmanager
    def training(self, run: Run) -> Iterator[None]:
        """Display a bar of the run's steps."""
        columns = (
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[shown]}"),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task("", total=run.config.n_steps, completed=run.state.step, shown="")
            self._bar = progress, task
            try:
                yield
            finally:
                self._bar = None

    def after_step(self, run: Run, report: StepReport) -> None:
        """Advance the bar; print a line for each evaluation."""
        speed = report.n_tokens / report.seconds if report.seconds else 0.0
        shown = f"loss {report.losses['total']:.3f}  norm {report.gradient_norm:.2f}  {speed:,.0f} tokens/s"
        if self._bar is not None:
            progress, task = self._bar
            progress.update(task, completed=run.state.step, shown=shown)
        evaluation = run.hooks.get("evaluation")
        if isinstance(evaluation, Evaluation) and evaluation.last is not self._shown_evaluation:
            self._shown_evaluation = score = evaluation.last
            if score is not None:
                self.say(
                    f"step {run.state.step}: loss {report.losses['total']:.3f}, held out {score.loss:.3f} nats "
                    f"per token, {score.bits_per_byte:.3f} bits per byte; {speed:,.0f} tokens/s"
                )
