"""Builds a release: collects the parts, asks the gate, writes and signs the folder, and renames it into place."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mcp_servers.distribution import NAME
from modelstack.align.release.about import About
from modelstack.align.release.bill import bill
from modelstack.align.release.card import as_yaml, card, eval_results
from modelstack.align.release.contamination import recorded_results
from modelstack.align.release.figures import Figure, Results, figure_of, merged
from modelstack.align.release.gate import (
    BILL,
    CARD,
    EVAL_RESULTS,
    LICENCE,
    NOTICE,
    RECORD,
    RELEASE,
    Fault,
    faults_of,
)
from modelstack.align.release.listing import SIGNATURE, SUMS, hashes_of, names_in, sums_text
from modelstack.align.release.parts import ModelFacts, Parity, Release, compute_of
from modelstack.align.release.provenance import provenance
from modelstack.align.release.signature import sign
from modelstack.align.release.subject import base_of, open_subject
from modelstack.architecture.config import ModelConfig
from modelstack.errors import UserError
from modelstack.files import replacing_folder
from modelstack.gguf_file import open_gguf
from modelstack.posttrain.base import Base, load_base
from modelstack.posttrain.lora.adapters import add_lora, load_lora_state
from modelstack.posttrain.lora.files import Adapter, read_adapter, save_adapter
from modelstack.posttrain.lora.gguf import read_gguf_adapter
from modelstack.posttrain.stages.record import StageRecord
from modelstack.posttrain.stages.stage import ADAPTER, ADAPTER_GGUF, MODEL, MODEL_GGUF, STAGE_FILE, Stage
from modelstack.posttrain.starting_point import starting_point
from modelstack.tokenizer.tokenizer_folder import save_text_tokenizer
from modelstack.train.curves import PLOT_FILE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

RECORD_COMMAND = "modelstack stage lineage STAGE"
"""Command that shows the figures of a stage's record."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Inputs of a release."""

    stage: str
    """Folder of a stage, or the name of a model with a shipped adapter."""
    about: About
    results: tuple[Results, ...]
    weights: str | None = None
    """Base weights of an adapter; None: recorded, or those of the catalog."""
    earlier: tuple[StageRecord, ...] = ()
    """Records of earlier stages."""
    previous: Release | None = None
    licence: Path | None = None
    """Text of the licence; None: that of this package, if it is the same licence."""
    day: date | None = None
    """Date of the release; None: today."""


class Refused(UserError):
    """Release that the gate refused."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        """Name each fault."""
        super().__init__(
            f"refused, {len(faults)} faults. " + " ".join(f"({n}) {each}" for n, each in enumerate(faults, 1))
        )
        self.faults = tuple(faults)


def build(inputs: Inputs, out: Path, key: EllipticCurvePrivateKey) -> Release:
    """Write a signed release and return its parts.

    Raises:
        Refused: The gate found faults; nothing is written.
        UserError: The stage or its base is missing or damaged, or `out` exists.
    """
    if out.exists():
        raise UserError(f"{out} exists, and a release never changes: give another folder")
    stage = open_subject(inputs.stage)
    with replacing_folder(out) as work:
        model, parity = _write_weights(inputs, stage, work)
        release = parts_of(inputs, stage.record, model, parity)
        _write_papers(inputs, stage, release, work)
        _write_bill(release, work)
        licence = (work / LICENCE).read_text(encoding="utf-8") if (work / LICENCE).is_file() else ""
        if faults := faults_of(release, names_in(work), licence, inputs.previous):
            raise Refused(faults)
        sums = hashes_of(work)
        (work / SUMS).write_text(sums_text(sums), encoding="utf-8")
        (work / SIGNATURE).write_text(sign(hashes_of(work), out.name, key), encoding="utf-8")
    return release


def parts_of(inputs: Inputs, record: StageRecord, model: ModelFacts, parity: Parity | None) -> Release:
    """Return the parts of a release: the facts and figures of the inputs, and those of the stage's record.

    Raises:
        UserError: Two results files have different figures of the same name.
    """
    data = provenance(record, inputs.earlier, inputs.about.earlier)
    figures, notes = merged([Results(figures=_recorded(record, inputs.about)), *inputs.results])
    if not any(each.part == "contamination" for each in figures):
        figures = (*figures, *recorded_results(record).figures)
    return Release(
        about=inputs.about,
        date=(inputs.day or date.today()).isoformat(),
        stage=record,
        model=model,
        parity=parity,
        data=data,
        compute=compute_of(record, data, model.n_parameters, inputs.about.energy.watts),
        figures=figures,
        notes=notes,
        measured_weights=tuple(
            sorted({each.weights_sha256 for each in inputs.results if each.weights_sha256 is not None})
        ),
    )


def _recorded(record: StageRecord, about: About) -> tuple[Figure, ...]:
    before = {each.name: each for each in record.evaluation.before}
    return tuple(
        figure_of(each, about.better.get(each.name, "neither"), RECORD_COMMAND, before.get(each.name), record.seed)
        for each in record.evaluation.after
    )


def _write_weights(inputs: Inputs, stage: Stage, work: Path) -> tuple[ModelFacts, Parity | None]:
    """Write weights and tokenizer as the Hub expects them: flat, in both formats."""
    if (stage.path / MODEL).is_dir():
        return _write_model(stage, work), None
    weights = base_of(inputs.stage, inputs.weights)
    if (stage.path / ADAPTER).is_dir():
        weights = starting_point(stage.path, inputs.weights).weights
    if weights is None:
        raise UserError(f"stage {stage.path} does not record its base: name it with --weights")
    # Only config, tokenizer and names of layers are needed of it.
    base = load_base(weights, dtype=torch.bfloat16, expected_sha256=stage.record.base_sha256)
    file = stage.path / ADAPTER_GGUF
    if not file.is_file():
        raise UserError(
            f"stage {stage.path} has no {ADAPTER_GGUF}: llama.cpp cannot load its adapter; merge it first"
        )
    shutil.copyfile(file, work / ADAPTER_GGUF)
    in_gguf = read_gguf_adapter(file, base.config)
    with ExitStack() as held:
        folder = work / ADAPTER
        held.callback(shutil.rmtree, folder, ignore_errors=True)
        adapter = read_adapter(stage.path / ADAPTER) if (stage.path / ADAPTER).is_dir() else in_gguf
        add_lora(base.model, adapter.config)
        load_lora_state(base.model, adapter.state)
        sha256 = stage.record.base_sha256
        save_adapter(base.model, adapter.config, folder, base_sha256=sha256, base_name=inputs.about.base.id)
        parity = compared(in_gguf, read_adapter(folder))
        for each in folder.iterdir():
            each.replace(work / each.name)
    save_text_tokenizer(base.tokenizer, work)
    return _facts(base, work / ADAPTER_GGUF), parity


def _write_model(stage: Stage, work: Path) -> ModelFacts:
    for file in (stage.path / MODEL).iterdir():
        shutil.copyfile(file, work / file.name)
    if (stage.path / MODEL_GGUF).is_file():
        shutil.copyfile(stage.path / MODEL_GGUF, work / MODEL_GGUF)
    base = load_base(work, dtype=torch.bfloat16)
    return _facts(base, work / MODEL_GGUF)


def compared(first: Adapter, second: Adapter) -> Parity:
    """Return the agreement of two adapters, each with its scale.

    Raises:
        UserError: They have different tensors.
    """
    if first.state.keys() != second.state.keys():
        raise UserError("GGUF and safetensors files of the adapter have different tensors: train the stage again")
    worst = 0.0
    for name, tensor in first.state.items():
        other = second.state[name].float()
        largest = float(other.abs().max()) or 1.0
        worst = max(worst, float((tensor.float() - other).abs().max()) / largest)
    return Parity(n_tensors=len(first.state), max_difference=worst)


def _facts(base: Base, file: Path) -> ModelFacts:
    config = base.config
    types: Counter[str] = Counter()
    if file.is_file():
        with open_gguf(file) as opened:
            types.update(tensor.type_name for tensor in opened.tensors.values())
    return ModelFacts(
        family=config.model_type,
        n_parameters=sum(each.numel() for each in base.model.parameters()),
        vocab_size=config.vocab_size,
        context=config.max_position_embeddings,
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        mlp_width=config.intermediate_size,
        rope_dimension=_rope_dimension(config),
        gguf_type=types.most_common(1)[0][0] if types else "none",
    )


def _rope_dimension(config: ModelConfig) -> int:
    return config.head_dim if config.position_embedding == "rope" else 0


def _write_papers(inputs: Inputs, stage: Stage, release: Release, work: Path) -> None:
    about = release.about
    (work / CARD).write_text(card(release), encoding="utf-8")
    (work / RELEASE).write_text(release.model_dump_json(indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(stage.path / STAGE_FILE, work / RECORD)
    if (text := _licence_text(inputs)) is not None:
        (work / LICENCE).write_text(text, encoding="utf-8")
    notice = [f"{about.name} {about.version}\n{about.supplier}", f"Base: {about.base.id}, {about.base.licence}."]
    (work / NOTICE).write_text("\n\n".join([*notice, *about.notice]) + "\n", encoding="utf-8")
    (work / EVAL_RESULTS).parent.mkdir()
    (work / EVAL_RESULTS).write_text(as_yaml(eval_results(release)), encoding="utf-8")
    plots = [PLOT_FILE] if (stage.path / PLOT_FILE).is_file() else []
    for name in (*plots, *about.files):
        if (stage.path / name).is_symlink() or not (stage.path / name).is_file() or (work / name).exists():
            raise UserError(
                f"file {name!r} of `files` is not in {stage.path}, or a release has another of this name: leave "
                f"it out"
            )
        shutil.copyfile(stage.path / name, work / name)


def _write_bill(release: Release, work: Path) -> None:
    text = json.dumps(bill(release, hashes_of(work)), indent=1, ensure_ascii=False)
    (work / BILL).write_text(text + "\n", encoding="utf-8")


def _licence_text(inputs: Inputs) -> str | None:
    """Return the text of the licence; None: it has to be given."""
    if inputs.licence is not None:
        if not inputs.licence.is_file():
            raise UserError(f"licence {inputs.licence} does not exist: give the file with its text")
        return inputs.licence.read_text(encoding="utf-8")
    if inputs.about.licence != "Apache-2.0":
        return None
    try:
        installed = distribution(NAME).read_text("licenses/LICENSE")
    except PackageNotFoundError:
        installed = None
    checkout = Path(__file__).parents[3] / "LICENSE"
    return installed or (checkout.read_text(encoding="utf-8") if checkout.is_file() else None)
