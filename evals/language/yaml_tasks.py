"""Tasks in the YAML format of lm-evaluation-harness, if they are pure data.

Supported: `task`, `dataset_path` (a local .jsonl or .json file; or `json` with `dataset_kwargs.data_files`), the
splits' names, `output_type` multiple_choice, loglikelihood or generate_until, `doc_to_text`, `doc_to_choice`,
`doc_to_target` (a field's name, a Jinja template or plain data), `description`, `target_delimiter`,
`fewshot_delimiter`, `num_fewshot`, `generation_kwargs.until` and `.max_gen_toks`, and the metrics acc, acc_norm,
exact_match and perplexity. Every other key raises an error that names it, because a score that ignores part of a
task's rules would be misleading. Python functions (`!function`) are never run; templates run in Jinja's sandbox.

Paths are relative to the YAML file. Nothing is fetched.
"""

from __future__ import annotations

import ast
import difflib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkit.errors import UserError
from evals.case import Case
from evals.language.core_tasks import FEW_SHOT_SEED
from evals.language.records import read_records
from mcp_servers.distribution import install_command

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

OUTPUT_TYPES = ("multiple_choice", "loglikelihood", "generate_until")
METRICS = {
    "multiple_choice": ("acc", "acc_norm"),
    "loglikelihood": ("acc", "perplexity"),
    "generate_until": ("exact_match",),
}
READ_KEYS = (
    "task", "dataset_path", "dataset_kwargs", "test_split", "validation_split", "training_split", "fewshot_split",
    "output_type", "doc_to_text", "doc_to_choice", "doc_to_target", "description", "target_delimiter",
    "fewshot_delimiter", "num_fewshot", "metric_list", "generation_kwargs",
)  # fmt: skip
IGNORED_KEYS = (
    "tag",
    "metadata",
    "dataset_name",
    "should_decontaminate",
    "doc_to_decontamination_query",
    "repeats",
)
"""Keys that do not change the score; `dataset_name` and `repeats` only with neutral values (null, 1)."""
MAX_RENDERED_CHARACTERS = 1 << 20
DEFAULT_MAX_TOKENS = 256


@dataclass(frozen=True, slots=True)
class YamlTask:
    """A validated task file."""

    path: Path
    name: str
    output_type: str
    keys: Mapping[str, Any]

    def get(self, key: str, default: Any = None) -> Any:
        """Return a key's value; null counts as absent."""
        value = self.keys.get(key)
        return default if value is None else value

    def error(self, key: str, rule: str) -> UserError:
        """Return an error that names file and key."""
        return UserError(f"task file {self.path}: {key!r} {rule}")


def yaml_task_cases(path: Path) -> list[Case]:
    """Return the cases of a task file.

    Raises:
        UserError: a file is missing, a key is not supported, or a template fails on a record.
    """
    task = read_task(path)
    records, pool = _records(task)
    n_examples = task.get("num_fewshot", 0)
    if not isinstance(n_examples, int) or isinstance(n_examples, bool) or not 0 <= n_examples < len(pool):
        raise task.error(
            "num_fewshot", f"must be a number from 0 to {len(pool) - 1}, because there are {len(pool)} records."
        )
    return [_case(task, records, pool, index, n_examples) for index in range(len(records))]


def read_task(path: Path) -> YamlTask:
    """Read and validate a task file.

    Raises:
        UserError: the file is missing, is not YAML, or has an unsupported key or value.
    """
    keys = _load_yaml(path)
    task = YamlTask(path, str(keys.get("task") or path.stem), str(keys.get("output_type", "")), keys)
    for key, value in keys.items():
        if isinstance(value, _Function) or _holds_function(value):
            raise task.error(key, "names a Python function; only data and templates are run.")
        if key not in READ_KEYS and key not in IGNORED_KEYS:
            near = difflib.get_close_matches(str(key), READ_KEYS, n=1, cutoff=0.6)
            raise task.error(key, f"is not supported{f'; nearest: {near[0]!r}' if near else ''}.")
    if task.get("dataset_name") or task.get("repeats", 1) != 1:
        raise task.error("dataset_name" if task.get("dataset_name") else "repeats", "must be left out.")
    if task.output_type not in OUTPUT_TYPES:
        raise task.error("output_type", f"must be one of {', '.join(OUTPUT_TYPES)}, not {task.output_type!r}.")
    for key in ("doc_to_text", "doc_to_target", *(["doc_to_choice"] if _is_choice(task) else [])):
        if task.get(key) is None:
            raise task.error(key, "is missing.")
    _exact_match_rules(task)
    return task


# -- files ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Function:
    """A YAML tag that refers to code."""

    tag: str


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise UserError(f"task files need PyYAML: {install_command('evals')}") from error

    class Loader(yaml.SafeLoader):
        """SafeLoader that keeps unknown tags as markers, so that errors can name their key, and refuses aliases.

        A few lines of nested aliases can expand to more values than fit in memory.
        """

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases are not supported")
            return super().compose_node(parent, index)

    Loader.add_multi_constructor("!", lambda _loader, tag, _node: _Function(tag))
    if not path.is_file():
        raise UserError(f"no task file at {path}.")
    try:
        keys = yaml.load(path.read_text(encoding="utf-8"), Loader)  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"task file {path} cannot be read as YAML: {error}") from error
    if not isinstance(keys, dict):
        raise UserError(f"task file {path} must hold keys and values.")
    if "include" in keys or "group" in keys:
        raise UserError(f"task file {path}: 'include' and 'group' are not supported; write the task out in full.")
    return keys


def _holds_function(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_function(part) for part in value.values())
    if isinstance(value, list):
        return any(_holds_function(part) for part in value)
    return isinstance(value, _Function)


def _records(task: YamlTask) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the records to ask about, and the records from which examples are drawn."""
    files = _data_files(task)
    asked = task.get("test_split") or task.get("validation_split")
    shown = task.get("fewshot_split") or task.get("training_split") or asked
    if len(files) == 1 and (asked is None or asked not in files):
        asked = next(iter(files))
    shown = shown if shown in files else asked
    for split in (asked, shown):
        if split not in files:
            raise task.error("test_split", f"{split!r} is not among the data files: {', '.join(files)}.")
    records = read_records(files[asked])
    return records, records if shown == asked else read_records(files[shown])


def _data_files(task: YamlTask) -> dict[str, Path]:
    named = task.get("dataset_path")
    extra = task.get("dataset_kwargs", {})
    if not isinstance(named, str) or not isinstance(extra, Mapping) or set(extra) - {"data_files"}:
        raise task.error(
            "dataset_path", "must name a local file, or be `json` with dataset_kwargs.data_files only."
        )
    if named != "json":
        path = task.path.parent / named
        if path.suffix not in (".json", ".jsonl", ".gz") or not path.is_file():
            raise task.error("dataset_path", f"{named!r} is not a local .jsonl or .json file; nothing is fetched.")
        return {"test": path}
    files = extra.get("data_files")
    splits = {"test": files} if isinstance(files, str) else files
    if not isinstance(splits, Mapping) or not all(isinstance(file, str) for file in splits.values()) or not splits:
        raise task.error("dataset_kwargs", "data_files must be a path, or a path for each split.")
    return {str(split): task.path.parent / file for split, file in splits.items()}


# -- records to cases -------------------------------------------------------------------------------------


def _is_choice(task: YamlTask) -> bool:
    return task.output_type == "multiple_choice"


def _case(
    task: YamlTask, records: Sequence[dict[str, Any]], pool: Sequence[dict[str, Any]], index: int, n_examples: int
) -> Case:
    record = records[index]
    between = str(task.keys.get("target_delimiter", " "))
    after = str(task.keys.get("fewshot_delimiter", "\n\n"))
    others = [other for i, other in enumerate(pool) if pool is not records or i != index]
    chosen = random.Random(FEW_SHOT_SEED + index).sample(others, n_examples)
    examples = [_text(task, other) + between + _targets(task, other)[0] + after for other in chosen]
    description = _render(task, "description", task.get("description", ""), record)
    context = str(description) + "".join(examples) + _text(task, record)
    data: dict[str, Any]
    if task.output_type == "generate_until":
        data = {"kind": "generate", "exact_match": _exact_match_rules(task), "chance": 0.0, **_generation(task)}
        return Case(f"{task.name}/{index}", context, task.name, _targets(task, record), data)
    choices = _choices(task, record) if _is_choice(task) else _targets(task, record)[:1]
    if not all(choices):
        raise task.error("doc_to_choice" if _is_choice(task) else "doc_to_target", f"is empty for record {index}.")
    # lm-evaluation-harness puts the delimiter before choices, but not before a single continuation.
    before = between if _is_choice(task) else ""
    data = {
        "kind": "choice" if _is_choice(task) else "continuation",
        "requests": [[context, before + choice] for choice in choices],
        "lengths": [len(choice) for choice in choices],
        "chance": 1 / len(choices) if _is_choice(task) else 0.0,
    }
    target = _gold(task, record, choices) if _is_choice(task) else choices[0]
    return Case(f"{task.name}/{index}", context, task.name, target, data)


def _text(task: YamlTask, record: Mapping[str, Any]) -> str:
    return str(_render(task, "doc_to_text", task.get("doc_to_text"), record))


def _choices(task: YamlTask, record: Mapping[str, Any]) -> list[str]:
    value = _render(task, "doc_to_choice", task.get("doc_to_choice"), record)
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, str):
        value = _literal(value)
    if not isinstance(value, list) or len(value) < 2:
        raise task.error("doc_to_choice", f"must give a list of at least two choices, not {value!r:.80}.")
    return [str(choice) for choice in value]


def _gold(task: YamlTask, record: Mapping[str, Any], choices: Sequence[str]) -> int:
    value = _render(task, "doc_to_target", task.get("doc_to_target"), record)
    key = task.get("doc_to_target")
    is_field = isinstance(key, str) and key in record
    if isinstance(value, str) and value.isdecimal() and not is_field:
        value = int(value)  # a template writes an index as text; a field's text is always a choice, even "3"
    if isinstance(value, str) and value in choices:
        value = choices.index(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(choices):
        raise task.error("doc_to_target", f"must give a choice or its index, not {value!r:.80}.")
    return value


def _targets(task: YamlTask, record: Mapping[str, Any]) -> list[str]:
    """Return the accepted texts; the first is shown in examples."""
    if _is_choice(task):
        choices = _choices(task, record)
        return [choices[_gold(task, record, choices)]]
    value = _render(task, "doc_to_target", task.get("doc_to_target"), record)
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        value = _literal(value)
    values = value if isinstance(value, list) else [value]
    if not values:
        raise task.error("doc_to_target", "gives no target.")
    return [str(part) for part in values]


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


def _render(task: YamlTask, key: str, value: Any, record: Mapping[str, Any]) -> Any:
    """Return the value of a key for a record: the named field, the rendered template, or the value itself."""
    if not isinstance(value, str):
        return value
    if value in record:
        return record[value]
    from jinja2 import TemplateError

    try:
        text = _template(value)(**record)
    # Any failure of a template on a record (arithmetic on text, missing keys) is an error of the task file.
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise task.error(key, f"fails: {type(error).__name__}: {error}") from error
    if len(text) > MAX_RENDERED_CHARACTERS:
        raise task.error(key, f"renders more than {MAX_RENDERED_CHARACTERS} characters.")
    return text


@cache
def _template(source: str) -> Callable[..., str]:
    return _environment().from_string(source).render


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    try:
        from jinja2 import StrictUndefined
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise UserError(f"task files need Jinja: {install_command('local')}") from error
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)


# -- metrics ----------------------------------------------------------------------------------------------


def _exact_match_rules(task: YamlTask) -> dict[str, bool]:
    """Validate `metric_list`; return the differences that exact_match ignores."""
    rules: dict[str, bool] = {}
    metrics = task.get("metric_list", [])
    if not isinstance(metrics, list) or not all(isinstance(metric, Mapping) for metric in metrics):
        raise task.error("metric_list", "must be a list of metrics.")
    for metric in metrics:
        name = metric.get("metric")
        if name not in METRICS[task.output_type]:
            known = ", ".join(METRICS[task.output_type])
            raise task.error("metric_list", f"has {name!r}; for {task.output_type} there are {known}.")
        for key, value in metric.items():
            if key in ("ignore_case", "ignore_punctuation") and isinstance(value, bool) and name == "exact_match":
                rules[key] = value
            elif key not in ("metric", "aggregation", "higher_is_better"):
                raise task.error("metric_list", f"{name} has {key!r}, which is not supported.")
            elif key == "aggregation" and value != ("perplexity" if name == "perplexity" else "mean"):
                raise task.error("metric_list", f"{name} is aggregated by {value!r}, which is not supported.")
    return rules


def _generation(task: YamlTask) -> dict[str, Any]:
    given = dict(task.get("generation_kwargs", {}))
    if given.pop("do_sample", False) or given.pop("temperature", 0) != 0:
        raise task.error("generation_kwargs", "asks for sampling; answers are greedy.")
    until = given.pop("until", task.keys.get("fewshot_delimiter", "\n\n"))
    max_tokens = given.pop("max_gen_toks", DEFAULT_MAX_TOKENS)
    if given:
        raise task.error("generation_kwargs", f"has {', '.join(given)}, which is not supported.")
    until = [until] if isinstance(until, str) else until
    if not isinstance(until, list) or not all(isinstance(stop, str) and stop for stop in until):
        raise task.error("generation_kwargs", "until must be a text or a list of texts.")
    if not isinstance(max_tokens, int) or max_tokens < 1:
        raise task.error("generation_kwargs", "max_gen_toks must be a number of at least 1.")
    return {"until": until, "max_tokens": max_tokens}
