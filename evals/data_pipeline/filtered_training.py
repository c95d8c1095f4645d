"""Compares the same training on a crawl unfiltered, after rules, and after a classifier, on several seeds.

    python -m evals.data_pipeline.filtered_training 'inputs=[{kind="warc", path="crawl/*.warc.gz"}]' --out DIR

The model and its training are those of the recipe `train/nano`, shortened to `--steps`, so each run sees the same
number of tokens; a smaller set is gone through more often. One tokenizer, learnt from the reference corpus, serves
all. Each seed has its own initial weights and order of the documents. All models are evaluated in bits per byte on
the same held-out text: documents of the corpus shipped with the package that no step has used. The interval of a
mean is Student's over the seeds; a difference is computed seed by seed. A finished run is a line of `runs.jsonl`;
the same command resumes after an interruption.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evals.data_pipeline.filtered_data import SETS, TrainingSet, make_sets, reference_texts, validation_documents
from evals.statistics import Interval, student_interval
from modelstack.files import json_lines, replacing
from modelstack.independent_runs import finished_runs
from modelstack.shipped_recipes import shipped_recipe

if TYPE_CHECKING:
    from modelstack.train.run.recipe import Resolved

NANO = shipped_recipe("train/nano").path
RULES = shipped_recipe("data/run/fineweb").path
RUNS_FILE, PLOT_FILE, TABLE_FILE = "runs.jsonl", "filtered_training.png", "filtered_training.md"
TOKENIZER_FOLDER = "tokenizer"
WARMUP_SHARE, DECAY_SHARE = 0.02, 0.4
"""Shares of a run's steps, as in the recipe `train/nano`."""

Record = Mapping[str, Any]


def planned(
    sets: Sequence[TrainingSet], tokenizer: Path, steps: int, n_seeds: int
) -> dict[tuple[str, int], Resolved]:
    """Return each run by set name and seed, ordered by seed, so that partial results are comparable."""
    from modelstack.recipe_file import read_recipe
    from modelstack.train.run.recipe import RunRecipe, ScheduleRecipe, TokenizerRecipe, resolve

    nano = read_recipe(RunRecipe, NANO)
    schedule = ScheduleRecipe(
        warmup_steps=max(1, round(WARMUP_SHARE * steps)), decay_steps=max(1, round(DECAY_SHARE * steps))
    )
    return {
        (each.name, seed): resolve(
            nano.model_copy(
                update={
                    "seed": seed,
                    "steps": steps,
                    "threads": 1,
                    "schedule": schedule,
                    "tokenizer": TokenizerRecipe(path=str(tokenizer)),
                    "data": nano.data.model_copy(update={"text": tuple(map(str, each.documents))}),
                }
            )
        )
        for seed in range(n_seeds)
        for each in sets
    }


def take_all(
    sets: Sequence[TrainingSet], corpus: Path, out: Path, steps: int, n_seeds: int, n_workers: int
) -> list[Record]:
    """Perform the runs that are missing in the folder; return the records of all runs."""
    from modelstack.run_folder import RunFolder
    from modelstack.train.run.prepare import prepare

    runs = planned(sets, _tokenizer(corpus, out / TOKENIZER_FOLDER), steps, n_seeds)
    file = out / RUNS_FILE
    done = {record["key"]: record for record in _read(file)}
    waiting = {place: run for place, run in runs.items() if run.fingerprint not in done}
    for name in dict.fromkeys(name for name, _ in waiting):
        prepare(next(run for (of, _), run in waiting.items() if of == name), RunFolder(out / "runs" / name))
    sizes = {each.name: each for each in sets}
    missing = list(waiting.items())
    work = [(run, out / "runs" / name, corpus) for (name, _), run in missing]
    for number, measured in finished_runs(_take, work, on="local", at_once=n_workers):
        (name, seed), run = missing[number]
        done[run.fingerprint] = {
            "key": run.fingerprint,
            "set": name,
            "seed": seed,
            "n_tokens": run.steps * run.rows * run.row_tokens,
            "set_documents": sizes[name].n_documents,
            "set_bytes": sizes[name].n_bytes,
            **measured,
        }
        with replacing(file) as temporary:
            temporary.write_text("".join(json.dumps(each) + "\n" for each in done.values()), encoding="utf-8")
        typer.echo(
            f"{name}, seed {seed}: {measured['bits_per_byte']:.4f} bits a byte, {measured['seconds']:.0f} s"
        )
    return [done[run.fingerprint] for run in runs.values()]


def _take(work: tuple[Resolved, Path, Path]) -> dict[str, Any]:
    """Train and measure one run; called in its own process."""
    from modelstack.data.shards import Shards
    from modelstack.run_folder import RunFolder
    from modelstack.train.run.prepare import open_prepared
    from modelstack.train.run.short_run import train_and_score

    run, folder, corpus = work
    documents = validation_documents(corpus)
    measured = train_and_score(run, RunFolder(folder), [document.text for document in documents])
    score = measured.score
    shards: Shards = open_prepared(run, RunFolder(folder)).shards
    domains = sorted({document.domain for document in documents})
    rows = {domain: [i for i, document in enumerate(documents) if document.domain == domain] for domain in domains}
    return {
        "bits_per_byte": score.bits_per_byte,
        "domains": {
            domain: float(score.nats[i].sum() / math.log(2) / score.n_bytes[i].sum()) for domain, i in rows.items()
        },
        "validation_documents": len(documents),
        "validation_bytes": int(score.n_bytes.sum()),
        "set_tokens": shards.n_tokens,
        "seconds": measured.seconds,
    }


def _tokenizer(corpus: Path, folder: Path) -> Path:
    from modelstack.files import replacing_folder
    from modelstack.recipe_file import read_recipe
    from modelstack.tokenizer.tokenizer_folder import save_tokenizer
    from modelstack.tokenizer.training import TokenizerConfig, train_tokenizer
    from modelstack.train.run.recipe import RunRecipe

    if not folder.exists():
        config = read_recipe(RunRecipe, NANO).tokenizer.learn or TokenizerConfig()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(folder) as temporary:
            save_tokenizer(train_tokenizer(reference_texts(corpus), config), temporary)
    return folder


def table(records: Sequence[Record]) -> str:
    """Return the experiment as Markdown: each set, its difference from the first, and both by domain."""
    by_set = {name: [record for record in records if record["set"] == name] for name in SETS}
    first = by_set[SETS[0]]
    some = first[0]
    lines = [
        f"{some['n_tokens']:,} tokens of training a run, {len(first)} seeds; {some['validation_documents']:,} "
        f"documents with {some['validation_bytes']:,} bytes of validation text; 95 % intervals are Student's over "
        f"the seeds.",
        "",
        "| data | documents | tokens | times gone through | bits per byte | against raw, seed by seed |",
        "|---|---|---|---|---|---|",
    ]
    for name, group in by_set.items():
        one = group[0]
        change = "" if name == SETS[0] else _signed(_difference(first, group, _overall))
        lines.append(
            f"| {name} | {one['set_documents']:,} | {one['set_tokens']:,} "
            f"| {one['n_tokens'] / one['set_tokens']:.2f} "
            f"| {student_interval([_overall(record) for record in group])} | {change} |"
        )
    lines += ["", f"| domain | {' | '.join(by_set)} | {' | '.join(f'{name} - raw' for name in SETS[1:])} |"]
    lines.append("|---" * (1 + len(SETS) + len(SETS) - 1) + "|")
    for domain in some["domains"]:
        means = [statistics.fmean(record["domains"][domain] for record in group) for group in by_set.values()]
        changes = [
            _signed(_difference(first, by_set[name], lambda record, at=domain: record["domains"][at]))
            for name in SETS[1:]
        ]
        lines.append(f"| {domain} | {' | '.join(f'{mean:.3f}' for mean in means)} | {' | '.join(changes)} |")
    return "\n".join(lines) + "\n"


def _overall(record: Record) -> float:
    return record["bits_per_byte"]


def _difference(first: Sequence[Record], second: Sequence[Record], value: Any) -> Interval:
    pairs = {record["seed"]: record for record in second}
    return student_interval([value(pairs[record["seed"]]) - value(record) for record in first])


def _signed(interval: Interval) -> str:
    return f"{interval.value:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


def draw(records: Sequence[Record], path: Path) -> None:
    """Draw each run's bits per byte by set, and each set's change from raw by domain."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    by_set = {name: [record for record in records if record["set"] == name] for name in SETS}
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for i, group in enumerate(by_set.values()):
        left.scatter([i] * len(group), [_overall(record) for record in group], s=28)
        mean = student_interval([_overall(record) for record in group])
        reach = [[mean.value - mean.low], [mean.high - mean.value]]
        left.errorbar([i], [mean.value], yerr=reach, color="black", capsize=5, fmt="_")
    left.set_xticks(range(len(SETS)), SETS)
    left.set_ylabel("bits per byte of validation text")
    left.set_title("Each seed, with the mean's 95 % interval")
    domains = list(by_set[SETS[0]][0]["domains"])
    for i, name in enumerate(SETS[1:]):
        changes = [
            _difference(by_set[SETS[0]], by_set[name], lambda record, at=domain: record["domains"][at])
            for domain in domains
        ]
        right.errorbar(
            [change.value for change in changes],
            [j + (i - 0.5) * 0.2 for j in range(len(domains))],
            xerr=[[c.value - c.low for c in changes], [c.high - c.value for c in changes]],
            fmt="o", capsize=3, label=f"{name} - raw",
        )  # fmt: skip
    right.axvline(0, color="grey", linewidth=1)
    right.set_yticks(range(len(domains)), domains)
    right.set_title("Change of bits per byte by domain")
    right.legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    pyplot.close(figure)


def _read(file: Path) -> list[Record]:
    return [json.loads(line) for line in json_lines(file)] if file.exists() else []


def main(
    overrides: Annotated[
        list[str], typer.Argument(help='Overrides of the recipe: inputs=[{kind="warc", path="..."}]')
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for data, runs, table and plot.")],
    recipe: Annotated[Path, typer.Option(help="Data recipe; its steps are the rules.")] = RULES,
    keep: Annotated[
        float, typer.Option(help="Share of the documents left by the rules that the classifier keeps.")
    ] = 0.5,
    steps: Annotated[int, typer.Option(help="Steps per run, 4,096 tokens each.")] = 360,
    seeds: Annotated[int, typer.Option(help="Number of seeds per set.")] = 3,
    workers: Annotated[int, typer.Option(help="Number of processes, each with one thread.")] = 2,
) -> None:
    """Train on a crawl unfiltered, filtered by rules, and filtered by a classifier; print the comparison."""
    from modelstack.data.pipeline.recipe import DataRecipe
    from modelstack.data.shipped_corpus import SHIPPED_CORPUS
    from modelstack.recipe_file import read_recipe

    sets = make_sets(read_recipe(DataRecipe, recipe, overrides), SHIPPED_CORPUS, keep, out / "data", workers)
    for each in sets:
        typer.echo(f"{each.name}: {each.n_documents:,} documents, {each.n_bytes:,} bytes")
    records = take_all(sets, SHIPPED_CORPUS, out, steps, seeds, workers)
    text = table(records)
    with replacing(out / TABLE_FILE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    draw(records, out / PLOT_FILE)
    typer.echo(text)
    typer.echo(str(out / PLOT_FILE))


if __name__ == "__main__":
    typer.run(main)
