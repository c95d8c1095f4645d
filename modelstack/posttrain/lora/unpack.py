"""A stage packed for shipping, its adapter as the GGUF file alone; and a packed one made a stage to train on.

What is shipped leaves out peft's folder, which would double it. The weights are those of the GGUF file, rounded to
half precision as they are served; the record is the shipped one with the files that there are now.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from modelstack.errors import UserError
from modelstack.files import replacing_folder, sha256_of
from modelstack.posttrain.base import base_sha256, load_base, require_same_base
from modelstack.posttrain.lora.adapters import add_lora, load_lora_state
from modelstack.posttrain.lora.files import save_adapter
from modelstack.posttrain.lora.gguf import read_gguf_adapter
from modelstack.posttrain.stages.stage import ADAPTER, ADAPTER_GGUF, Stage, is_stage, open_stage, read_record, seal
from modelstack.train.curves import PLOT_FILE


def pack(stage: Path, out: Path) -> Stage:
    """Write what is shipped of a stage with an adapter: the GGUF file, the curves, a card and a record of these.

    Raises:
        UserError: The stage is damaged or has no such file, or `out` is a stage already.
    """
    record = open_stage(stage).record
    parts = [name for name in (ADAPTER_GGUF, PLOT_FILE) if name in record.files]
    if ADAPTER_GGUF not in parts:
        raise UserError(f"stage {stage} has no {ADAPTER_GGUF}: only an adapter that llama.cpp reads is shipped")
    out.mkdir(parents=True, exist_ok=True)
    for name in parts:
        shutil.copyfile(stage / name, out / name)
    return seal(out, record.model_copy(update={"files": {}}), parts)


def unpack(shipped: Path, weights: Path, out: Path) -> Stage:
    """Return a stage in `out` of a shipped adapter; one that is there already is opened.

    Args:
        shipped: Folder with `adapter.gguf` and `stage.json`.
        weights: The base's GGUF file or checkpoint folder.
        out: Where the stage goes.

    Raises:
        UserError: The file is not the record's, the base is another, or `out` holds another stage.
    """
    record = read_record(shipped)
    file = shipped / ADAPTER_GGUF
    facts = record.files.get(ADAPTER_GGUF)
    if facts is None or not file.is_file() or sha256_of(file) != facts.sha256:
        raise UserError(f"{file} is not the adapter that {shipped / 'stage.json'} tells of: install it again")
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
        # A stage is made of files in place, so the folder comes first and its record last.
        shutil.copyfile(file, temporary / ADAPTER_GGUF)
    save_adapter(base.model, adapter.config, out / ADAPTER, base_sha256=record.base_sha256)
    return seal(out, record.model_copy(update={"files": {}}), [ADAPTER, ADAPTER_GGUF])
