"""Driver of a pipeline: runs the steps whose output is missing, altered or made from other inputs, and no others.

The pipeline's folder has a folder for each step, `evaluations/`, `logs/`, `pipeline.json` (the state, for people
and pages) and `index.html`. Whether a step is current is decided by its own record alone (`record`), so no state
can contradict the files. The output of a step that has to run again is moved to `superseded/`, and comes back
when its inputs do. Nothing that is still valid is computed twice, and nothing is lost by a mistake in a recipe.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, Literal

from modelstack.errors import UserError
from modelstack.files import sha256_of
from modelstack.pipeline.child import Finished, Request, empty_result, log_file, run_step
from modelstack.pipeline.measuring import evaluation_key, read_evaluation
from modelstack.pipeline.planning import StepCost, planned_costs
from modelstack.pipeline.recipe import PipelineRecipe, absolute_paths
from modelstack.pipeline.record import (
    StepRecord,
    differences,
    digest_of,
    faults_of,
    key_of,
    read_record,
    write_json,
)
from modelstack.pipeline.steps import BY_NAME, MODEL, STEPS, Step
from modelstack.run_folder import RunFolder

PACKAGE = "agentkit-modelstack"
STATE_FILE, PAGE_FILE, SUPERSEDED, BEGUN_FILE = "pipeline.json", "index.html", "superseded", ".begun.json"
LEAST_FREE_BYTES = 200 << 20
"""Free space below which no step is begun: a full disk in the middle of a step costs more than this check."""
BEAT_S = 30.0
UNFINISHED = "unfinished"
Status = Literal["done", "skipped", "waiting", "failed", "stopped"]
Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Wish:
    """Steps that a run is restricted to."""

    first: str | None = None
    """Run this step and all later ones again, even if they are current."""
    only: str | None = None
    """Run this step alone."""


@dataclass(slots=True)
class Progress:
    """State of a pipeline while it runs."""

    records: dict[str, StepRecord] = field(default_factory=dict[str, StepRecord])
    status: dict[str, Status] = field(default_factory=dict[str, Status])
    ran: list[str] = field(default_factory=list[str])
    """Steps that this run did."""


def package_version() -> str:
    """Return the version of the installed package; "checkout" of sources that are not installed."""
    try:
        return installed_version(PACKAGE)
    except PackageNotFoundError:
        return "checkout"


def run_pipeline(
    recipe: PipelineRecipe, path: Path, say: Say, *, wish: Wish | None = None, beat_s: float = BEAT_S
) -> Progress:
    """Run the steps of a recipe that are not current; the same call resumes it.

    Args:
        recipe: The recipe.
        path: Folder of the pipeline.
        say: Receives a line for each step, and heartbeats.
        wish: Restriction to some steps; None: all that are not current.
        beat_s: Seconds between two heartbeats.

    Raises:
        UserError: A step failed or was stopped, an earlier step is missing, the disk is full, or another process
            works in the folder. The state of everything finished is kept.
    """
    return _Driver(absolute_paths(recipe), path.resolve(), say, wish or Wish(), beat_s).run()


class _Driver:
    def __init__(self, recipe: PipelineRecipe, path: Path, say: Say, wish: Wish, beat_s: float) -> None:
        self.recipe, self.path, self.say, self.wish, self.beat_s = recipe, path, say, wish, beat_s
        self.package = package_version()
        self.progress = Progress()
        self.costs: dict[str, StepCost] = {}
        self._base: str | None = None

    def run(self) -> Progress:
        with RunFolder(self.path).held():
            self.costs = planned_costs(self.recipe)
            try:
                for step in STEPS:
                    self._take(step)
            finally:
                self._write_state()
        return self.progress

    def _take(self, step: Step) -> None:
        progress = self.progress
        if step.name in self.recipe.skipped:
            progress.status[step.name] = "skipped"
            self.say(f"{step.number:2} {step.name:13} skipped: {self._why_skipped(step)}")
            return
        missing = [need for need in (*step.needs, *step.wants) if self._is_missing(need)]
        if self._is_left_out(step, missing):
            progress.status[step.name] = "waiting"
            return
        inputs, config = self._inputs(step), self._config(step)
        key = key_of(step.name, step.version, self.package, config, inputs)
        record, reason = self._current(step, key, config, inputs)
        is_forced = self._is_forced(step)
        if record is None and reason not in (UNFINISHED, "") and not is_forced and self._bring_back(step, key):
            record, reason = self._current(step, key, config, inputs)
        if record is not None and not is_forced:
            self._keep(step, record)
            return
        if not self._may_run(step):
            raise UserError(
                f"step {step.name} is not current ({reason or 'not run yet'}), and --{self._option} leaves it "
                f"out: run the pipeline without --{self._option} first, or from this step on"
            )
        if reason:
            how = "resumes" if reason == UNFINISHED else f"runs again: {reason}"
            self.say(f"{step.number:2} {step.name:13} {how}")
        self._prepare(step, key, resumes=reason == UNFINISHED and not is_forced)
        self._do(step, key, config, inputs)

    def _why_skipped(self, step: Step) -> str:
        is_asked = step.name in self.recipe.skip
        return "the recipe leaves it out" if is_asked else f"the recipe begins with {self.recipe.base}"

    def _is_missing(self, need: str) -> bool:
        """Whether a need names a step that is not done, for reasons other than being skipped."""
        if need == MODEL:
            return False
        step = need.partition("/")[0]
        return step not in self.progress.records and step not in self.recipe.skipped

    def _is_left_out(self, step: Step, missing: list[str]) -> bool:
        """Whether a step is not asked for and cannot be judged, because an earlier one is not done."""
        only = self.wish.only
        if only is None or step.name == only:
            if missing:
                raise UserError(
                    f"step {step.name} needs {missing[0]}, which is not finished: run the steps before"
                )
            return False
        return step.number > BY_NAME[only].number

    @property
    def _option(self) -> str:
        return f"only {self.wish.only}" if self.wish.only else f"from {self.wish.first}"

    def _is_forced(self, step: Step) -> bool:
        if self.wish.only is not None:
            return step.name == self.wish.only
        return self.wish.first is not None and step.number >= BY_NAME[self.wish.first].number

    def _may_run(self, step: Step) -> bool:
        if self.wish.only is not None:
            return step.name == self.wish.only
        return self.wish.first is None or step.number >= BY_NAME[self.wish.first].number

    def _config(self, step: Step) -> dict[str, object]:
        content = self.recipe.model_dump(mode="json", include=set(step.reads))
        if "data" in content:  # files are identified by their content
            content["data"] = {**content["data"], "folders": [], "crawl": []}
        content.pop("base", None)
        return content

    def _inputs(self, step: Step) -> dict[str, str]:
        """Return the hash of each input.

        Raises:
            UserError: The step needs the output of a skipped step.
        """
        inputs: dict[str, str] = {}
        for need in (*step.needs, *step.wants):
            name, _, part = need.partition("/")
            if need == MODEL:
                inputs[MODEL] = self._model_hash(step)
            elif name in self.progress.records:
                inputs[need] = self.progress.records[name].part(part)
            elif need in step.needs:
                raise UserError(
                    f"step {step.name} needs {need}, and the step {name} is skipped: skip {step.name} too, or run "
                    f"{name}"
                )
        if step.name == "data":
            inputs |= {f"file {Path(path).name}": _hash_of(Path(path)) for path in self._own_files()}
        return inputs

    def _own_files(self) -> Iterator[str]:
        yield from (*self.recipe.data.folders, *self.recipe.data.crawl)

    def _models(self, step: Step) -> tuple[str, ...]:
        return tuple(
            each.name
            for each in STEPS
            if each.makes_model and each.number < step.number and each.name in self.progress.records
        )

    def _model_hash(self, step: Step) -> str:
        if models := self._models(step):
            return self.progress.records[models[-1]].digest
        if self.recipe.base is None:
            raise UserError(
                f"step {step.name} needs a model, the step train is skipped and the recipe has no base: give "
                f"base=MODEL, or run train"
            )
        if self._base is None:
            from modelstack.posttrain.base_hash import base_sha256
            from modelstack.posttrain.weights_by_name import weights_path

            self._base = base_sha256(weights_path(self.recipe.base))
        return self._base

    def _current(
        self, step: Step, key: str, config: dict[str, object], inputs: dict[str, str]
    ) -> tuple[StepRecord | None, str]:
        """Return a step's record if its output is current, else why it is not; "" if there is none at all."""
        folder = self.path / step.folder
        try:
            record = read_record(folder)
        except UserError as error:
            return None, str(error)
        if record is None:
            if begun := _begun(folder):
                return None, UNFINISHED if begun == key else "its inputs changed while it was unfinished"
            return None, ""
        if record.key != key:
            return None, differences(record, self.package, config, inputs)
        faults = list(faults_of(folder, record))
        if faults:
            more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
            return None, f"its output was altered: {faults[0]}{more}"
        return record, ""

    def _keep(self, step: Step, record: StepRecord) -> None:
        self._finished(step, record)
        if step.makes_model and not self._is_measured(record):
            self._child(step, record, only_measure=True)
        self.say(f"{step.number:2} {step.name:13} current: {record.result.what}")

    def _is_measured(self, record: StepRecord) -> bool:
        found = read_evaluation(self.path, record.step)
        data = self.progress.records.get("data")
        cases = data.part("evaluation") if data is not None else ""
        wanted = evaluation_key(record.digest, cases, self.recipe.evaluation, record.package)
        return found is not None and found.key == wanted

    def _prepare(self, step: Step, key: str, *, resumes: bool) -> None:
        """Put the output of other inputs aside, and mark the beginning.

        Raises:
            UserError: The disk is nearly full.
        """
        folder = self.path / step.folder
        if folder.exists() and not resumes:
            begun = _begun(folder)
            self._supersede(folder, begun if begun != key else f"again-{begun}")
        free = shutil.disk_usage(self.path).free
        needed = LEAST_FREE_BYTES + int(self.costs[step.name].disk_bytes)
        if free < needed:
            raise UserError(
                f"step {step.name}: {free / 1e6:,.0f} MB are free on the disk of {self.path}, about "
                f"{needed / 1e6:,.0f} MB are needed. Free some space and run the same command; finished steps stay"
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / BEGUN_FILE, {"key": key})

    def _bring_back(self, step: Step, key: str) -> bool:
        """Put back the output that the same inputs left earlier, if any; return whether there is one."""
        earlier = self.path / SUPERSEDED / _superseded_name(step.folder, key)
        folder = self.path / step.folder
        if not earlier.is_dir() or _begun(folder) == key:
            return False
        self._supersede(folder, _begun(folder))
        earlier.rename(folder)
        self.say(f"{step.number:2} {step.name:13} is back: the output of the same inputs was kept")
        return True

    def _supersede(self, folder: Path, key: str) -> None:
        place = self.path / SUPERSEDED
        place.mkdir(exist_ok=True)
        target = name = _superseded_name(folder.name, key or "unknown")
        number = 1
        while (place / target).exists():
            number += 1
            target = f"{name}-{number}"
        folder.rename(place / target)

    def _do(self, step: Step, key: str, config: dict[str, object], inputs: dict[str, str]) -> None:
        record = StepRecord(
            step=step.name,
            key=key,
            package=self.package,
            inputs=inputs,
            config=config,
            result=empty_result(),
            hashes={},
            files={},
            seconds=0,
            peak_memory_bytes=0,
        )
        self._child(step, record)
        done = read_record(self.path / step.folder)
        assert done is not None  # a child that says "done" has written it
        self._finished(step, done)
        self.progress.ran.append(step.name)
        cost = self.costs[step.name]
        self.say(
            f"{step.number:2} {step.name:13} {_time(done.seconds)} (planned {_time(cost.seconds)}), "
            f"{done.peak_memory_bytes / 1e6:,.0f} MB: {done.result.what}"
        )
        for note in done.result.notes:
            self.say(f"   {'':13} note: {note}")
        self._write_state()

    def _finished(self, step: Step, record: StepRecord) -> None:
        self.progress.records[step.name] = record
        self.progress.status[step.name] = "done"

    def _child(self, step: Step, record: StepRecord, *, only_measure: bool = False) -> None:
        models = tuple(name for name in self._models(step) if name != step.name)
        paths: dict[str, str] = {}
        for name in models:
            found = self.progress.records[name].result.model
            assert found is not None  # a step in `_models` names its model
            paths[name] = _joined(BY_NAME[name].folder, found)
        request = Request(self.path, step.name, self.recipe, models, paths, record, only_measure)
        began = time.monotonic()

        def beat(line: str) -> None:
            told = f": {line}" if line else ""
            self.say(f"   {step.name:13} {_time(time.monotonic() - began)}{told}")

        finished = run_step(request, beat, self.beat_s)
        if finished.outcome != "done":
            self.progress.status[step.name] = "stopped" if finished.outcome == "stopped" else "failed"
            raise UserError(self._told(step, finished))

    def _told(self, step: Step, finished: Finished) -> str:
        log = log_file(self.path, step.name)
        again = "run the same command to resume"
        match finished.outcome:
            case "stopped":
                return f"step {step.name} was stopped; {again}"
            case "full disk":
                return (
                    f"step {step.name}: the disk is full ({finished.text}). Free some space on the disk of "
                    f"{self.path} and {again}; finished steps stay"
                )
            case "killed":
                return f"step {step.name}: {finished.text}, perhaps because memory ran out; {again}. Log: {log}"
            case "failed":
                return f"step {step.name} failed by a defect: {finished.text}. Log: {log}"
            case _:
                return f"step {step.name}: {finished.text}"

    def _write_state(self) -> None:
        """Write `pipeline.json`: what is done, what it cost, and the hash of everything."""
        progress = self.progress
        steps: list[dict[str, Any]] = []
        for step in STEPS:
            record = progress.records.get(step.name)
            cost = self.costs.get(step.name)
            steps.append(
                {
                    "number": step.number,
                    "name": step.name,
                    "folder": step.folder,
                    "status": progress.status.get(step.name, "waiting"),
                    "planned_seconds": None if cost is None else round(cost.seconds, 1),
                    **(
                        {}
                        if record is None
                        else {
                            "key": record.key,
                            "digest": record.digest,
                            "seconds": round(record.seconds, 1),
                            "peak_memory_bytes": record.peak_memory_bytes,
                            "what": record.result.what,
                        }
                    ),
                }
            )
        state = {
            "name": self.recipe.name,
            "package": self.package,
            "digest": digest_of({name: record.digest for name, record in progress.records.items()}),
            "steps": steps,
            "recipe": self.recipe.model_dump(mode="json"),
        }
        write_json(self.path / STATE_FILE, state)


def _begun(folder: Path) -> str:
    """Return the key with which a step's folder was begun; "" if there is none."""
    try:
        return str(json.loads((folder / BEGUN_FILE).read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _superseded_name(folder: str, key: str) -> str:
    return f"{folder}-{key[:18]}"


def _hash_of(path: Path) -> str:
    if path.is_file():
        return sha256_of(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return digest_of({file.relative_to(path).as_posix(): sha256_of(file) for file in files})


def _joined(folder: str, part: str) -> str:
    return folder if part == "." else f"{folder}/{part}"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
