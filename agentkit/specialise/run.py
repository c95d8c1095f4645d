"""Pipeline from servers to an adapter: data, training, measurement before and after, report; resumable.

Every step leaves a file that the next run finds: the data's manifest, the stage's checkpoints, the stage's record.
A folder belongs to one list of tools and one recipe. If the servers have changed, the run fails, so that data of
different tools never share a name.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console

from agentkit.errors import UserError
from agentkit.models.base import Model
from agentkit.specialise.build import TEST, TRAINING, build, general_file, read_manifest
from agentkit.specialise.harvest import harvest
from agentkit.specialise.live import connected, fingerprint_of
from agentkit.specialise.recipe import SpecialiseRecipe
from agentkit.specialise.reinforce import reinforced, section
from agentkit.specialise.report import REPORT, write_report
from agentkit.tools.toolset import Toolset
from modelstack.posttrain.lora.unpack import unpack
from modelstack.posttrain.stages.stage import ADAPTER_GGUF, Stage, is_stage
from modelstack.sft.recipe import SftRecipe
from modelstack.sft.run import fine_tune
from modelstack.train.run.progress import Display

DATA, START, STAGE, REINFORCED = "data", "start", "stage", "reinforced"
_ON_ADAPTER, _NEW = 5e-4, 1e-3
_ROW_TOKENS_A_STEP = 4096


@dataclass(frozen=True, slots=True)
class Start:
    """Starting point of training."""

    weights: Path
    """GGUF file or checkpoint folder of the base."""
    shipped: Path | None = None
    """Folder of a shipped adapter to continue."""
    model: str | None = None
    """Name of the base, as `agentkit run --model` takes it; None: the path of its weights."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Arguments of a specialisation."""

    toolsets: Sequence[Toolset]
    command_words: Sequence[str]
    """Words of the servers' command lines."""
    start: Start
    recipe: SpecialiseRecipe
    writer: Model | None = None
    more_examples: Sequence[Path] = ()
    """Files of the user's own examples, such as exported traces; used for training."""


def specialise(wanted: Wanted, out: Path, console: Console) -> Stage | None:
    """Run or resume a specialisation; None if a stop was requested.

    Raises:
        UserError: The folder belongs to another specialisation, the servers changed, or no request can be made.
    """
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    manifest = _data(wanted, out / DATA, Display(console))
    base = _base(wanted.start, out / START)
    is_new = not is_stage(out / STAGE)
    stage = fine_tune(_recipe(wanted, base, out), out / STAGE, console)
    if stage is None:
        return None
    result = None
    if wanted.recipe.reinforce is not None:
        is_new = is_new or not is_stage(out / REINFORCED)
        result = reinforced(wanted.recipe, stage, wanted.start.weights, out / DATA, out / REINFORCED, console)
        if result is None:
            return None
    kept = stage if result is None or not result.is_kept else result.stage
    shutil.copyfile(kept.path / ADAPTER_GGUF, out / ADAPTER_GGUF)
    if is_new or not (out / REPORT).is_file():
        more = () if result is None else (section(result),)
        model = wanted.start.model or f"local:{wanted.start.weights}"
        write_report(out, stage, manifest, model=model, seconds=time.monotonic() - started, more=more)
    return kept


def _data(wanted: Wanted, folder: Path, display: Display) -> dict[str, Any]:
    """Return the manifest of the data, built now if missing."""
    with display.preparing() as told:
        return anyio.run(_made, wanted, folder, told)


async def _made(wanted: Wanted, folder: Path, told: Callable[[str], object]) -> dict[str, Any]:
    told("starting the servers")
    async with connected(wanted.toolsets) as tools:
        known = read_manifest(folder)
        if known is not None:
            _require_same(known, fingerprint_of(tools), wanted.recipe, folder)
            return known
        told(f"{len(tools)} tools; looking for values")
        only_reads = wanted.recipe.execute == "read-only"
        found = await harvest(tools if only_reads else (), wanted.command_words)
        return await build(tools, found, wanted.recipe, folder, wanted.writer, told)


def _require_same(known: dict[str, Any], tools: str, recipe: SpecialiseRecipe, folder: Path) -> None:
    for name, now, then in (
        ("the servers' tools", tools, known["tools_sha256"]),
        ("the recipe", recipe.fingerprint, known["recipe_sha256"]),
    ):
        if now != then:
            raise UserError(
                f"{folder} was made for something else: {name} changed since. Give another --out, or remove the "
                f"folder to make the data anew."
            )


def _base(start: Start, folder: Path) -> str:
    """Return the base in the form of the fine-tuning recipe."""
    if start.shipped is None:
        return str(start.weights)
    return str(unpack(start.shipped, start.weights, folder).path)


def _recipe(wanted: Wanted, base: str, out: Path) -> SftRecipe:
    recipe, data = wanted.recipe, out / DATA
    files = [data / TRAINING, *([general_file(data)] if recipe.general_share else []), *wanted.more_examples]
    has_adapter = wanted.start.shipped is not None
    n_rows = max(1, _ROW_TOKENS_A_STEP // recipe.row_tokens)
    return SftRecipe.model_validate(
        {
            "name": recipe.name,
            "base": base,
            "weights": str(wanted.start.weights) if has_adapter else None,
            "seed": recipe.seed,
            "epochs": recipe.epochs,
            "minutes": recipe.minutes,
            "rows": n_rows,
            "micro_batches": n_rows,
            "data": {
                "training": [str(file) for file in files],
                "validation": [str(data / TEST)],
                "row_tokens": recipe.row_tokens,
                # Here tools should be recognised by name, and values are the servers' own.
                "augment": {"mask_names": 0, "swap_values": 0, "drop_optional": 0},
            },
            "optimizer": {"lr": recipe.lr or (_ON_ADAPTER if has_adapter else _NEW)},
            "evaluation": {"every": 50, "max_examples": 60, "exact_replies": recipe.test_examples},
            "checkpoints": {"every": 10, "keep": 2},
        }
    )
