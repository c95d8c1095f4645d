"""From tasks or rewarded traces to a better prompt or adapter, behind a held-back gate, with a way back.

`Agent.improved(folder)` uses the result. See `docs/guides/improve.md`.
"""

from agentkit.improve.budget import BudgetLimits
from agentkit.improve.checking import score_by_checks
from agentkit.improve.folder import ImprovementFolder, Version
from agentkit.improve.gate import GateOptions, Verdict
from agentkit.improve.improving import ImproveOptions, Progress, Wanted, improve
from agentkit.improve.pieces import Demonstration, Pieces, Rule, ToolDescription
from agentkit.improve.rollout import Outcome, Score, Scorer
from agentkit.improve.search import SearchOptions
from agentkit.improve.staging import Stage, Staging, in_world, without_world, world_servers
from agentkit.improve.tasks import Call, Checks, SplitShares, Task, read_tasks

__all__ = [
    "BudgetLimits",
    "Call",
    "Checks",
    "Demonstration",
    "GateOptions",
    "ImproveOptions",
    "ImprovementFolder",
    "Outcome",
    "Pieces",
    "Progress",
    "Rule",
    "Score",
    "Scorer",
    "SearchOptions",
    "SplitShares",
    "Stage",
    "Staging",
    "Task",
    "ToolDescription",
    "Verdict",
    "Version",
    "Wanted",
    "improve",
    "in_world",
    "read_tasks",
    "score_by_checks",
    "without_world",
    "world_servers",
]
