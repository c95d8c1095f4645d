"""Examples for `agentkit specialise` from the training tasks: the first step on the way to a better adapter.

Only tasks of the training part are used, so the held-back tasks can judge the adapter. Of a solution with several
calls only the first is an example, because the results of the others are not known. The examples have the form of
`modelstack.data.examples`; the runtime does not import the training side, so they are plain data here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from agentkit.improve.subject import AgentFacts
from agentkit.improve.tasks import Task


def training_examples(tasks: Sequence[Task], facts: AgentFacts, license_id: str) -> Iterator[dict[str, Any]]:
    """Yield an example for each task whose solution is known and whose tool the agent has.

    Args:
        tasks: Tasks of the training part.
        facts: Tools and instructions of the agent.
        license_id: License of the tasks, which training records.
    """
    names = {tool.name for tool in facts.tools}
    shown = [
        {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters_json_schema)}
        for tool in facts.tools
    ]
    opening = [{"role": "system", "content": facts.instructions}] if facts.instructions else []
    for task in tasks:
        if not task.solution or task.solution[0].name not in names:
            continue
        first = task.solution[0]
        yield {
            "id": task.id,
            "source": "improve",
            "license": license_id,
            "kind": "call",
            "split": "train",
            "tools": shown,
            "messages": [*opening, {"role": "user", "content": task.prompt}],
            "calls": [{"name": first.name, "arguments": first.arguments}],
        }
