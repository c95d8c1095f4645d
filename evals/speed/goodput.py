"""Goodput under faults: the share of time in which a two-process run advances despite kills and disk faults.

FSDP2 over gloo, 300 steps, a checkpoint every 20 steps. Faults come at seeded, exponentially distributed times
with a mean distance of 60 steps: a rank is killed, the newest checkpoint is truncated to half, or the disk is full
at the next checkpoint.

- modelstack is restarted by torch's elastic agent, which forks workers that have already imported torch. It runs
  with additional checkpoints in memory every 10 steps, and with checkpoints on disk only. Checkpoints in memory
  survive the end of a process but not of a machine, and have none of the disk's faults.
- The baseline is the same loop with `torch.save` under `torchrun --max-restarts`, without verification or atomic
  rename.

Goodput is useful steps x median step time / wall time, computed from the run's own events. A step is useful if its
work is in the final weights.

The interval of 10 was Young's interval (1974), sqrt(2 x cost x time between failures), rounded, when a save in
memory cost 0.3 of a step and a process was killed every 120 to 150 steps. A save now costs 0.2 of a step, for
which the interval would be 7; it stays at 10 so that figures remain comparable.

A restart costs seconds regardless of the step time, so goodput depends on the size of the model. The size was
chosen before any run for steps of about one second. Real steps take several seconds, and real runs fail less
often.

Additional short runs: blocking saves, to compare with saving in the background; and a checkpoint truncated right
before a kill, which the restart must skip.

Seed 1 is the first seed whose schedule contains each kind of fault.

    python -m evals.speed.goodput
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.speed.goodput_worker import FINISHED, MAX_RESTARTS, WORLD, Job
from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, write_result
from modelstack.stability.fault_injection import read_ledgers
from modelstack.stability.faults import DamagedCheckpoint, Faults, FullDisk, SigKill, at_random
from modelstack.stability.goodput import Goodput, account
from modelstack.stability.run_events import EVENTS_FILE, Event, Restored, Saved, Stepped, read_events

MEAN_STEPS = 60.0
AGENT = ("--standalone", "--nproc-per-node", str(WORLD), "--monitor-interval", "0.1")
WORKER = "evals.speed.goodput_worker"
OURS = "modelstack"
PROGRAMS = {
    OURS: ("background", True),
    "modelstack-disk-alone": ("background", False),
    "torch.save": ("torch.save", False),
}
"""Kind of each job, and whether it has checkpoints in memory."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the runs."""

    n_steps: int = 300
    save_every: int = 20
    memory_every: int = 10
    width: int = 384
    layers: int = 6
    rows: int = 4
    row_tokens: int = 128
    n_steps_blocking: int = 100
    mean_steps: float = MEAN_STEPS
    max_restarts: int = MAX_RESTARTS


QUICK = Sizes(
    n_steps=40,
    save_every=10,
    memory_every=3,
    width=64,
    layers=2,
    rows=2,
    row_tokens=32,
    n_steps_blocking=20,
    mean_steps=15.0,
    max_restarts=3,
)
"""Only tests that the benchmark works; steps of a few milliseconds are negligible beside a restart."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A run that has ended, successfully or not."""

    events: tuple[Event, ...]
    faults: dict[str, int]
    is_finished: bool
    wall_s: float
    """Wall-clock seconds, including start and end of the agent."""

    @property
    def goodput(self) -> Goodput:
        """Return the accounting of the run's time.

        Raises:
            UserError: no step was useful.
        """
        return account(self.events, self.faults)


def fault_schedule(seed: int, sizes: Sizes) -> Faults:
    """Return the three kinds of fault at random times."""
    makers = (
        lambda step: SigKill(step=step, rank=step % WORLD),
        lambda step: DamagedCheckpoint(step=step),
        lambda step: FullDisk(step=step),
    )
    return at_random(makers, seed=seed, n_steps=sizes.n_steps, mean_steps=sizes.mean_steps)


def run_job(job: Job, max_restarts: int) -> Ran:
    """Run two processes until the job is finished or no restart is left."""
    job.folder.mkdir(parents=True)
    path = job.folder / "job.json"
    path.write_text(job.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", WORKER, str(path)]
    if job.kind == "torch.save":
        agent = ["torch.distributed.run", *AGENT, "--max-restarts", str(max_restarts)]
        command = [sys.executable, "-m", *agent, "-m", WORKER, str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    with (job.folder / "output.log").open("w", encoding="utf-8") as output:
        subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
    wall_s = time.monotonic() - began
    events = tuple(read_events(job.folder / EVENTS_FILE))
    return Ran(events, read_ledgers(job.folder), (job.folder / FINISHED).exists(), wall_s)


def p95_beside_saving(ran: Ran, save_s: float) -> tuple[float, float, int]:
    """Return the 95th percentile of steps during a save, that of all other steps, and the number of the former.

    A background write takes about as long as a blocking one, `save_s`; the steps within that time after each save
    count as during a save, at least one.
    """
    steps = [event for event in ran.events if isinstance(event, Stepped)]
    median = statistics.median(step.seconds for step in steps)
    n_beside = max(1, round(save_s / median + 0.5))
    beside: list[float] = []
    others: list[float] = []
    since = n_beside
    is_first = False
    for event in ran.events:
        if isinstance(event, Saved):
            since = 0
        elif isinstance(event, Stepped):
            if not is_first:  # the first step of a process includes its warm-up
                (beside if since < n_beside else others).append(event.seconds)
            since += 1
        is_first = not isinstance(event, Stepped | Saved)
    return _p95(beside), _p95(others), len(beside)


def _p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def blocked_s(ran: Ran) -> float:
    """Return the median seconds that a save blocked the run, without the first save."""
    return statistics.median([e.seconds for e in ran.events if isinstance(e, Saved) and not e.error][1:])


def passed_over(ran: Ran, damaged: int, before: int) -> bool:
    """Return whether the run detected the damaged checkpoint of a step and resumed from the one before."""
    met = [event for event in ran.events if isinstance(event, Restored) and event.n_damaged]
    loaded = {event.step for event in ran.events if isinstance(event, Restored)}
    return bool(met) and damaged not in loaded and before in loaded


def run(sizes: Sizes, seeds: Sequence[int], folder: Path) -> BenchmarkResult:
    """Measure everything and print the results as they arrive."""
    figures: list[Figure] = []
    comparisons: list[Comparison] = []
    sizes_of_job = {name: getattr(sizes, name) for name in ("width", "layers", "rows", "row_tokens", "save_every")}

    def job(name: str, kind: str, faults: Faults, n_steps: int, memory_every: int | None = None) -> Job:
        return Job(
            folder=folder / name,
            faults=faults,
            n_steps=n_steps,
            kind=kind,
            memory_every=memory_every,
            **sizes_of_job,
        )

    at = 2 * sizes.save_every + 2
    cut = Faults(schedule=(DamagedCheckpoint(step=at), SigKill(step=at + 1, rank=1)))
    corrupt = run_job(job("corrupt", "background", cut, at + 5), sizes.max_restarts)
    is_safe = corrupt.is_finished and passed_over(corrupt, 2 * sizes.save_every, sizes.save_every)
    print(f"a checkpoint truncated right before a kill: {'skipped' if is_safe else 'NOT SKIPPED'}")
    figures.append(Figure("damaged checkpoint not passed over", float(not is_safe), "", bound=0.0))
    blocking = run_job(job("blocking", "blocking", Faults(), sizes.n_steps_blocking), sizes.max_restarts)
    beside_run = run_job(job("background", "background", Faults(), sizes.n_steps_blocking), sizes.max_restarts)
    save_s, background_s = blocked_s(blocking), blocked_s(beside_run)
    beside, others, n_beside = p95_beside_saving(beside_run, save_s)
    print(f"a save blocks {save_s:.3f} s, in the background {background_s:.3f} s")
    print(
        f"step time p95 beside a save {beside:.3f} s (n={n_beside}), else {others:.3f} s: {beside / others:.3f}x"
    )
    comparisons.append(
        Comparison("time blocked by a save", "s", "background", {"background": background_s, "blocking": save_s})
    )
    figures.append(Figure("step time p95 beside saving / without", beside / others, "x", bound=1.1))
    for seed in seeds:
        faults = fault_schedule(seed, sizes)
        print(f"\nseed {seed}: " + ", ".join(f"{fault.kind} at {fault.step}" for fault in faults.schedule))
        shares: dict[str, float] = {}
        for name, (kind, has_memory) in PROGRAMS.items():
            memory_every = sizes.memory_every if has_memory else None
            ran = run_job(job(f"{name}-{seed}", kind, faults, sizes.n_steps, memory_every), sizes.max_restarts)
            ended = "finished" if ran.is_finished else "NOT FINISHED: no restart made progress"
            print(f"{name}: {ended}; {ran.wall_s:.1f} s with the agent")
            print("  " + "\n  ".join(ran.goodput.lines()), flush=True)
            shares[name] = 100 * ran.goodput.share
            if name == OURS:
                figures.append(
                    Figure(f"goodput, seed {seed}", shares[name], "%", bound=90.0, bound_kind="at least")
                )
                figures.append(Figure(f"unfinished, seed {seed}", float(not ran.is_finished), "", bound=0.0))
        comparisons.append(Comparison(f"goodput under faults, seed {seed}", "%", OURS, shares))
    return BenchmarkResult(
        figures=tuple(figures),
        comparisons=tuple(comparisons),
        parameters={"sizes": str(sizes), "seeds": " ".join(map(str, seeds))},
        notes=("If the baseline did not finish, its goodput covers the time until its last restart failed.",),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a bound is broken, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="seeds of the fault times")
    parser.add_argument("--keep", type=Path, help="a new folder for the runs' events and checkpoints")
    parser.add_argument("--quick", action="store_true", help="tiny runs that only test that the benchmark works")
    add_result_option(parser)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if options.keep is None else options.keep.resolve()
        result = run(QUICK if options.quick else Sizes(), options.seeds, folder)
    write_result(options.result, result)
    return 1 if result.broken else 0


if __name__ == "__main__":
    sys.exit(main())
