"""The name of an adapter in traces: its stage's, or its file's."""

from __future__ import annotations

import hashlib
from pathlib import Path

from agentkit import Agent
from agentkit.models.calibration import CalibratedModel
from agentkit.models.confidence import Calibration
from agentkit.models.local.model import LocalModel
from agentkit.models.local.shipped import adapter_identity, shipped_folder
from agentkit.models.resolve import resolve_model
from agentkit.testing import ScriptedModel
from agentkit.tracing.reading import summarise


def test_a_shipped_adapter_has_the_name_and_the_fingerprint_of_its_stage() -> None:
    folder = shipped_folder("smollm2-135m")
    assert folder is not None
    name, digits = adapter_identity(folder / "adapter.gguf").split()
    assert name.startswith("tools") and digits in (folder / "stage.json").read_text(encoding="utf-8")
    assert resolve_model("local:tiny").adapter == f"{name} {digits}"
    assert resolve_model("local:smollm2-135m").adapter is None


def test_any_other_adapter_has_the_name_and_the_hash_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "own.gguf"
    file.write_bytes(b"GGUF")
    model = LocalModel("smollm2-135m", lora=file)
    assert model.adapter == f"own.gguf {hashlib.sha256(b'GGUF').hexdigest()[:12]}"
    assert CalibratedModel(model, Calibration()).adapter == model.adapter
    (tmp_path / "stage.json").write_text("[]", encoding="utf-8")
    assert adapter_identity(file) == model.adapter
    assert adapter_identity(tmp_path / "missing.gguf") == "missing.gguf"


def test_a_trace_names_the_adapter(tmp_path: Path) -> None:
    class Adapted(ScriptedModel):
        @property
        def adapter(self) -> str:
            return "tools 0123456789ab"

    Agent(Adapted(["Eight."], name="small"), trace=tmp_path).run_sync("Twice four?")
    (file,) = tmp_path.iterdir()
    assert summarise(file).model_name == "small + tools 0123456789ab"
    assert Agent(ScriptedModel(["Eight."]), trace=tmp_path / "other").run_sync("Twice four?")
    (other,) = (tmp_path / "other").iterdir()
    assert "+" not in summarise(other).model_name
