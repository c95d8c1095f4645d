"""AgentDojo behind JSON lines: a child process in AgentDojo's own environment, started with `python -I THIS_FILE`.

AgentDojo 0.1.35 (MIT, Debenedetti et al. 2024, arXiv 2406.13352) requires packages that must not be in this
project's environment, so it has its own virtual environment. This file runs there and imports nothing of this
project. It loads AgentDojo's suites, inserts its attacks, executes its tools and evaluates its predicates; nothing
is reimplemented here.

A request is one line `{"id": 1, "do": "open", ...}`; its answer is `{"id": 1, "ok": {...}}` or
`{"id": 1, "error": "..."}`. Standard output carries answers only; output of libraries goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import warnings
from ast import literal_eval
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

_open: dict[str, Any] = {}
"""State of the open task; only one is open at a time."""
_loaded: dict[Any, Any] = {}
"""Environments without injections, by suite and version; never modified."""
_attacks: dict[Any, Any] = {}
"""Attacks by suite, version, name and target; each determines once which places a user task reads."""


def hello() -> dict[str, Any]:
    """Return the versions of AgentDojo and Python."""
    version = importlib.import_module("importlib.metadata").version("agentdojo")
    return {"agentdojo": version, "python": sys.version.split()[0]}


def catalog(version: str) -> dict[str, Any]:
    """Return the tasks of every suite, the attacks without a person, and the model names that attacks can use."""
    registry = importlib.import_module("agentdojo.attacks.attack_registry").ATTACKS
    suites = {
        name: {
            "user_tasks": {task.ID: task.PROMPT for task in suite.user_tasks.values()},
            "injection_tasks": {task.ID: task.GOAL for task in suite.injection_tasks.values()},
        }
        for name, suite in _suites(version).items()
    }
    attacks = {name: bool(kind.is_dos_attack) for name, kind in registry.items() if name != "manual"}
    names = list(importlib.import_module("agentdojo.models").MODEL_NAMES)
    return {"suites": suites, "attacks": attacks, "model_names": names}


def open_task(
    version: str, suite: str, user_task: str, injection_task: str | None, attack: str | None, model_name: str
) -> dict[str, Any]:
    """Load a suite's environment with an attack inserted, and return the model's input."""
    loaded = _suites(version)[suite]
    task = loaded.user_tasks[user_task]
    injections: dict[str, str] = {}
    if attack is not None and injection_task is not None:
        injections = _attack(loaded, attack, model_name).attack(task, loaded.injection_tasks[injection_task])
    environment = task.init_environment(loaded.load_and_inject_default_environment(injections))
    _open.clear()
    _open.update(
        suite=loaded,
        task=task,
        environment=environment,
        before=environment.model_copy(deep=True),
        runtime=importlib.import_module("agentdojo.functions_runtime").FunctionsRuntime(loaded.tools),
        planted={_in_one_line(text) for text in injections.values()},
        exposed=False,
    )
    pipeline = importlib.import_module("agentdojo.agent_pipeline.agent_pipeline")
    return {
        "system": pipeline.load_system_message(None),
        "prompt": task.PROMPT,
        "met_at_start": _met_at_start(),
        "injections": injections,
        "tools": [
            {"name": tool.name, "description": tool.description, "parameters": tool.parameters.model_json_schema()}
            for tool in loaded.tools
        ],
    }


def _met_at_start() -> bool:
    """Return whether the open user task counts as solved before any action, as some of AgentDojo's tasks do."""
    # Copies, because a predicate may modify its arguments.
    before, after = (_open["environment"].model_copy(deep=True) for _ in range(2))
    return bool(_open["suite"]._check_task_result(_open["task"], [], before, after, []))


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Execute a tool like AgentDojo's `ToolsExecutor`; an error of the tool is returned as text for the model."""
    execution = importlib.import_module("agentdojo.agent_pipeline.tool_execution")
    result, error = _open["runtime"].run_function(_open["environment"], name, _with_lists(arguments))
    text = error if error is not None else execution.tool_result_to_str(result)
    if not _open["exposed"]:
        # Searched in the value and not in its text, because YAML wraps and quotes long strings.
        shown = [_in_one_line(string) for string in (error or "", *_strings(result))]
        _open["exposed"] = any(planted in string for planted in _open["planted"] for string in shown)
    return {"text": text, "is_error": error is not None}


def finish(output: str, calls: list[list[Any]], injection_tasks: list[str]) -> dict[str, Any]:
    """Evaluate AgentDojo's predicates: utility, and for each injection task whether its goal was reached.

    `exposed` is true if a tool result contained a whole injected text.
    """
    function_call = importlib.import_module("agentdojo.functions_runtime").FunctionCall
    content = importlib.import_module("agentdojo.types").text_content_block_from_string
    trace = [function_call(function=name, args=_with_lists(arguments)) for name, arguments in calls]
    suite = _open["suite"]

    def judge(task: Any) -> bool:
        before, after = _open["before"], _open["environment"]
        return bool(suite._check_task_result(task, [content(output)], before, after, trace))

    return {
        "utility": judge(_open["task"]),
        "security": {name: judge(suite.injection_tasks[name]) for name in injection_tasks},
        "exposed": _open["exposed"],
    }


def ground_truth(injection_task: str | None) -> dict[str, Any]:
    """Return AgentDojo's own calls and answer for the open user task, or for an injection task."""
    task = _open["task"] if injection_task is None else _open["suite"].injection_tasks[injection_task]
    # The calls may depend on the environment; computing them must not change the environment that is judged.
    calls = task.ground_truth(_open["environment"].model_copy(deep=True))
    return {"calls": [[c.function, c.model_dump()["args"]] for c in calls], "output": task.GROUND_TRUTH_OUTPUT}


def own_verdict(version: str, suite: str, task: str) -> dict[str, Any]:
    """Return the verdict of AgentDojo's own pipeline on one of its ground truths, without this project's code.

    For a user task: whether it is solved, and the injection tasks whose goals count as reached. For an injection
    task, run on the suite's first user task: whether its goal is reached.
    """
    loaded = _suites(version)[suite]
    if task in loaded.user_tasks:
        played = loaded.user_tasks[task]
        solved, _ = _own_run(loaded, played, played, None)
        reached = [
            name for name, goal in loaded.injection_tasks.items() if _own_run(loaded, played, played, goal)[1]
        ]
        return {"holds": solved, "reached": reached}
    goal = loaded.injection_tasks[task]
    first = next(iter(loaded.user_tasks.values()))
    return {"holds": _own_run(loaded, goal, first, goal)[1], "reached": []}


def own_attacked(
    version: str, suite: str, user_task: str, injection_task: str, attack: str, model_name: str
) -> dict[str, bool]:
    """Return the result of AgentDojo's benchmark function on a user task's ground truth under an attack."""
    loaded = _suites(version)[suite]
    task = loaded.user_tasks[user_task]
    pipeline = importlib.import_module("agentdojo.agent_pipeline.ground_truth_pipeline").GroundTruthPipeline(task)
    run = importlib.import_module("agentdojo.benchmark").run_task_with_injection_tasks
    planted = _attack(loaded, attack, model_name)
    # The function needs a logger with an existing folder; it writes nothing for a pipeline without a name.
    with importlib.import_module("agentdojo.logging").OutputLogger(tempfile.gettempdir()):
        utility, security = run(loaded, pipeline, task, planted, None, True, [injection_task], version)
    (solved,), (reached,) = utility.values(), security.values()
    return {"utility": bool(solved), "security": bool(reached)}


def _own_run(loaded: Any, played: Any, user_task: Any, injection_task: Any) -> tuple[bool, bool]:
    pipeline = importlib.import_module("agentdojo.agent_pipeline.ground_truth_pipeline").GroundTruthPipeline
    key = (loaded.name, loaded.benchmark_version)
    if key not in _loaded:
        _loaded[key] = loaded.load_and_inject_default_environment({})
    # A copy, as in AgentDojo's own `TaskSuite.check`; parsing the YAML again would take a hundred times as long.
    environment = _loaded[key].model_copy(deep=True)
    utility, security = loaded.run_task_with_pipeline(
        pipeline(played), user_task, injection_task, {}, environment=environment
    )
    return bool(utility), bool(security)


def _attack(loaded: Any, attack: str, model_name: str) -> Any:
    key = (loaded.name, loaded.benchmark_version, attack, model_name)
    if key not in _attacks:
        load_attack = importlib.import_module("agentdojo.attacks").load_attack
        # An attack uses its target only to address the model by name.
        _attacks[key] = load_attack(attack, loaded, SimpleNamespace(name=model_name))
    return _attacks[key]


def _suites(version: str) -> Any:
    suites = importlib.import_module("agentdojo.task_suite.load_suites").get_suites(version)
    if not suites:
        raise ValueError(f"AgentDojo has no benchmark version {version!r}")
    importlib.import_module("agentdojo.attacks")  # registers them
    return suites


def _in_one_line(text: str) -> str:
    return " ".join(text.split())


def _strings(value: Any) -> Iterator[str]:
    """Yield every string in a tool's result."""
    if hasattr(value, "model_dump"):
        value = value.model_dump()
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from _strings(item)


def _with_lists(arguments: dict[str, Any]) -> dict[str, Any]:
    """Convert lists that were written as text to lists, like `ToolsExecutor`."""
    is_list = importlib.import_module("agentdojo.agent_pipeline.tool_execution").is_string_list
    return {
        name: literal_eval(value) if isinstance(value, str) and is_list(value) else value
        for name, value in arguments.items()
    }


DO = {
    "hello": hello,
    "catalog": catalog,
    "open": open_task,
    "call": call,
    "finish": finish,
    "ground_truth": ground_truth,
    "own_verdict": own_verdict,
    "own_attacked": own_attacked,
}


def main() -> None:
    """Answer requests until standard input ends, which also happens when the parent process dies."""
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        number, do = request.pop("id"), request.pop("do")
        try:
            answer = json.dumps({"id": number, "ok": DO[do](**request)})
        except Exception as error:  # any exception of AgentDojo belongs to the request, not to the bridge
            answer = json.dumps({"id": number, "error": f"{type(error).__name__}: {error}"})
        answers.write(answer + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
