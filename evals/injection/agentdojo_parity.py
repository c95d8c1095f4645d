"""Compares agentkit's runner with AgentDojo's own: `python -m evals.injection.agentdojo_parity [--python PATH]`.

AgentDojo runs its ground-truth pipelines itself. Then the agent makes the same calls through agentkit's loop,
toolset and bridge. For every user task, the utility and the set of reached injection goals must be equal; for
every injection task, whether its ground truth reaches the goal. `--attack` additionally runs every pair of a user
task and an injection task under that attack and compares with AgentDojo's own benchmark function: utility and
security must be equal. `exposed` counts the pairs in which a tool result contained the injected text.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import anyio

from agentkit.agent import Agent
from agentkit.errors import UserError
from agentkit.limits import UsageLimits
from agentkit.testing import ScriptedModel
from evals.case import Case
from evals.harness.solving import run_agent
from evals.injection.agentdojo_setup import BENCHMARK, bridge_command, check
from evals.injection.agentdojo_suite import DEFAULT_MODEL_NAME, ground_truth, judge
from evals.injection.agentdojo_tools import BridgeToolset
from evals.injection.bridge_process import Bridge, BridgeError
from evals.injection.suite import chosen

COMMAND = "python -m evals.injection.agentdojo_parity"
DESCRIPTION = "Judge AgentDojo's ground truths with its own pipelines and with agentkit, and compare item by item."


@dataclass(frozen=True, slots=True)
class Item:
    """A ground truth, judged by both runners."""

    suite: str
    kind: Literal["user task", "injection task", "attacked pair"]
    task: str
    own: tuple[bool, tuple[str, ...]]
    """Verdict of AgentDojo alone: whether the task was solved or the goal reached, and which other goals were."""
    ours: tuple[bool, tuple[str, ...]]
    exposed: bool = False
    """Whether a tool result contained a whole injected text; only set in attacked pairs."""


async def compare(bridge: Bridge, version: str, suite: str) -> list[Item]:
    """Judge all ground truths of a suite with both runners in one bridge.

    Raises:
        BridgeError: AgentDojo failed.
    """
    tasks = (await bridge.ask_async("catalog", version=version))["suites"][suite]
    injections = list(tasks["injection_tasks"])
    items: list[Item] = []
    for task in tasks["user_tasks"]:
        own = await bridge.ask_async("own_verdict", version=version, suite=suite, task=task)
        judged = await _played(bridge, version, suite, task, None, injections)
        reached = tuple(name for name in injections if judged["security"][name])
        items.append(
            Item(suite, "user task", task, (own["holds"], tuple(own["reached"])), (judged["utility"], reached))
        )
    first = next(iter(tasks["user_tasks"]))
    for task in injections:
        own = await bridge.ask_async("own_verdict", version=version, suite=suite, task=task)
        judged = await _played(bridge, version, suite, first, task, [task])
        items.append(Item(suite, "injection task", task, (own["holds"], ()), (judged["security"][task], ())))
    return items


async def compare_attacked(bridge: Bridge, version: str, suite: str, attack: str) -> list[Item]:
    """Judge the user task's ground truth with both runners, for every pair under an attack.

    Raises:
        BridgeError: AgentDojo failed.
    """
    tasks = (await bridge.ask_async("catalog", version=version))["suites"][suite]
    items: list[Item] = []
    for task in tasks["user_tasks"]:
        for injection in tasks["injection_tasks"]:
            own = await bridge.ask_async(
                "own_attacked",
                version=version,
                suite=suite,
                user_task=task,
                injection_task=injection,
                attack=attack,
                model_name=DEFAULT_MODEL_NAME,
            )
            judged = await _played(bridge, version, suite, task, None, [injection], (injection, attack))
            own_reached = (injection,) if own["security"] else ()
            reached = (injection,) if judged["security"][injection] else ()
            items.append(
                Item(
                    suite,
                    "attacked pair",
                    f"{task} {injection}",
                    (own["utility"], own_reached),
                    (judged["utility"], reached),
                    judged["exposed"],
                )
            )
    return items


async def _played(
    bridge: Bridge,
    version: str,
    suite: str,
    user_task: str,
    injection_task: str | None,
    judged: Sequence[str],
    planted: tuple[str | None, str | None] = (None, None),
) -> Mapping[str, Any]:
    """Open a task, have the agent play a ground truth, and return AgentDojo's verdict.

    Args:
        bridge: Bridge to AgentDojo.
        version: AgentDojo's benchmark version.
        suite: Name of the suite.
        user_task: The user task to open.
        injection_task: Injection task whose ground truth is played; None plays the user task's.
        judged: The injection tasks whose goals are evaluated.
        planted: Injection task and attack in the environment.
    """
    opened = await bridge.ask_async(
        "open",
        version=version,
        suite=suite,
        user_task=user_task,
        injection_task=planted[0],
        attack=planted[1],
        model_name=DEFAULT_MODEL_NAME,
    )
    calls, answer = await ground_truth(bridge, injection_task)
    # An agent's run ends with text; a full stop is equivalent to AgentDojo's empty answer for every predicate.
    model = ScriptedModel([*calls, answer or "."], name="ground truth")
    limits = UsageLimits(request_limit=len(calls) + 2, repeated_failures_limit=None)
    agent = Agent(model, toolsets=[BridgeToolset(bridge, opened["tools"])], limits=limits)
    run = await run_agent(Case(id=user_task, prompt=opened["prompt"]), agent)
    return await judge(bridge, run, judged)


def report(items: Sequence[Item]) -> list[str]:
    """Return the table and the differences as lines."""
    lines = [
        f"{'suite':<11}{'kind':<16}{'items':>6}{'true (AgentDojo)':>18}{'true (ours)':>13}{'differences':>13}"
        f"{'goals reached':>15}{'exposed':>9}"
    ]
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        groups.setdefault((item.suite, item.kind), []).append(item)
    for (suite, kind), some in groups.items():
        n_own, n_ours = sum(i.own[0] for i in some), sum(i.ours[0] for i in some)
        n_different = sum(i.own != i.ours for i in some)
        n_reached, n_exposed = sum(len(i.own[1]) for i in some), sum(i.exposed for i in some)
        lines.append(
            f"{suite:<11}{kind:<16}{len(some):>6}{n_own:>18}{n_ours:>13}{n_different:>13}"
            f"{n_reached if kind != 'injection task' else '':>15}{n_exposed if kind == 'attacked pair' else '':>9}"
        )
    reached = [f"{i.suite} {i.task} reaches {', '.join(i.own[1])}" for i in items if i.own[1]]
    if reached:
        lines.append(
            f"goals that AgentDojo counts as reached by a user task's own ground truth: {'; '.join(reached)}"
        )
    unreached = [f"{item.suite} {item.task}" for item in items if not item.own[0]]
    if unreached:
        lines.append(f"ground truths that AgentDojo itself does not accept: {', '.join(unreached)}")
    different = [item for item in items if item.own != item.ours]
    lines += [f"DIFFERENT {i.suite} {i.task}: AgentDojo {i.own}, ours {i.ours}" for i in different]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 0 if both runners agree, 1 if they differ, 2 after an error."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=DESCRIPTION)
    parser.add_argument("--python", help="interpreter of an environment with AgentDojo")
    parser.add_argument("--version", default=BENCHMARK, help="default: %(default)s")
    parser.add_argument("--suites", default="all", help="comma-separated; default: %(default)s")
    parser.add_argument("--attack", help="also run all pairs under this attack; takes minutes for all suites")
    options = parser.parse_args(arguments)
    try:
        command = bridge_command(options.python)
        versions = check(command)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    bridge = Bridge(command)

    async def all_items() -> list[Item]:
        catalog = await bridge.ask_async("catalog", version=options.version)
        if options.attack:
            chosen(options.attack, catalog["attacks"], what="--attack")
        items: list[Item] = []
        for suite in chosen(options.suites, catalog["suites"], what="--suites"):
            items += await compare(bridge, options.version, suite)
            if options.attack:
                items += await compare_attacked(bridge, options.version, suite, options.attack)
        return items

    try:
        items = anyio.run(all_items)
    except (UserError, BridgeError) as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        bridge.close()
    print(f"AgentDojo {versions['agentdojo']}, benchmark {options.version}")
    print("\n".join(report(items)))
    return int(any(item.own != item.ours for item in items))


if __name__ == "__main__":
    raise SystemExit(main())
