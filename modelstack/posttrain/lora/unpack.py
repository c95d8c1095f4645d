"""Stages packed for shipping, with the adapter as a GGUF file only, and shipped stages unpacked for training.

The package leaves out peft's folder, which would double its size. Unpacked weights are those of the GGUF file,
which are rounded to half precision as they are served. The unpacked record is the shipped one with the files that
exist now.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from modelstack.errors import UserError
from modelstack.files import replacing_folder, sha256_of
from modelstack.posttrain.base import load_base
from modelstack.posttrain.base_hash import base_sha256, require_same_base
from modelstack.posttrain.lora.adapters import add_lora, load_lora_state
from modelstack.posttrain.lora.files import save_adapter
from modelstack.posttrain.lora.gguf import read_gguf_adapter
from modelstack.posttrain.stages.stage import ADAPTER, ADAPTER_GGUF, Stage, is_stage, open_stage, read_record, seal
from modelstack.train.curves import PLOT_FILE


def pack(stage: Path, out: Path) -> Stage:
    """Write the package of a stage with an adapter: GGUF file, curves, card and a record of these.

    Raises:
        UserError: The stage is damaged or has no GGUF file, or `out` is already a stage.
    """
    record = open_stage(stage).record
    parts = [name for name in (ADAPTER_GGUF, PLOT_FILE) if name in record.files]
    if ADAPTER_GGUF not in parts:
        raise UserError(f"stage {stage} has no {ADAPTER_GGUF}: only an adapter as a file for llama.cpp is shipped")
    out.mkdir(parents=True, exist_ok=True)
    for name in parts:
        shutil.copyfile(stage / name, out / name)
    return seal(out, record.model_copy(update={"files": {}}), parts)


def unpack(shipped: Path, weights: Path, out: Path) -> Stage:
    """Unpack a shipped adapter as a stage in `out`; an existing stage of the same recipe is opened instead.

    Args:
        shipped: Folder with `adapter.gguf` and `stage.json`.
        weights: GGUF file or checkpoint folder of the base.
        out: Folder of the new stage.

    Raises:
        UserError: The file differs from its record, the base has another hash, or `out` holds another stage.
    """
    record = read_record(shipped)
    file = shipped / ADAPTER_GGUF
    facts = record.files.get(ADAPTER_GGUF)
    if facts is None or not file.is_file() or sha256_of(file) != facts.sha256:
        raise UserError(f"{file} is not the adapter that {shipped / 'stage.json'} records: install it again")
    if is_stage(out):
        found = open_stage(out)
        if found.record.recipe_sha256 != record.recipe_sha256:
            raise UserError(f"{out} holds another stage, {found.record.name!r}: give another folder")
        return found
    require_same_base(record.base_sha256, base_sha256(weights))
    base = load_base(weights)
    adapter = read_gguf_adapter(file, base.config)
    add_lora(base.model, adapter.config)
    load_lora_state(base.model, adapter.state)
    with replacing_folder(out) as temporary:
        # `seal` needs the files in place, so the folder is created first and its record last.
        shutil.copyfile(file, temporary / ADAPTER_GGUF)
    save_adapter(base.model, adapter.config, out / ADAPTER, base_sha256=record.base_sha256)
    return seal(out, record.model_copy(update={"files": {}}), [ADAPTER, ADAPTER_GGUF])
