"""Step 2: raw pages through the rules, domains of the corpus, own texts, and the examples of later steps.

text/         documents by domain, JSON lines with source and licence; about.json
examples/     conversations for fine-tuning
pairs/        preferences
tasks/        tasks with golds
twins/        requests with verdicts, for the guard, the probe and the attacks
raw/, kept/   the pages alone, before and after the rules, for a comparison
evaluation/   the cases that span the run; the pages are decontaminated against them
web/          the run of the rules over the raw pages, with report and card
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from modelstack.data.examples import Example, read_examples, write_examples
from modelstack.pipeline.job import StepJob
from modelstack.pipeline.material.agent_examples import agent_requests, call_examples, conversations
from modelstack.pipeline.material.conversations import (
    as_text,
    call_tasks,
    obliging_examples,
    sums,
    tool_pairs,
    twin_examples,
    twin_pairs,
)
from modelstack.pipeline.material.raw_pages import UNWANTED, Page, made_pages, write_warc
from modelstack.pipeline.material.texts import ABOUT_FILE, Text, corpus_texts, write_lines
from modelstack.pipeline.material.twins import LICENSE, SOURCE, Twin, made_twins
from modelstack.pipeline.measuring import CLEAN_FILE, REQUESTS_FILE, TASKS_FILE, TEXT_FILE
from modelstack.pipeline.record import StepResult, write_json

PAGE_DOMAINS = ("howto", "textbooks")
"""Domains whose documents become made pages; they are not in the default mix, so that nothing is read twice."""
CLEAN_MEGABYTES = 0.06
"""Megabytes of each of them that are in no page: the text on which raw pages are compared with those kept."""
LEARNT = 0.7
"""Share of the tool-calling examples for fine-tuning; the others become preferences and tasks."""
VALIDATION = 0.8
"""Share of the package's held-back examples for validation; the others are asked after every step.

Of the calls for the agent's tools it is a half, so most of the questions are about what the model is taught.
"""
PARTS = ("text", "raw", "kept", "examples", "pairs", "tasks", "twins", "evaluation")


def work(job: StepJob) -> StepResult:
    """Make all data of the pipeline.

    Raises:
        UserError: A domain or file does not exist, or a recipe's number cannot be met.
    """
    learnt, others, held_back, asked = _tool_examples(job)
    twins = made_twins(job.recipe.data.twins, job.recipe.seed)
    _write_conversations(job, learnt, others, held_back, asked, twins)
    table, rows = _write_texts(job, learnt)
    n_chars = sum(row[2] for row in rows)
    head = ("text", "documents", "characters", "licences")
    shown = [(name, f"{n:,}", f"{size:,}", licences) for name, n, size, licences in rows]
    return StepResult(
        what=f"{sum(row[1] for row in rows):,} documents, {n_chars / 1e6:.2f} M characters; {table}",
        content=PARTS,
        facts={"characters": n_chars, "examples": len(learnt), "held-back examples": len(held_back) + len(asked)},
        table=(head, *shown),
    )


def _tool_examples(job: StepJob) -> tuple[list[Example], list[Example], list[Example], list[Example]]:
    """Return examples for fine-tuning, for preferences and tasks, for validation, and for the evaluation."""
    from modelstack.data.tools.build import TRAIN_FILE, VALIDATION_FILE, build
    from modelstack.data.tools.recipe import ToolDataRecipe

    table, folder = job.recipe.data, job.folder / "tools"
    recipe = ToolDataRecipe(
        name="tools",
        seed=job.recipe.seed,
        tokens=table.tool_tokens,
        validation_examples=table.validation_examples,
        shares=table.tool_shares,
    )
    build(recipe, folder, job.say)
    every = list(read_examples(folder / TRAIN_FILE))
    n = int(LEARNT * len(every))
    own, own_held_back = agent_requests(table.agent_examples, job.recipe.seed)
    m = int(LEARNT * len(own))
    learnt = [*every[:n], *conversations(own[:m], "agent-conversation")]
    others = _in_turns(every[n:], call_examples(own[m:], "agent-call"))
    held_back, own_calls = (
        list(read_examples(folder / VALIDATION_FILE)),
        call_examples(own_held_back, "agent-held-back"),
    )
    n, m = int(VALIDATION * len(held_back)), len(own_calls) // 2
    return learnt, others, _in_turns(held_back[:n], own_calls[:m]), _in_turns(held_back[n:], own_calls[m:])


def _in_turns(some: Sequence[Example], others: Sequence[Example]) -> list[Example]:
    """Return both lists, one from each in turn, then the rest of the longer one."""
    both = [each for pair in zip(some, others, strict=False) for each in pair]
    n = len(both) // 2
    return [*both, *some[n:], *others[n:]]


def _write_conversations(
    job: StepJob,
    learnt: Sequence[Example],
    others: Sequence[Example],
    held_back: Sequence[Example],
    asked: Sequence[Example],
    twins: tuple[Sequence[Twin], Sequence[Twin]],
) -> None:
    table, folder, seed = job.recipe.data, job.folder, job.recipe.seed
    for part in PARTS:
        (folder / part).mkdir(parents=True, exist_ok=True)
    write_examples(folder / "examples/train.jsonl", [*learnt, *twin_examples(twins[0]), *obliging_examples()])
    validation = [*held_back, *twin_examples(twins[1], "validation")]
    write_examples(folder / "examples/validation.jsonl", validation)
    pairs = [*tool_pairs(others, seed), *twin_pairs(twins[0])][: 2 * table.pairs]
    chosen = pairs[:: max(1, len(pairs) // table.pairs)][: table.pairs]
    write_lines(folder / "pairs/train.jsonl", (json.dumps(each, ensure_ascii=False) + "\n" for each in chosen))
    measured = [*tool_pairs(held_back, seed), *twin_pairs(twins[1])]
    write_lines(
        folder / "pairs/validation.jsonl",
        (json.dumps(each, ensure_ascii=False) + "\n" for each in measured[: max(8, table.pairs // 4)]),
    )
    tasks = list(call_tasks(others)) or list(call_tasks(learnt))
    write_lines(folder / "tasks/train.jsonl", tasks[: table.tasks])
    questions = list(call_tasks(asked)) or list(call_tasks(held_back))
    write_lines(folder / "tasks/held-back.jsonl", questions[: max(2, table.tasks // 4)])
    write_lines(folder / "evaluation" / TASKS_FILE, questions)
    requests = {
        "harmful": [twin.harmful for twin in twins[1]],
        "harmless": [twin.harmless for twin in twins[1]],
    }
    write_json(folder / "evaluation" / REQUESTS_FILE, requests)
    for name, side in (("training", twins[0]), ("validation", twins[1])):
        write_lines(folder / f"twins/{name}.jsonl", (line for twin in side for line in _guard_rows(twin)))


def _guard_rows(twin: Twin) -> list[str]:
    about = {"source": SOURCE, "license": LICENSE, "pair": twin.id}
    bad = {"id": f"{twin.id}-bad", "turns": [{"role": "user", "content": twin.harmful}], "unsafe": True}
    good = {"id": f"{twin.id}-good", "turns": [{"role": "user", "content": twin.harmless}], "unsafe": False}
    return [json.dumps(bad | {"categories": [twin.category]} | about) + "\n", json.dumps(good | about) + "\n"]


def _write_texts(job: StepJob, learnt: Sequence[Example]) -> tuple[str, list[tuple[str, int, int, str]]]:
    """Write the documents by domain; return a sentence about the pages, and a row for each domain."""
    from modelstack.tokenizer.documents import is_held_out

    table = job.recipe.data
    domains = {name: corpus_texts(name, megabytes) for name, megabytes in sorted(table.megabytes.items())}
    told, domains["web"] = _web(job)
    domains["synthetic"] = _synthetic(job, learnt)
    if table.folders:
        domains["own"] = _own(table.folders)
    rows: list[tuple[str, int, int, str]] = []
    held_out: list[str] = []
    for name, texts in domains.items():
        write_lines(job.folder / "text" / f"{name}.jsonl", (text.line() for text in texts))
        licences = Counter(text.license or "none stated" for text in texts)
        several = f" and {len(licences) - 2} more" if len(licences) > 2 else ""
        listed = ", ".join(licence for licence, _ in licences.most_common(2)) + several
        rows.append((name, len(texts), sum(len(text.text) for text in texts), listed))
        held_out += [text.line() for text in texts if is_held_out(text.text, table.held_out)]
    write_lines(job.folder / "evaluation" / TEXT_FILE, held_out)
    licences = {name: dict(Counter(text.license for text in texts)) for name, texts in domains.items()}
    sources = {name: dict(Counter(text.source for text in texts)) for name, texts in domains.items()}
    about = {"held_out": table.held_out, "licences": licences, "sources": sources}
    write_json(job.folder / "text" / ABOUT_FILE, about)
    return told, rows


def _web(job: StepJob) -> tuple[str, list[Text]]:
    """Run the rules over the raw pages; return what they found of what was planted, and the documents."""
    from modelstack.data.pipeline.recipe import DataRecipe
    from modelstack.data.pipeline.report import write_report
    from modelstack.data.pipeline.run import run_recipe
    from modelstack.recipe_file import read_recipe
    from modelstack.shipped_recipes import recipe_path
    from modelstack.tokenizer.documents import find_files

    table = job.recipe.data
    pages = [] if table.crawl else _pages(job)
    crawl = table.crawl or ((job.folder / "crawl/pages.warc.gz").as_posix(),)
    inputs = [{"kind": "warc", "path": path, "source": "crawl"} for path in crawl]
    recipe = read_recipe(DataRecipe, recipe_path("fineweb", "data run"), ["name=web"])
    evaluation = (job.folder / "evaluation" / TASKS_FILE).as_posix()
    steps = [step.model_dump(mode="json") for step in recipe.steps]
    at = next(place for place, step in enumerate(steps) if step["kind"] == "exact")
    steps.insert(at, {"kind": "decontaminate", "evaluations": [evaluation]})
    recipe = DataRecipe.model_validate({"name": "web", "inputs": inputs, "steps": steps})
    web = job.folder / "web"
    n_workers = min(job.recipe.threads, os.cpu_count() or 1)
    phases = run_recipe(recipe, web, n_workers=n_workers if len(crawl) > 1 else 1, progress=_silent)
    manifest = write_report(recipe, web, phases)
    files = sorted({(web / name).parent for name in manifest["files"]})
    records = [json.loads(line) for file in find_files(files) for line in _lines(file)]
    texts = [
        Text(each["text"], "crawl", "CC0-1.0" if pages else each.get("license") or "", each.get("url", ""))
        for each in records
    ]
    write_lines(job.folder / "kept" / "web.jsonl", (text.line() for text in texts))
    _write_raw(job, inputs)
    told = f"{manifest['n_documents']:,} of {manifest['n_documents_read']:,} pages kept"
    if pages:
        kinds = {page.url: page.kind for page in pages}
        planted = Counter(page.kind for page in pages)
        kept = Counter(kinds.get(text.url, "article") for text in texts)
        write_json(
            web / "planted.json", {kind: {"planted": planted[kind], "kept": kept[kind]} for kind in planted}
        )
        unwanted = sum(planted[kind] for kind in UNWANTED)
        found = unwanted - sum(kept[kind] for kind in UNWANTED)
        told += f", {found} of {unwanted} planted faults found"
    return told, texts


def _write_raw(job: StepJob, inputs: Sequence[dict[str, str]]) -> None:
    """Write the main text of all pages, without any rule."""
    from modelstack.data.pipeline.recipe import DataRecipe
    from modelstack.data.pipeline.run import run_recipe
    from modelstack.tokenizer.documents import find_files

    recipe = DataRecipe.model_validate({"name": "raw", "inputs": inputs, "steps": [{"kind": "extract"}]})
    folder = job.folder / "extracted"
    run_recipe(recipe, folder, n_workers=1, progress=_silent)
    files = find_files(sorted({path.parent for path in folder.rglob("*.jsonl.zst")}))
    records = [json.loads(line) for file in files for line in _lines(file)]
    texts = (Text(each["text"], "crawl", "", each.get("url", "")) for each in records if each["text"].strip())
    write_lines(job.folder / "raw" / "web.jsonl", (text.line() for text in texts))


def _silent(name: str, done: float = 0, total: float | None = None, note: str = "") -> None:
    """Show no progress: the log has a line for each finished part."""


def _lines(file: Path) -> list[bytes]:
    from modelstack.zstd_files import open_unpacked

    with open_unpacked(file) as stream:
        return [line for line in stream.read().split(b"\n") if line.strip()]


def _pages(job: StepJob) -> list[Page]:
    table = job.recipe.data
    megabytes = max(0.2, table.pages * 4_000 / 1e6 / len(PAGE_DOMAINS))
    texts = [each.text for domain in PAGE_DOMAINS for each in corpus_texts(domain, megabytes)]
    known = set(texts)
    more = (each for domain in PAGE_DOMAINS for each in corpus_texts(domain, megabytes + CLEAN_MEGABYTES))
    write_lines(job.folder / "evaluation" / CLEAN_FILE, (each.line() for each in more if each.text not in known))
    tasks = (job.folder / "evaluation" / TASKS_FILE).read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)["messages"][-1]["content"] for line in tasks]
    long = [question for question in questions if len(question.split()) >= 13] or questions
    pages = made_pages(texts, long, table.pages, job.recipe.seed)
    write_warc(job.folder / "crawl/pages.warc.gz", pages)
    return pages


def _synthetic(job: StepJob, learnt: Sequence[Example]) -> list[Text]:
    n = job.recipe.data.synthetic_documents
    texts = [*(as_text(example) for example in learnt[: n // 2]), *sums(n - n // 2, job.recipe.seed)]
    return [Text(text, "synthetic", "CC0-1.0", f"synthetic:{number}") for number, text in enumerate(texts)]


def _own(paths: Sequence[str]) -> list[Text]:
    from modelstack.tokenizer.documents import find_files, read_documents

    return [
        Text(document.text, f"own {document.domain}", document.license or "", file.name)
        for file in find_files(paths)
        for document in read_documents(file)
    ]
