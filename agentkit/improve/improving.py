"""The course of one improvement: split, search, gate, version. Killed and started again, it goes on.

Nothing but the journals is kept between: every choice follows from the seed and from rollouts, which the journal
has. So a resumed improvement repeats its choices, without running anything twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from agentkit.agent import Agent
from agentkit.errors import UserError
from agentkit.improve.budget import BudgetLimits, Ledger
from agentkit.improve.checking import score_by_checks
from agentkit.improve.folder import (
    Action,
    Candidate,
    ImprovementFolder,
    Spent,
    Version,
    attempts_on,
    now,
)
from agentkit.improve.gate import GateOptions, Verdict, gate
from agentkit.improve.pieces import Demonstration, Pieces
from agentkit.improve.reflection import Reflection
from agentkit.improve.rollout import Rollout, Scorer
from agentkit.improve.rollouts import Journal, Rollouts
from agentkit.improve.search import Pool, Search, SearchOptions
from agentkit.improve.staging import Staging, without_world
from agentkit.improve.subject import AgentFacts, staged_facts
from agentkit.improve.tasks import (
    Split,
    SplitShares,
    Task,
    checked_tasks,
    normal_prompt,
    split_tasks,
    tasks_sha256,
)
from agentkit.models.base import Model

_HELD = "held-back tasks"


class ImproveOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of an improvement; all are stored with its result."""

    seed: int = Field(default=0, ge=0)
    """Seed of the split, the search and the bootstrap."""
    split: SplitShares = SplitShares()
    search: SearchOptions = SearchOptions()
    budget: BudgetLimits = BudgetLimits()
    gate: GateOptions = GateOptions()
    timeout_s: float = Field(default=300.0, gt=0)
    """Seconds after which a rollout is cut off and counts as failed."""
    parallel: int = Field(default=1, ge=1, le=256)
    """Rollouts at once."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Subject of an improvement."""

    agent: Agent[Any, Any]
    tasks: Sequence[Task]
    scorer: Scorer = score_by_checks
    staging: Staging | None = None
    """Surroundings of the rollouts; None: the agent as it is, for tools that change nothing."""
    demonstrations: Sequence[Demonstration] = ()
    """Demonstrations from traces."""
    are_tasks_traced: bool = False
    """True if the prompts of the tasks come from traces. Rules quote them, so every version waits for a review."""
    reflection_model: Model | str | None = None
    """Model that proposes texts; None uses the operators without a model alone."""
    candidate: Pieces | None = None
    """A candidate that is given, such as another adapter: it goes to the gate without a search."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Receivers of the progress; each may be called often."""

    rollout: Callable[[str, int, int, Rollout], None] = lambda part, done, total, rollout: None
    """Part of the work, rollouts so far, their limit, and the last one."""
    note: Callable[[str], None] = lambda text: None


async def improve(
    wanted: Wanted, out: Path, options: ImproveOptions | None = None, progress: Progress | None = None
) -> Version:
    """Improve an agent's prompt, and write the result as a new version of a folder.

    A folder with an accepted version is improved further. The same call with an unchanged folder returns the
    version that it wrote before.

    Args:
        wanted: Agent, tasks and scorer.
        out: Folder of the versions and the journals.
        options: Budget, split, search and gate; None: all defaults.
        progress: Receives each rollout; None: nobody is told.

    Raises:
        UserError: there are too few tasks for a split, the budget is too small, a scorer or the agent is declared
            wrongly, or another process works in the folder.
    """
    from modelstack.errors import UserError as StackError
    from modelstack.run_folder import RunFolder

    try:
        with RunFolder(out).held():
            return await _improve(
                wanted, ImprovementFolder(out), options or ImproveOptions(), progress or Progress()
            )
    except StackError as error:
        raise UserError(str(error)) from error


async def _improve(
    wanted: Wanted, folder: ImprovementFolder, options: ImproveOptions, progress: Progress
) -> Version:
    tasks = checked_tasks(wanted.tasks)
    split = split_tasks(tasks, options.split, options.seed)
    staging = wanted.staging or without_world(wanted.agent)
    facts = await staged_facts(staging, tasks[0])
    index = folder.index()
    base = folder.pieces(index.accepted)
    configuration = _configuration(wanted, split, options, facts, base)
    fingerprint = _sha256(configuration)
    versions = [folder.version(n) for n in sorted({entry.version for entry in index.history if entry.sha256})]
    if versions and versions[-1].configuration_sha256 == fingerprint and versions[-1].base == index.accepted:
        progress.note(f"version {versions[-1].number} is the result of exactly this improvement")
        return versions[-1]
    ledger = Ledger(options.budget, 2 * len(split.held_back))
    rollouts = Rollouts(
        staging,
        wanted.scorer,
        Journal(folder.rollouts),
        ledger,
        identity=_sha256({"agent": facts.identity, "scorer": _name_of(wanted.scorer)}),
        timeout_s=options.timeout_s,
        parallel=options.parallel,
        told=_told(progress, split, ledger, options),
    )
    work = _Work(wanted, folder, options, progress, split, facts, base, ledger, rollouts)
    pool = await work.pool()
    chosen = wanted.candidate or pool.best.pieces
    held_back_sha256 = tasks_sha256(split.held_back)
    attempt = 1 + attempts_on(versions, held_back_sha256)
    verdict = await work.verdict(chosen, attempt) if chosen != base else None
    version = Version(
        number=1 + max((each.number for each in versions), default=0),
        base=index.accepted,
        pieces=chosen,
        verdict=verdict,
        candidates=tuple(
            Candidate(operator=each.operator, parent=each.parent, sha256=each.pieces.sha256, selection=each.mean)
            for each in pool.members
        ),
        spent=Spent(
            rollouts=ledger.n_rollouts,
            tokens=ledger.n_tokens,
            cost_usd=f"{ledger.cost:f}",
            limit_reached=pool.limit_reached,
        ),
        configuration=configuration,
        configuration_sha256=fingerprint,
        held_back_sha256=held_back_sha256,
        created=now(),
    )
    folder.add(version, decision(version.pieces, verdict, must_review=wanted.are_tasks_traced))
    return version


def decision(pieces: Pieces, verdict: Verdict | None, *, must_review: bool = False) -> Action:
    """Return what follows from a gate's verdict."""
    if verdict is None:
        return "nothing better"
    if not verdict.ships:
        return "refused"
    return "waiting" if must_review or pieces.needs_review else "shipped"


@dataclass(frozen=True, slots=True)
class _Work:
    """Search and gate of one improvement."""

    wanted: Wanted
    folder: ImprovementFolder
    options: ImproveOptions
    progress: Progress
    split: Split
    facts: AgentFacts
    base: Pieces
    ledger: Ledger
    rollouts: Rollouts

    async def pool(self) -> Pool:
        """Return the candidates of a search; none if the candidate is given."""
        if self.wanted.candidate is not None:
            return Pool([])
        async with AsyncExitStack() as stack:
            reflect = None
            if self.wanted.reflection_model is not None:
                journal = Journal(self.folder.proposals)
                reflect = Reflection(self.wanted.reflection_model, journal, self.ledger, self.facts.instructions)
                await stack.enter_async_context(reflect.agent)
            search = Search(
                self.rollouts,
                self.split,
                self.facts.tools,
                self.options.search,
                seed=self.options.seed,
                traced=_only_for_training(self.wanted.demonstrations, self.split),
                reflect=reflect,
                told=self.progress.note,
            )
            return await search.run(self.base)

    async def verdict(self, chosen: Pieces, attempt: int) -> Verdict:
        """Hold the gate for a candidate."""
        held_back = self.split.held_back
        self.ledger.release()
        self.progress.note(f"the gate: {len(held_back)} {_HELD}, present version and candidate")
        return gate(
            held_back,
            await self.rollouts.of(self.base, held_back),
            await self.rollouts.of(chosen, held_back),
            self.options.gate,
            seed=self.options.seed,
            attempt=attempt,
        )


def _only_for_training(demonstrations: Sequence[Demonstration], split: Split) -> list[Demonstration]:
    """Return demonstrations without those of tasks that judge the candidates."""
    judging = {normal_prompt(task.prompt) for task in (*split.selection, *split.held_back)}
    return [each for each in demonstrations if normal_prompt(each.prompt) not in judging]


def _told(progress: Progress, split: Split, ledger: Ledger, options: ImproveOptions) -> Callable[[Rollout], None]:
    held_back = {task.id for task in split.held_back}

    def told(rollout: Rollout) -> None:
        part = _HELD if rollout.task_id in held_back else "search"
        progress.rollout(part, ledger.n_rollouts, options.budget.rollouts, rollout)

    return told


def _configuration(
    wanted: Wanted, split: Split, options: ImproveOptions, facts: AgentFacts, base: Pieces
) -> dict[str, Any]:
    """Return everything that decides the result."""
    model = wanted.reflection_model
    return {
        "options": options.model_dump(mode="json"),
        "agent": facts.shown(),
        "scorer": _name_of(wanted.scorer),
        "tasks": {
            part: {"n": len(tasks), "sha256": tasks_sha256(tasks)}
            for part, tasks in (
                ("train", split.train), ("selection", split.selection), ("held_back", split.held_back),
            )
        },
        "demonstrations": [each.model_dump(mode="json") for each in wanted.demonstrations],
        "reflection_model": model if isinstance(model, str) or model is None else model.name,
        "candidate_sha256": None if wanted.candidate is None else wanted.candidate.sha256,
        "base_sha256": base.sha256,
    }  # fmt: skip


def _name_of(scorer: Scorer) -> str:
    return f"{getattr(scorer, '__module__', '')}.{getattr(scorer, '__qualname__', type(scorer).__name__)}"


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
