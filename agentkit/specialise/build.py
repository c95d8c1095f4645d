"""Builds training and test files from live tools, with a manifest of kept, tried and dropped examples."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agentkit.models.base import Model
from agentkit.specialise.cases import Cases, Side, said_key, unspeakable
from agentkit.specialise.harvest import Harvest
from agentkit.specialise.live import LiveTool, call, fingerprint_of
from agentkit.specialise.paraphrase import paraphrased
from agentkit.specialise.recipe import SpecialiseRecipe
from modelstack.data.examples import Example, check_example, write_examples
from modelstack.data.tools.build import TRAIN_FILE
from modelstack.data.tools.build import build as build_general
from modelstack.data.tools.recipe import ToolDataRecipe
from modelstack.errors import UserError as DataError
from modelstack.files import replacing, sha256_of

TRAINING, TEST, GENERAL, MANIFEST = "train.jsonl.zst", "test.jsonl.zst", "general", "manifest.json"
WORDS = "other-words.jsonl"
_GIVE_UP = 80
"""Consecutive failed attempts after which a sort is exhausted."""
_GENERAL_TOKENS = 310
"""Average tokens of an example over other tools."""
_GENERAL_SHARES = {
    "single": 0.35, "parallel": 0.15, "multi": 0.17, "beyond": 0.08, "tool_removed": 0.07, "far": 0.03,
    "small_talk": 0.01, "clarify": 0.05, "answer": 0.06, "follow_up": 0.03,
}  # fmt: skip
Told = Callable[[str], object]


async def build(
    tools: Sequence[LiveTool],
    harvest: Harvest,
    recipe: SpecialiseRecipe,
    folder: Path,
    writer: Model | None,
    told: Told,
) -> dict[str, Any]:
    """Write all files of a specialisation and return the manifest, which is written last.

    Args:
        tools: The live tools, connected.
        harvest: Parameter values found for the tools.
        recipe: Numbers and shares of the examples.
        folder: Output folder.
        writer: Model that rewrites requests; None: no rewriting.
        told: Receives progress messages.

    Raises:
        UserError: No request can be made for any tool.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    sides: tuple[tuple[Side, int], ...] = (("test", recipe.test_examples), ("train", recipe.examples))
    made: dict[Side, list[Example]] = {}
    for side, n in sides:
        cases = Cases(tools, harvest, recipe, side)
        made[side] = await _made(cases, n, seen, counts, told)
        if not any(example.calls for example in made[side]):
            raise DataError(
                f"nothing can be asked of the {len(tools)} tools: a required parameter of each has no value that "
                f"could be said; give examples of your own with --examples FILE"
            )
        if writer is not None and recipe.paraphrase_share > 0:
            made[side], n_asked = await paraphrased(
                made[side], writer, recipe.paraphrase_share, folder / WORDS, told
            )
            counts[f"{side}: rewriting asked for"] += n_asked
    cases = Cases(tools, harvest, recipe, "train")
    write_examples(folder / TRAINING, made["train"])
    write_examples(folder / TEST, made["test"])
    if recipe.general_share > 0:
        told("examples over other tools")
        build_general(_general(recipe), folder / GENERAL)
    manifest = {
        "recipe": recipe.model_dump(mode="json"),
        "recipe_sha256": recipe.fingerprint,
        "tools_sha256": fingerprint_of(tools),
        "tools": {tool.name: tool.server for tool in tools},
        "without_words": unspeakable(cases),
        "calls_for_values": harvest.n_calls,
        "values_found": {f"{tool}.{name}": len(values) for (tool, name), values in harvest.good.items()},
        "tables": sorted(harvest.tables),
        "train": dict(Counter(example.kind for example in made["train"])),
        "test": dict(Counter(example.kind for example in made["test"])),
        "counts": dict(sorted(counts.items())),
        "files": {name: sha256_of(folder / name) for name in (TRAINING, TEST)},
    }
    with replacing(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return manifest


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a finished build, or None."""
    file = folder / MANIFEST
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def general_file(folder: Path) -> Path:
    """Return the path of the examples over other tools."""
    return folder / GENERAL / TRAIN_FILE


async def _made(cases: Cases, n: int, seen: set[str], counts: Counter[str], told: Told) -> list[Example]:
    total = sum(cases.recipe.shares.values())
    found: list[Example] = []
    for sort, share in cases.recipe.shares.items():
        wanted, number, idle, n_found = round(n * share / total), 0, 0, 0
        while n_found < wanted and idle < _GIVE_UP:
            number += 1
            example = cases.make(sort, number)
            reason = await _fault(cases, example, seen)
            if example is None or reason:
                idle += 1
                counts[f"{cases.side}: {reason}"] += 1
                continue
            seen.add(said_key(example))
            found.append(example)
            n_found, idle = n_found + 1, 0
            told(f"{cases.side}, {sort}: {n_found} of {wanted}")
        if n_found < wanted:
            counts[f"{cases.side}: {sort}, short of what was wanted"] += wanted - n_found
    return found


async def _fault(cases: Cases, example: Example | None, seen: set[str]) -> str:
    """Return why an example is rejected; empty if it is accepted."""
    if example is None:
        return "no words, or no values"
    if said_key(example) in seen:
        return "said before"
    try:
        check_example(example)
    except DataError:
        return "call does not fit its schema"
    return await _tried(cases, example)


async def _tried(cases: Cases, example: Example) -> str:
    """Run an example's calls if all are read-only and all texts come from the server; return any error."""
    if cases.recipe.execute == "never":
        return ""
    by_name = {tool.name: tool for tool in cases.tools}
    for each in example.calls:
        texts = [(name, value) for name, value in each.arguments.items() if isinstance(value, str)]
        is_known = all(cases.is_from_server(each.name, name, value) for name, value in texts)
        if not by_name[each.name].is_safe or not is_known:
            return ""
    for each in example.calls:
        if (await call(by_name[each.name], each.arguments)).is_error:
            return "the server refused the call"
    return ""


def _general(recipe: SpecialiseRecipe) -> ToolDataRecipe:
    n_examples = recipe.examples * recipe.general_share / (1 - recipe.general_share)
    return ToolDataRecipe(
        name="general",
        seed=recipe.seed,
        tokens=max(1, round(n_examples * _GENERAL_TOKENS)),
        validation_examples=0,
        shares=_GENERAL_SHARES,
    )
