"""Our requests and scores against lm-evaluation-harness's own, item by item, on the same task files.

The model of both is a function: a log-probability drawn from the hash of context and continuation, so every
difference of a character shows. Runs where lm-eval is installed (0.4.13 when this was written); what it draws as
few-shot examples differs from ours by design, so the tasks have none.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from evals.case import Case, Run
from evals.language.choice_scores import choice_tables, score_choice
from evals.language.core_tasks import read_item
from evals.language.records import read_records
from evals.language.yaml_tasks import yaml_task_cases

CORE = Path(__file__).resolve().parents[4] / "shared/data/evals/capability/core"
LIMIT = 100

CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{query}}}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: gold
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
"""
LAST_WORD = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
output_type: loglikelihood
doc_to_text: context
doc_to_target: "{{{{' '+continuation}}}}"
metric_list:
  - metric: perplexity
    aggregation: perplexity
    higher_is_better: false
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
LABELS = CHOICE.replace("doc_to_choice: choices", 'doc_to_choice: ["A", "B", "C", "D"]').replace(
    "\\nAnswer:", "{{% for c in choices %}}\\n{{{{'ABCD'[loop.index0]}}}}. {{{{c}}}}{{% endfor %}}\\nAnswer:"
)
TASKS = [
    ("arc_easy", "arc_easy.jsonl", CHOICE),
    ("piqa", "piqa.jsonl", CHOICE),
    ("boolq", "boolq.jsonl", CHOICE),
    ("openbook_labels", "openbook_qa.jsonl", LABELS),
    ("lambada", "lambada_openai.jsonl", LAST_WORD),
]


def judged(context: str, continuation: str) -> tuple[float, bool]:
    """Return a log-probability and whether the continuation is greedy, from nothing but the characters."""
    digest = hashlib.sha256(f"{context}\0{continuation}".encode()).digest()
    return -len(continuation) * (0.5 + digest[0] / 256), digest[1] % 4 == 0


def answered(case: Case) -> Run:
    pairs = [judged(context, continuation) for context, continuation in case.data["requests"]]
    seen = {"logprobs": [p for p, _ in pairs], "is_greedy": [g for _, g in pairs], "n_tokens": [1] * len(pairs)}
    return Run(case.id, "completed", observed=seen)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file", "text"), TASKS, ids=[name for name, *_ in TASKS])
@pytest.mark.filterwarnings("ignore")
def test_requests_and_scores_are_lm_evals(name: str, file: str, text: str, tmp_path: Path) -> None:
    lm_eval: Any = pytest.importorskip("lm_eval", reason="needs lm-eval")
    base: Any = importlib.import_module("lm_eval.api.model").LM
    if not (CORE / file).exists():
        pytest.skip(f"needs {CORE / file}")
    import yaml

    asked: list[tuple[str, str]] = []

    class Judge(base):
        def loglikelihood(self, requests: Any) -> list[tuple[float, bool]]:
            pairs = [request.args[:2] for request in requests]
            asked.extend(pairs)
            return [judged(*pair) for pair in pairs]

        def loglikelihood_rolling(self, requests: Any) -> list[float]:
            raise NotImplementedError

        def generate_until(self, requests: Any) -> list[str]:
            raise NotImplementedError

    form = "continuation" if text is LAST_WORD else "multiple_choice"
    records = read_records(CORE / file)[:LIMIT]
    for number, record in enumerate(records, start=1):
        read_item(record, _format(form), CORE / file, number)  # the records are what the task takes them for
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    path = tmp_path / "task.yaml"
    path.write_text(text.format(name=name, file=tmp_path / "data.jsonl"), encoding="utf-8")
    found = lm_eval.simple_evaluate(Judge(), tasks=[yaml.safe_load(path.read_text("utf-8"))], bootstrap_iters=0)
    assert found is not None
    theirs = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])

    cases = yaml_task_cases(path)
    scores = [score_choice(case, answered(case)) for case in cases]
    assert len(cases) == len(theirs) == len(records)
    assert sorted(asked) == sorted((c, rest) for case in cases for c, rest in case.data["requests"])
    for case, score, sample in zip(cases, scores, theirs, strict=True):
        assert score.value == sample["acc"], case.id
        if form == "multiple_choice":
            assert score.numbers["acc_norm"] == sample["acc_norm"], case.id
    metrics = found["results"][name]
    assert math.fsum(score.value for score in scores) / len(scores) == pytest.approx(metrics["acc,none"])
    if form == "continuation":
        (table,) = choice_tables(
            [(case, answered(case), score) for case, score in zip(cases, scores, strict=True)]
        )
        assert float(table.rows[0][-1]) == pytest.approx(metrics["perplexity,none"], rel=1e-3)


def _format(kind: Any) -> Any:
    from evals.language.core_tasks import TaskFormat

    return TaskFormat("", kind, " ", 0)
