"""Stages without training: folders with a few bytes for weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from modelstack.posttrain.stages.record import (
    DataFile,
    DataManifest,
    Evaluation,
    Kind,
    Measurement,
    Origin,
    StageRecord,
)
from modelstack.posttrain.stages.stage import Stage, seal


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


BASE = Origin(kind="base", name="toy.gguf", sha256=sha256("base"))


def toy_record(name: str, *parents: Origin, kind: Kind = "sft", **changes: Any) -> StageRecord:
    values: dict[str, Any] = {
        "kind": kind,
        "name": name,
        "what": "LoRA of rank 4 on toy calls.",
        "parents": parents or (BASE,),
        "base_sha256": sha256("base"),
        "recipe": {"lora": {"rank": 4}, "lr": 1e-3},
        "recipe_sha256": sha256("recipe"),
        "seed": 7,
        "data": DataManifest(
            files=(
                DataFile(
                    name="train.jsonl.zst",
                    role="training",
                    sha256=sha256("data"),
                    n_examples=3,
                    kinds={"call": 2, "irrelevant": 1},
                    sources={"snips": 3},
                    licences={"CC0-1.0": 3},
                ),
            ),
            n_too_long=2,
            reports={"decontamination": {"dropped": 5}},
        ),
        "evaluation": Evaluation(
            before=(Measurement(name="exact calls", value=0.25, low=0.1, high=0.4, n=40),),
            after=(Measurement(name="exact calls", value=0.75, low=0.6, high=0.9, n=40),),
        ),
        "metrics": {"steps": 12, "loss": 0.5},
        "versions": {"torch": "2.13.0"},
        **changes,
    }
    return StageRecord.model_validate(values)


def toy_stage(folder: Path, name: str, *parents: Origin, kind: Kind = "sft", **changes: Any) -> Stage:
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(name.encode() * 10)
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("{}\n")
    return seal(folder, toy_record(name, *parents, kind=kind, **changes), ("adapter", "metrics.jsonl"))
