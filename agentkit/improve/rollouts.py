"""Performs rollouts, each once: a journal keeps every one, and a resumed improvement reads it.

The key of a rollout is the hash of everything that decides it: the agent as declared, the task, the candidate.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
from pydantic import ValidationError

from agentkit.errors import AgentRunError, UserError
from agentkit.improve.budget import Ledger
from agentkit.improve.checking import judged
from agentkit.improve.pieces import Pieces
from agentkit.improve.rollout import Outcome, Rollout, Scorer, recorded
from agentkit.improve.staging import Staging
from agentkit.improve.subject import model_identity, rollout_agent
from agentkit.improve.tasks import Task
from agentkit.models.base import Model
from agentkit.run.declaration import resolved_model
from agentkit.specialise.world_state import WorldUnreadable
from agentkit.tracing.redaction import redact
from agentkit.usage import RunUsage

Told = Callable[[Rollout], None]


class Journal:
    """JSON lines of finished work by key, without known secrets; each line is synced before the next one.

    Only the owner can read the file: it holds answers and arguments.
    """

    def __init__(self, file: Path) -> None:
        """Read a journal, after cutting off a last line that a killed process left incomplete.

        Raises:
            UserError: a line is not an entry.
        """
        from modelstack.files import whole_lines

        self._file = file
        self._entries: dict[str, Any] = {}
        for number, line in enumerate(whole_lines(file), start=1):
            try:
                entry = json.loads(line)
                self._entries[entry["key"]] = entry["value"]
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise UserError(
                    f"{file}, line {number} is damaged: remove the line, its work is done again."
                ) from error

    def get(self, key: str) -> Any:
        """Return the value of a key; None if there is none."""
        return self._entries.get(key)

    def put(self, key: str, value: Any) -> Any:
        """Append an entry and sync it; return the value as it is read back, so a resume sees the same."""
        line = redact(
            json.dumps({"key": key, "value": value}, ensure_ascii=False).encode("utf-8", "backslashreplace")
        )
        with open(self._file, "ab", opener=_private) as file:
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._entries[key] = json.loads(line)["value"]
        return self._entries[key]

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)


class Rollouts:
    """Runs candidates on tasks and remembers what came of it."""

    def __init__(
        self,
        staging: Staging,
        scorer: Scorer,
        journal: Journal,
        ledger: Ledger,
        *,
        identity: str,
        timeout_s: float,
        parallel: int = 1,
        told: Told | None = None,
    ) -> None:
        """Prepare; nothing runs.

        Args:
            staging: Opens the surroundings of each rollout.
            scorer: Judges the runs.
            journal: Keeps the rollouts.
            ledger: Counts them.
            identity: Hash of agent and scorer; a rollout of another one is not reused.
            timeout_s: Seconds after which a rollout is cut off and counts as failed.
            parallel: Rollouts at once.
            told: Called with each rollout, also one of the journal.
        """
        self._staging, self._scorer, self._journal, self._ledger = staging, scorer, journal, ledger
        self._identity, self._timeout_s, self._parallel = identity, timeout_s, parallel
        self._told = told
        self._done: dict[str, Rollout] = {}
        self._models: dict[str, Model] = {}

    async def of(self, pieces: Pieces, tasks: Sequence[Task]) -> list[Rollout]:
        """Return a candidate's rollouts on tasks, in their order.

        Raises:
            BudgetSpent: the rollouts that are missing exceed the budget; none of them was made.
            UserError: the agent's declaration is wrong, or the scorer's value.
        """
        # Checked before the journal is looked at, so a resumed improvement stops where the first one did.
        self._ledger.require(sum(self._key(pieces, task) not in self._done for task in tasks))
        missing = [task for task in tasks if self._known(pieces, task) is None]
        model = self._model_of(pieces)
        limiter = anyio.CapacityLimiter(self._parallel)
        errors: list[Exception] = []

        async def perform(task: Task) -> None:
            async with limiter:
                if errors:
                    return
                try:
                    self._keep(pieces, task, await self._performed(pieces, model, task))
                except Exception as error:  # raised below alone, after the others have ended
                    errors.append(error)

        async with AsyncExitStack() as stack:
            if missing and model is not None:
                await stack.enter_async_context(model)
            group = await stack.enter_async_context(anyio.create_task_group())
            for task in missing:
                group.start_soon(perform, task)
        if errors:
            raise errors[0]
        return [self._done[self._key(pieces, task)] for task in tasks]

    def made(self, task: Task) -> list[Rollout]:
        """Return all rollouts of this improvement on a task."""
        return [rollout for rollout in self._done.values() if rollout.task_id == task.id]

    def _key(self, pieces: Pieces, task: Task) -> str:
        candidate = pieces.sha256
        if (model := self._model_of(pieces)) is not None:  # its name may be a path whose content changes
            candidate += f" {model_identity(model)}"
        return hashlib.sha256(f"{self._identity} {candidate} {task.sha256}".encode()).hexdigest()

    def _known(self, pieces: Pieces, task: Task) -> Rollout | None:
        key = self._key(pieces, task)
        if key in self._done:
            return self._done[key]
        entry = self._journal.get(key)
        if entry is None:
            return None
        try:
            rollout = Rollout.model_validate(entry)
        except ValidationError as error:
            raise UserError(f"the journal's rollout of task {task.id!r} is damaged: {error}") from error
        self._count(key, rollout)
        return rollout

    def _keep(self, pieces: Pieces, task: Task, rollout: Rollout) -> None:
        key = self._key(pieces, task)
        self._count(key, Rollout.model_validate(self._journal.put(key, rollout.model_dump(mode="json"))))

    def _count(self, key: str, rollout: Rollout) -> None:
        self._done[key] = rollout
        self._ledger.add(rollout)
        if self._told is not None:
            self._told(rollout)

    def _model_of(self, pieces: Pieces) -> Model | None:
        """Return the model that a candidate names; all its rollouts share it."""
        if pieces.model is None:
            return None
        if pieces.model not in self._models:
            self._models[pieces.model] = resolved_model(pieces.model)
        return self._models[pieces.model]

    async def _performed(self, pieces: Pieces, model: Model | None, task: Task) -> Rollout:
        started = time.monotonic()
        outcome: Outcome | None = None
        async with AsyncExitStack() as stack:
            stage = await stack.enter_async_context(self._staging(task))
            agent = rollout_agent(stage.agent, pieces, model)
            if stage.toolsets is not None:
                stack.enter_context(agent.override(toolsets=stage.toolsets))
            before = await self._observed(stage.observe)
            with anyio.move_on_after(self._timeout_s):
                outcome = await _run(agent, task, stage.deps)
            outcome = outcome or Outcome(
                task=task, status="timed_out", error=f"no end after {self._timeout_s:g} s"
            )
            try:
                observed = await self._observed(stage.observe)
            except WorldUnreadable as error:
                observed, outcome = (
                    None,
                    outcome.model_copy(update={"error": f"the world cannot be read: {error}"}),
                )
        outcome = outcome.model_copy(update={"before": before, "observed": observed})
        score = await judged(self._scorer, outcome)
        return recorded(outcome, score, time.monotonic() - started)

    async def _observed(self, observe: Callable[[], Any] | None) -> Any:
        return None if observe is None else await anyio.to_thread.run_sync(observe)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


async def _run(agent: Any, task: Task, deps: Any) -> Outcome:
    try:
        result = await agent.run(task.prompt, deps=deps)
    except AgentRunError as error:
        return Outcome(
            task=task,
            status="failed",
            messages=error.messages,
            usage=error.usage or RunUsage(),
            is_tainted=error.state is not None and error.state.tainted,
            error=f"{type(error).__name__}: {error}",
        )
    return Outcome(
        task=task,
        status=result.status,
        output=result.output_or_none,
        messages=result.new_messages(),
        usage=result.usage,
        pending=result.pending,
        is_tainted=result.state.tainted,
    )
