"""Files of the shipped guards belong together: adapter, base, operating points, card."""

from __future__ import annotations

import pytest

from agentkit.guardrails.safety_guard import DEFAULT_GUARD
from agentkit.models.catalog.entries import CATALOG
from modelstack.align.guard_model.shipped import ADAPTER_FILE, read_points, shipped_guard, shipped_guards
from modelstack.gguf_file import open_gguf


@pytest.mark.parametrize("model_id", shipped_guards())
def test_adapter_points_and_card_belong_to_one_base(model_id: str) -> None:
    folder = shipped_guard(model_id)
    points = read_points(folder)
    assert points.base_sha256 == CATALOG[model_id].sha256
    with open_gguf(folder / ADAPTER_FILE) as file:
        assert file.fields["general.type"] == "adapter"
        assert file.fields["modelstack.base.sha256"] == points.base_sha256
    assert list(points.thresholds) == ["fpr_0.1", "fpr_1", "fpr_5"]
    ordered = [points.thresholds[name] for name in points.thresholds]
    assert ordered == sorted(ordered, reverse=True) and points.n_ordinary >= 1000
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "## Operating points" in card and "## Limits" in card


def test_the_default_guard_is_in_the_package() -> None:
    assert DEFAULT_GUARD in shipped_guards()
