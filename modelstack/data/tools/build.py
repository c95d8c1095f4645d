"""Builds a training set, a validation set and a manifest from a recipe.

The output depends only on the recipe, including its seed, and the content of the files: the same recipe gives the
same bytes. Examples of a sort are generated until its share of the tokens is reached. An example that repeats an
evaluation or an earlier request, or violates its schema, is dropped and counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelstack.data.examples import Example, check_example, write_examples
from modelstack.data.tools.api_making import API_SORTS, ApiStock, made_from_apis
from modelstack.data.tools.apis import Api, speakable
from modelstack.data.tools.decontamination import Cleaner, read_evaluations
from modelstack.data.tools.everyday_tools import everyday_tools
from modelstack.data.tools.making import SOURCE, Made, Stock, made
from modelstack.data.tools.recipe import ToolDataRecipe
from modelstack.data.tools.sources import chosen, fitted, read_schemas, read_sources, schemas_of
from modelstack.data.tools.spoken import scene
from modelstack.errors import UserError
from modelstack.files import replacing, sha256_of
from modelstack.toolcalls.convention import render_calls
from modelstack.toolcalls.signatures import render_tools

TRAIN_FILE, VALIDATION_FILE, MANIFEST_FILE = "train.jsonl.zst", "validation.jsonl.zst", "manifest.json"
FRAME_TOKENS = 99
"""Tokens common to all examples: call syntax and turn markers."""
_HELD_OUT_EVERY = 20
"""Interval: every n-th real tool is reserved for the validation set."""
_GIVE_UP = 60
"""Consecutive failed attempts after which a sort is exhausted."""
Report = Callable[[str], None]


@dataclass(slots=True)
class _Basket:
    """Collected examples with counts of dropped ones."""

    recipe: ToolDataRecipe
    cleaner: Cleaner
    made: list[Made] = field(default_factory=list[Made])
    said: set[str] = field(default_factory=set[str])
    counts: Counter[str] = field(default_factory=Counter[str])

    def take(self, found: Made, *, is_ours: bool) -> bool:
        """Add an example unless it repeats another or an evaluation, or violates its schema; return success."""
        try:
            check_example(found.example)
        except UserError:
            if found.example.source == SOURCE:
                raise
            self.counts["call does not fit its schema"] += 1
            return False
        key = _request_key(found.example)
        if key in self.said:
            self.counts["said before"] += 1
            return False
        if not self.cleaner.is_clean(found.example, names_are_kept=not is_ours):
            return False
        self.said.add(key)
        self.made.append(found)
        return True


def build(recipe: ToolDataRecipe, out: Path, report: Report = lambda text: None) -> dict[str, Any]:
    """Write the sets and the manifest of a recipe, and return the manifest.

    Raises:
        UserError: A file cannot be read, or an example from hand-written tools violates its schema.
    """
    evaluations = read_evaluations(_paths(recipe.evaluations))
    report(f"evaluations: {len(evaluations.files)} files, with the names of {len(evaluations.names)} functions")
    examples = read_sources(_paths(recipe.files))
    apis = _apis(recipe, examples)
    ours = len(everyday_tools())
    report(f"sources: {len(examples)} examples in files, {len(apis)} usable real tools, {ours} of this package")
    held_out = [api for i, api in enumerate(apis) if i % _HELD_OUT_EVERY == 0]
    seen = [api for i, api in enumerate(apis) if i % _HELD_OUT_EVERY]
    report("training set:")
    train = _Basket(recipe, Cleaner(evaluations))
    _fill(train, recipe, seen, recipe.seed, recipe.tokens, report)
    passed = _fill_from_files(train, recipe, examples, report)
    report("validation set:")
    validation = _Basket(recipe, Cleaner(evaluations), said=set(train.said))
    per_example = max(1, recipe.tokens // max(1, len(train.made)))
    _fill(validation, recipe, held_out, recipe.seed + 1_000_003, per_example * recipe.validation_examples, report)
    _add_validation_files(validation, recipe)
    out.mkdir(parents=True, exist_ok=True)
    for basket, file, split in ((train, TRAIN_FILE, "train"), (validation, VALIDATION_FILE, "validation")):
        write_examples(out / file, _ordered(basket.made, recipe.seed, split))
    manifest = _manifest(recipe, train, validation, passed, out)
    with replacing(out / MANIFEST_FILE) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return manifest


def tokens_of(example: Example, characters_per_token: float) -> int:
    """Return an estimate of the tokens of an example, prompt and target."""
    n_characters = len(render_tools(example.specs)) + sum(len(m.content) for m in example.messages)
    n_characters += sum(
        len(render_calls([(c.name, c.arguments) for c in m.calls])) for m in example.messages if m.calls
    )
    target = example.reply or render_calls([(c.name, c.arguments) for c in example.calls], example.specs)
    return FRAME_TOKENS + round((n_characters + len(target)) / characters_per_token)


def _fill(
    basket: _Basket, recipe: ToolDataRecipe, apis: list[Api], seed: int, n_tokens: int, report: Report
) -> None:
    strangers = scene("strangers", seed).some([api.tool for api in apis], 2000)
    stock = Stock(everyday_tools(), tuple(strangers))
    api_stock = ApiStock(apis, recipe.api_shares) if apis else None
    for sort, share in recipe.shares.items():
        is_api = sort in API_SORTS
        if is_api and api_stock is None:
            continue
        wanted, number, idle = n_tokens * share, 0, 0
        n_before = len(basket.made)
        while wanted > 0 and idle < _GIVE_UP:
            number += 1
            found = (
                made_from_apis(api_stock, sort, seed, number)
                if is_api and api_stock
                else made(stock, sort, seed, number)
            )
            if found is None or not basket.take(found, is_ours=True):
                idle += 1
                continue
            idle = 0
            wanted -= tokens_of(found.example, recipe.characters_per_token)
        report(f"  {sort}: {len(basket.made) - n_before} of {number} attempts kept")


def _fill_from_files(
    basket: _Basket, recipe: ToolDataRecipe, examples: list[Example], report: Report
) -> Counter[str]:
    plenty = dict.fromkeys(recipe.sources, 10**6)
    picked, passed = chosen(examples, plenty, recipe.seed)
    left = {source: recipe.tokens * share for source, share in recipe.sources.items()}
    for example in picked:
        if left[example.source] <= 0:
            passed[f"{example.source}: enough"] += 1
            continue
        short = fitted(example, recipe.max_tools, recipe.seed)
        if basket.take(Made(short, f"file_{short.kind}"), is_ours=False):
            left[example.source] -= tokens_of(short, recipe.characters_per_token)
    for source, tokens in left.items():
        report(f"  {source}: {sum(m.example.source == source for m in basket.made)} examples" + (
            f", {tokens:,.0f} tokens short of its share" if tokens > 0 else ""))  # fmt: skip
    return passed


def _add_validation_files(basket: _Basket, recipe: ToolDataRecipe) -> None:
    counts = dict.fromkeys(recipe.sources, recipe.validation_examples)
    picked, _ = chosen(read_sources(_paths(recipe.validation_files)), counts, recipe.seed)
    now = scene("validation files", recipe.seed)
    for example in now.some(picked, recipe.validation_examples):
        short = fitted(example, recipe.max_tools, recipe.seed)
        basket.take(Made(short, f"file_{short.kind}"), is_ours=False)


def _apis(recipe: ToolDataRecipe, examples: list[Example]) -> list[Api]:
    records = [r for source in recipe.schemas_from for r in schemas_of(examples, source)]
    for path in _paths(recipe.schemas):
        records += read_schemas(path)
    return list(speakable(records))


def _ordered(basket: Iterable[Made], seed: int, split: str) -> Iterator[Example]:
    """Yield the examples in a seeded order, with ids unique across both sets."""
    examples = [found.example for found in basket]
    scene("order", split, seed).random.shuffle(examples)
    for example in examples:
        yield example.model_copy(update={"split": split, "id": f"{split}-{example.id}"})


def _manifest(
    recipe: ToolDataRecipe, train: _Basket, validation: _Basket, passed: Counter[str], out: Path
) -> dict[str, Any]:
    files = (*recipe.schemas, *recipe.files, *recipe.validation_files)
    return {
        "recipe": recipe.model_dump(mode="json"),
        "recipe_sha256": recipe.fingerprint,
        "inputs": {path: sha256_of(_path(path)) for path in files},
        "outputs": {name: sha256_of(out / name) for name in (TRAIN_FILE, VALIDATION_FILE)},
        "train": _counts(train),
        "validation": _counts(validation),
        "passed_over": dict(sorted(passed.items())),
        "decontamination": {"train": train.cleaner.report(), "validation": validation.cleaner.report()},
    }


def _counts(basket: _Basket) -> dict[str, Any]:
    examples = [found.example for found in basket.made]
    tokens = [tokens_of(example, basket.recipe.characters_per_token) for example in examples]
    n_abstain = sum(e.kind == "irrelevant" and e.reply is None for e in examples)
    return {
        "examples": len(examples),
        "tokens_estimated": sum(tokens),
        "longest_tokens": max(tokens, default=0),
        "abstentions": n_abstain,
        "abstention_share": round(n_abstain / max(1, len(examples)), 4),
        "by_kind": _sorted(Counter(e.kind for e in examples)),
        "by_sort": _sorted(Counter(found.sort for found in basket.made)),
        "by_source": _sorted(Counter(e.source for e in examples)),
        "by_license": _sorted(Counter(e.license for e in examples)),
        "by_rule": _sorted(Counter(rule for found in basket.made for rule in found.rules)),
        "by_tools_shown": _sorted(Counter(str(len(e.tools)) for e in examples)),
        "gold_functions": len({call.name for e in examples for call in e.calls}),
        "dropped": _sorted(basket.counts),
    }


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _request_key(example: Example) -> str:
    said = [m.content for m in example.messages if m.role == "user"]
    return json.dumps([said, [c.model_dump() for c in example.calls], example.reply], sort_keys=True)


def _paths(names: Iterable[str]) -> list[Path]:
    return [_path(name) for name in names]


def _path(name: str) -> Path:
    return Path(name).expanduser()
