"""Model card of a release for the Hugging Face Hub: front matter and Markdown, from `release.json` alone.

Card and evaluation therefore agree by construction. `front_matter_of` reads the card
of a foreign folder, which is untrusted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from modelstack.align.release.figures import Figure, Part, of_part
from modelstack.align.release.listing import SIGNATURE, SUMS
from modelstack.align.release.parts import Release
from modelstack.align.release.provenance import DataOfStage
from modelstack.errors import UserError
from modelstack.posttrain.stages.card import markdown_table

MAX_CARD_BYTES, MAX_FRONT_MATTER = 4 << 20, 1 << 20
LIBRARY, TASK = "peft", "text-generation"
TITLES: dict[Part, str] = {
    "evaluation": "Evaluation",
    "refusals": "Refusals",
    "red team": "Red team",
    "tamper": "Tampering",
    "contamination": "Contamination",
    "memorisation": "Memorisation",
    "bias": "Bias",
}
ABOUT: dict[Part, str] = {
    "refusals": "Judged by a classifier of replies: refusals, in full or in part. Strengths are of the direction "
    "of refusal, added to the hidden states.",
    "red team": "Harmful requests and their harmless twins under transforms; compliance is judged by words.",
    "tamper": "Refusals after changes that anybody can make who has the weights. They are published, not hidden.",
    "contamination": "Training rows that repeat a text of an evaluation.",
    "memorisation": "Training rows that the model continues word for word.",
}
_ONCE = ("seed", "command")
"""Columns that are a sentence if all rows of a table are alike."""
_IN_INDEX: tuple[Part, ...] = ("evaluation", "refusals", "red team", "tamper", "memorisation", "bias")


def front_matter(release: Release) -> dict[str, Any]:
    """Return the metadata of the card, as the Hub reads them."""
    about = release.about
    return {
        "license": about.licence.lower(),
        "language": list(about.languages),
        "library_name": LIBRARY if release.is_adapter else "transformers",
        "pipeline_tag": TASK,
        "base_model": about.base.id,
        "base_model_relation": about.base.relation,
        "tags": [*about.tags, "modelstack", "signed"],
        "model-index": [{"name": about.name, "results": [*_index(release)]}],
    }


def eval_results(release: Release) -> list[dict[str, Any]]:
    """Return the entries of `.eval_results`: figures of benchmarks that are on the Hub."""
    entries: list[dict[str, Any]] = []
    for figure in release.figures:
        if figure.dataset is not None:
            dataset = figure.dataset.model_dump(exclude_none=True)
            notes = f"{figure.measured}; {figure.command}"
            source = {"url": release.about.links.download, "name": "Model card"}
            date = {"date": figure.date} if figure.date else {}
            entries.append({"dataset": dataset, "value": figure.value, **date, "source": source, "notes": notes})
    return entries


def card(release: Release) -> str:
    """Return the card."""
    about = release.about
    parts = [
        f"---\n{as_yaml(front_matter(release))}---\n",
        f"# {about.name} {about.version}\n",
        f"{about.summary}\n",
        markdown_table(("", ""), _facts(release)),
        "## Uses\n",
        _list(about.uses),
        f"For: {', '.join(about.users)}. Autonomy: {about.autonomy}\n",
        *_use(release),
        "## Limits and risks\n",
        _list(about.limits),
        markdown_table(("risk", "mitigation"), [(each.name, each.mitigation) for each in about.risks]),
        f"{about.fairness}\n\n{about.explanation}\n",
        *_figures(release),
        *_data(release.data),
        *_compute(release),
        *_verification(release),
        "## Licence and contact\n",
        f"{about.licence}: see LICENSE, and NOTICE for credits. {about.supplier}, {about.contact}\n",
    ]
    return "\n".join(parts)


def as_yaml(content: Any) -> str:
    """Return YAML, keys in the given order."""
    import yaml

    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1_000)


def front_matter_of(text: str) -> dict[str, Any]:
    """Return the metadata of a card.

    Raises:
        UserError: The card has none, or they are too large or no YAML without aliases.
    """
    if len(text) > MAX_CARD_BYTES or not text.startswith("---\n") or "\n---\n" not in text[3:]:
        raise UserError("README.md has no front matter between two lines `---`: it is no card of a model")
    content = parse_yaml(text[4:].partition("\n---\n")[0], "the front matter of README.md")
    if not isinstance(content, dict):
        raise UserError(f"the front matter of README.md is a {type(content).__name__}; it must be a mapping")
    return content


def parse_yaml(text: str, where: str) -> Any:
    """Return the content of untrusted YAML.

    Raises:
        UserError: It is too large, invalid, or has aliases, with which a small text becomes a large object.
    """
    import yaml

    if len(text) > MAX_FRONT_MATTER:
        raise UserError(f"{where} has {len(text):,} characters; at most {MAX_FRONT_MATTER:,} are read")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise UserError(f"{where} has an alias (*name); write the value out")
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where} is not YAML: {' '.join(str(error).split())[:200]}") from error


def metric_names(figure: Figure) -> tuple[str, str]:
    """Return the names of dataset and metric under which the index has a figure."""
    return TITLES[figure.part], figure.name


def _index(release: Release) -> Iterator[dict[str, Any]]:
    """Yield the results of the model index, one for each part with figures."""
    for part in _IN_INDEX:
        figures = of_part(release.figures, part)
        if figures:
            yield {
                "task": {"type": TASK, "name": "Text generation"},
                "dataset": {"type": part.replace(" ", "-"), "name": TITLES[part]},
                "metrics": [
                    {
                        "type": part.replace(" ", "_"),
                        "name": each.name,
                        "value": each.value,
                        "args": {"low": each.low, "high": each.high, "n": each.n, "seed": each.seed},
                    }
                    for each in figures
                ],
                "source": {"name": "modelstack release", "url": release.about.links.source},
            }


def _facts(release: Release) -> Iterator[tuple[str, str]]:
    about, model = release.about, release.model
    yield "base", f"{about.base.id} ({about.base.licence}), SHA-256 `{release.stage.base_sha256}`"
    yield "stage", f"{release.stage.name}, fingerprint `{release.stage.fingerprint}`"
    yield "training", release.stage.what
    yield "model", f"{model.family}, {model.n_parameters:,} parameters, context of {model.context:,} tokens"
    yield "languages", ", ".join(about.languages)
    yield "date", release.date


def _use(release: Release) -> Iterator[str]:
    """Yield how the weights are loaded."""
    yield "## Use\n"
    model = "local:BASE.gguf?lora=adapter.gguf" if release.is_adapter else "local:model.gguf"
    lines = [f'agentkit chat --model "{model}"']
    if release.is_adapter:
        base = release.about.base.id
        lines.append(f'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), ".")')
    yield "".join(f"    {line}\n" for line in lines)


def _figures(release: Release) -> Iterator[str]:
    for part, title in TITLES.items():
        figures, notes = of_part(release.figures, part), release.notes.get(part, ())
        if figures or notes:
            yield f"## {title}\n"
            yield f"{ABOUT[part]}\n" if part in ABOUT else "Intervals are of 95 %.\n"
            yield from (f"{note}\n" for note in notes)
            yield from _table([*map(_row, figures)])


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield a table of figures; seed and command are stated once, above it, if all rows share them."""
    head = ("", "value (95 % interval, n)", "better", "the stage before", "seed", "command", "note")
    used = [place for place in range(len(head)) if any(row[place] for row in rows)]
    once = [
        each for each in used if head[each] in _ONCE and len(rows) > 1 and len({row[each] for row in rows}) == 1
    ]
    if once:
        yield f"{' '.join(f'{head[each].capitalize()}: {rows[0][each]}.' for each in once)}\n"
    shown = [place for place in used if place not in once]
    yield markdown_table([head[place] for place in shown], [[row[place] for place in shown] for row in rows])


def _row(figure: Figure) -> tuple[str, ...]:
    before = "" if figure.before is None else str(figure.before)
    better = "" if figure.better == "neither" else figure.better
    command = f"`{figure.command}`"
    return figure.name, str(figure.measured), better, before, str(figure.seed), command, figure.note


def _data(data: Sequence[DataOfStage]) -> Iterator[str]:
    yield "## Data\n"
    yield (
        "Every training row has a source and a licence. Rows under licences that exclude trade, forbid derived "
        "works, or are unknown are refused: this table is the proof, counted from the sealed record of each "
        "stage. A stage with `statement` has no record; its line is the word of the supplier.\n"
    )
    head = ("stage", "fingerprint", "proof", "rows", "sources", "licences")
    yield markdown_table(head, map(_data_row, data))
    yield from (f"- {each.stage}: {each.statement}" for each in data if each.statement)
    yield ""


def _data_row(data: DataOfStage) -> tuple[str, ...]:
    def counted(counts: dict[str, int]) -> str:
        return ", ".join(f"{name} {n:,}" if n else name for name, n in counts.items())

    rows = f"{data.n_rows:,}" if data.n_rows else ""
    return data.stage, f"`{data.sha256[:12]}`", data.proof, rows, counted(data.sources), counted(data.licences)


def _compute(release: Release) -> Iterator[str]:
    compute, about = release.compute, release.about
    yield "## Energy and compute\n"
    yield (
        f"An estimate: {compute.tokens:,} tokens in {compute.seconds / 3600:.2f} hours, {compute.flops:.3g} FLOPs "
        f"(parameters x tokens x 4 for adapters, x 6 for all weights), {compute.watt_hours:,.1f} Wh "
        f"({about.energy.watts:g} W x hours; {about.energy.note}). Rest of the machine, cooling and evaluations "
        f"are not in it.\n\nPreprocessing: {about.preprocessing} Personal data: {about.personal_data}\n"
    )


def _verification(release: Release) -> Iterator[str]:
    yield "## Verification\n"
    key = f"--public_key {release.about.name}.pub"
    lines = [
        f"sha256sum -c {SUMS}",
        f"model_signing verify key . --signature {SIGNATURE} {key}",
        f"modelstack release --check . --key {release.about.name}.pub",
    ]
    yield "".join(f"    {line}\n" for line in lines)
    parity = release.parity
    if parity is not None:
        yield (
            f"GGUF and safetensors hold the same {parity.n_tensors} tensors; the largest relative difference is "
            f"{parity.max_difference:.3g}.\n"
        )


def _list(sentences: Sequence[str]) -> str:
    return "".join(f"- {each}\n" for each in sentences)
