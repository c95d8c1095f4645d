"""Tasks in lm-evaluation-harness's format: what they say as data is done, everything else is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentkit.errors import UserError
from evals.case import Case
from evals.harness.evaluation import evaluate
from evals.harness.specification import Specification
from evals.language import choices
from evals.language.yaml_tasks import yaml_task_cases

pytest.importorskip("yaml", reason="needs PyYAML (extra `evals`)")

RECORDS = [
    {
        "question": f"What is {i}?",
        "options": [f"a{i}", f"bb{i}", "3"],
        "answer": i % 3,
        "label": "3",
        "text": f"x y z{i}",
    }
    for i in range(5)
]
CHOICE = """
task: mine
dataset_path: data.jsonl
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{options}}"
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
"""


def task(folder: Path, text: str, records: list[dict[str, Any]] = RECORDS, name: str = "data.jsonl") -> Path:
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    path = folder / "task.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def cases(folder: Path, text: str, **data: Any) -> list[Case]:
    return yaml_task_cases(task(folder, text, **data))


def test_a_choice_task_becomes_requests_with_the_delimiter_before_each_choice(tmp_path: Path) -> None:
    found = cases(tmp_path, CHOICE)
    assert [case.id for case in found] == [f"mine/{i}" for i in range(5)]
    assert found[1].data["requests"] == [
        ["Question: What is 1?\nAnswer:", f" {text}"] for text in ("a1", "bb1", "3")
    ]
    assert (found[1].target, found[1].data["lengths"], found[1].data["chance"]) == (
        1,
        [2, 3, 1],
        pytest.approx(1 / 3),
    )


def test_a_target_is_an_index_or_a_choice(tmp_path: Path) -> None:
    for target in ("answer", '"{{answer}}"', '"{{options[answer]}}"', '"{{options.index(options[answer])}}"'):
        text = CHOICE.replace("doc_to_target: answer", f"doc_to_target: {target}")
        # The third choice is the text "3"; a template that renders it would be read as an index.
        assert [case.target for case in cases(tmp_path, text, records=RECORDS[:2])] == [0, 1]
    field = cases(tmp_path, CHOICE.replace("doc_to_target: answer", "doc_to_target: label"))
    assert {case.target for case in field} == {2}


def test_fixed_choices_and_delimiters_are_taken(tmp_path: Path) -> None:
    text = (
        CHOICE.replace('"{{options}}"', '["no", "yes", "maybe"]')
        + 'target_delimiter: ""\ndescription: "Say.\\n"\n'
    )
    assert cases(tmp_path, text)[0].data["requests"][1] == ["Say.\nQuestion: What is 0?\nAnswer:", "yes"]


def test_examples_are_other_records_with_their_targets(tmp_path: Path) -> None:
    text = CHOICE + 'num_fewshot: 2\nfewshot_delimiter: "\\n--\\n"\n'
    for i, case in enumerate(cases(tmp_path, text)):
        context = case.data["requests"][0][0]
        assert context.count("Question:") == 3
        assert context.count("\n--\n") == 2
        assert context.count(f"What is {i}?") == 1
        shown = context.split("\n--\n")[0]
        j = int(shown.split("What is ")[1][0])
        assert shown.endswith(f"Answer: {RECORDS[j]['options'][j % 3]}")


def test_examples_come_from_their_own_split(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps(RECORDS[0] | {"question": f"Shown {i}?"}) + "\n" for i in range(2)), encoding="utf-8"
    )
    text = CHOICE.replace(
        "dataset_path: data.jsonl",
        "dataset_path: json\ndataset_kwargs:\n  data_files: {test: data.jsonl, train: train.jsonl}\n"
        "test_split: test\ntraining_split: train\nnum_fewshot: 1",
    )
    found = cases(tmp_path, text)
    assert len(found) == 5
    assert all("Shown" in case.data["requests"][0][0] for case in found)


def test_a_continuation_is_taken_as_the_template_gives_it(tmp_path: Path) -> None:
    text = (
        "task: last\ndataset_path: data.jsonl\noutput_type: loglikelihood\n"
        "doc_to_text: \"{{text.split(' ')[:-1]|join(' ')}}\"\ndoc_to_target: \"{{' '+text.split(' ')[-1]}}\"\n"
        "metric_list: [{metric: perplexity, aggregation: perplexity}, {metric: acc}]\n"
    )
    case = cases(tmp_path, text)[2]
    assert case.data["requests"] == [["x y", " z2"]]
    assert (case.data["kind"], case.target, case.data["chance"]) == ("continuation", " z2", 0.0)


GENERATE = (
    "task: written\ndataset_path: data.jsonl\noutput_type: generate_until\ndoc_to_text: question\n"
    'doc_to_target: "{{options}}"\ngeneration_kwargs: {until: ["\\n", "."], max_gen_toks: 5, do_sample: false}\n'
    "metric_list: [{metric: exact_match, ignore_case: true, ignore_punctuation: false}]\n"
)


def test_a_generating_task_keeps_its_stops_and_rules(tmp_path: Path) -> None:
    case = cases(tmp_path, GENERATE)[0]
    assert case.target == ["a0", "bb0", "3"]
    assert case.data == {
        "kind": "generate", "exact_match": {"ignore_case": True, "ignore_punctuation": False}, "chance": 0.0,
        "until": ["\n", "."], "max_tokens": 5,
    }  # fmt: skip


def test_a_task_file_runs_on_a_local_model(tmp_path: Path, tiny_gguf: Path) -> None:
    (tmp_path / "more").mkdir()
    paths = f"{task(tmp_path, CHOICE)},{task(tmp_path / 'more', GENERATE)}"
    specification = Specification("choices", f"local:{tiny_gguf}", {"task_files": paths}, limit=4)
    done = evaluate(specification, tmp_path / "run")
    assert [s.run.status for s in done.scored] == ["completed"] * 4, [s.run.error for s in done.scored]
    assert [row[0] for row in done.tables[0].rows] == ["mine", "written", "mean of tasks"]
    written = next(s for s in done.scored if s.case.group == "written")
    assert written.run.usage.output_tokens <= 5
    assert "\n" not in written.run.output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("doc_to_text: !function utils.text", "'doc_to_text' names a Python function"),
        ("process_docs: !function utils.docs", "'process_docs' names a Python function"),
        ("metric_list: [{metric: !function utils.metric}]", "'metric_list' names a Python function"),
        ("doc_to_text: !!python/object/apply:os.system ['touch hacked']", "cannot be read as YAML"),
        ("doc_to_text: \"{{ ''.__class__.__mro__ }}\"", "'doc_to_text' fails: SecurityError"),
        ("doc_to_text: \"{{ options.append('x') }}\"", "'doc_to_text' fails: SecurityError"),
        ("doc_to_text: \"{{ cycler.__init__.__globals__.os.system('touch hacked') }}\"", "'doc_to_text' fails"),
        ("doc_to_text: \"{% include '/etc/passwd' %}\"", "'doc_to_text' fails"),
        ('doc_to_text: "{% for i in range(10000000) %}x{% endfor %}"', "'doc_to_text' fails: OverflowError"),
        ('doc_to_text: "{{ missing }}"', "'doc_to_text' fails: UndefinedError"),
        ('doc_to_text: "{{ question"', "'doc_to_text' fails: TemplateSyntaxError"),
        ("include: other.yaml", "'include' and 'group' are not supported"),
        ("filter_list: [{name: x}]", "'filter_list' is not supported"),
        ("doc_to_txt: question", "'doc_to_txt' is not supported; nearest: 'doc_to_text'"),
        ("dataset_name: main", "'dataset_name' must be left out"),
        ("repeats: 3", "'repeats' must be left out"),
        ("output_type: loglikelihood_rolling", "'output_type' must be one of"),
        ("dataset_path: allenai/ai2_arc", "is not a local .jsonl or .json file; nothing is fetched"),
        ("dataset_kwargs: {trust_remote_code: true}", "'dataset_path' must name a local file"),
        ("num_fewshot: 5", "'num_fewshot' must be a number from 0 to 4"),
        ("num_fewshot: true", "'num_fewshot' must be a number"),
        ("metric_list: [{metric: f1}]", "has 'f1'; for multiple_choice there are acc, acc_norm"),
        ("metric_list: [{metric: acc, aggregation: median}]", "aggregated by 'median'"),
        ("doc_to_choice: [only]", "at least two choices"),
        ("doc_to_target: \"{{'none'}}\"", "must give a choice or its index, not 'none'"),
        ("doc_to_target: 7", "must give a choice or its index, not 7"),
        ("doc_to_target: null", "'doc_to_target' is missing"),
    ],
)
def test_what_is_not_supported_is_named_and_nothing_is_run(
    change: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    key = change.partition(":")[0]
    kept, skipping = [], False
    for line in CHOICE.splitlines():
        skipping = line.startswith(f"{key}:") or (skipping and line.startswith(" "))
        kept += [] if skipping else [line]
    with pytest.raises(UserError, match=r"task.yaml") as caught:
        cases(tmp_path, "\n".join([*kept, change, ""]))
    assert message in str(caught.value)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "\x00", "? {a: b}\n: c\n", "task: &a [*a]\n"])
def test_a_file_that_is_no_task_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task.yaml"):
        cases(tmp_path, text)


def test_a_missing_task_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no task file at .*none\.yaml"):
        choices.load({"task_files": str(tmp_path / "none.yaml")})


def test_sampling_is_refused(tmp_path: Path) -> None:
    for setting in ("do_sample: true", "temperature: 0.7", "top_k: 3", "max_gen_toks: 0", "until: [3]"):
        with pytest.raises(UserError, match="'generation_kwargs'"):
            cases(tmp_path, GENERATE.replace("do_sample: false", "x: y").replace("x: y", setting))
