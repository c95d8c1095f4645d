"""Releases of a toy stage: its facts, its results, its folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from torch import nn

from modelstack.align.release.about import About
from modelstack.align.release.build import Inputs, build
from modelstack.align.release.figures import REQUIRED, Figure, Part, Results, share
from modelstack.align.release.parts import Release
from modelstack.align.release.signature import new_key, read_private_key
from modelstack.posttrain.base import load_base
from modelstack.posttrain.lora.adapters import add_lora, draw_adapters, lora_layers
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.lora.files import save_adapter
from modelstack.posttrain.lora.gguf import write_gguf_adapter
from modelstack.posttrain.stages.record import DataFile, DataManifest
from modelstack.posttrain.stages.stage import ADAPTER, ADAPTER_GGUF, Stage, seal
from tests.modelstack.posttrain.toy_stages import sha256, toy_record
from tests.modelstack.sft.toy_sft import write_base

DAY = date(2026, 12, 1)
ABOUT: dict[str, Any] = {
    "name": "toy-tools",
    "version": "1.0",
    "summary": "Adapter of a toy model, which lights lamps.",
    "licence": "Apache-2.0",
    "base": {"id": "toys/toy", "licence": "MIT"},
    "languages": ["en"],
    "supplier": "Toy works",
    "contact": "toys@toys.example",
    "domain": "toys",
    "autonomy": "Proposes calls.",
    "users": ["testers"],
    "uses": ["Tests."],
    "limits": ["It knows two tools."],
    "risks": [{"name": "Heat", "mitigation": "Look at the oven."}],
    "fairness": "Nothing was measured.",
    "explanation": "Each choice has a probability.",
    "threshold": "none",
    "preprocessing": "Written by a function.",
    "personal_data": "none known",
    "links": {
        "website": "https://toys.example",
        "source": "https://toys.example/source",
        "download": "https://toys.example/toy-tools",
        "paper": "https://toys.example/paper",
    },
    "energy": {"watts": 10, "note": "two toy cores"},
    "better": {"exact calls": "higher"},
}
METRICS = {"steps": 12, "tokens": 3_000, "seconds of steps": 36.0}


def about(**changes: Any) -> About:
    return About.model_validate(ABOUT | changes)


def data_manifest(
    licences: Mapping[str, int] | None = None, sources: Mapping[str, int] | None = None, n: int = 3
) -> DataManifest:
    file = DataFile(
        name="train.jsonl",
        role="training",
        sha256=sha256("data"),
        n_examples=n,
        sources=dict(sources or {"snips": 3}),
        licences=dict(licences or {"CC0-1.0": 3}),
    )
    return DataManifest(files=(file,))


def figure(part: Part, name: str = "", n: int = 30, of: int = 40, **others: Any) -> Figure:
    values: dict[str, Any] = {"better": "higher", "command": REQUIRED.get(part, "python measure.py")} | others
    if part == "contamination":
        n, values["better"] = 0, "lower"
    return share(part, name or f"figure of {part}", n, of, **values)


def results(**replaced: tuple[Figure, ...]) -> Results:
    """Return a figure for each required part, except those given."""
    figures = {part: (figure(part),) for part in REQUIRED}
    figures |= {name.replace("_", " "): several for name, several in replaced.items()}  # pyright: ignore
    return Results(figures=tuple(each for several in figures.values() for each in several))


def toy_adapter(
    folder: Path, *, with_gguf: bool = True, is_trained: bool = False, **changes: Any
) -> tuple[Stage, Path]:
    """Write a toy base and a stage with an adapter on it; return the stage and the base's file.

    An adapter that is not trained does not change the base's output.
    """
    file = write_base(folder / "base")
    base = load_base(file)
    config = LoraConfig(rank=4, alpha=8)
    add_lora(base.model, config)
    draw_adapters(base.model, config)
    if is_trained:
        for _, layer in lora_layers(base.model):
            nn.init.constant_(layer.lora_B, 0.1)
    stage = folder / "stage"
    save_adapter(base.model, config, stage / ADAPTER, base_sha256=base.sha256)
    parts = [ADAPTER]
    if with_gguf:
        write_gguf_adapter(base.model, config, stage / ADAPTER_GGUF, base_sha256=base.sha256)
        parts.append(ADAPTER_GGUF)
    (stage / "recipe.json").write_text(json.dumps({"resolved": {"weights": str(file)}}))
    values = {"base_sha256": base.sha256, "metrics": METRICS, "data": data_manifest()} | changes
    return seal(stage, toy_record("toy", **values), parts), file


def toy_release(folder: Path, stage: Stage, key: Path, *, name: str = "release", **changes: Any) -> Release:
    values: dict[str, Any] = {"about": about(), "results": (results(),), "day": DAY} | changes
    return build(Inputs(stage=str(stage.path), **values), folder / name, read_private_key(key))


def keys(folder: Path, name: str = "key.pem") -> tuple[Path, Path]:
    return folder / name, new_key(folder / name)


def copied(folder: Path, out: Path) -> Path:
    shutil.copytree(folder, out)
    return out
