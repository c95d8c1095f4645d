"""The adapters that the package carries are those that their records, priors and cards speak of."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkit.models.catalog.entries import CATALOG
from agentkit.models.local.profiles import PROFILES
from agentkit.models.local.shipped import ADAPTER_FILE, ALWAYS_ABSTAINING, PRIOR_FILE, shipped_folder
from agentkit.models.resolve import with_shipped
from modelstack.files import sha256_of
from modelstack.posttrain.stages.stage import open_stage
from modelstack.toolcalls.prior.lexical import DecisionPrior

SHIPPED = {model: folder for model in PROFILES.values() if (folder := shipped_folder(model)) is not None}
MOST_BYTES = 20_000_000
"""Of one adapter: the package stays small enough for anybody to install."""

each_adapter = pytest.mark.parametrize(("model_id", "folder"), SHIPPED.items(), ids=SHIPPED.keys())


def test_the_tiny_profile_has_an_adapter() -> None:
    assert PROFILES["tiny"] in SHIPPED


@each_adapter
def test_an_adapter_is_small_enough_to_ship(model_id: str, folder: Path) -> None:
    assert (folder / ADAPTER_FILE).stat().st_size <= MOST_BYTES


@each_adapter
def test_record_and_prior_are_of_this_adapter_and_of_the_catalog_model(model_id: str, folder: Path) -> None:
    record = open_stage(folder).record
    sha256 = sha256_of(folder / ADAPTER_FILE)
    assert record.files[ADAPTER_FILE].sha256 == sha256
    assert record.base_sha256 == CATALOG[model_id].sha256
    if (folder / PRIOR_FILE).is_file():
        fitted = DecisionPrior.read(folder / PRIOR_FILE).fitted
        assert fitted is not None
        assert (fitted.adapter_sha256, fitted.model_sha256) == (sha256, record.base_sha256)
    assert (folder / "README.md").read_text(encoding="utf-8").startswith(f"# {record.name}")


@each_adapter
def test_a_profile_takes_its_adapter_and_offers_to_abstain_where_the_adapter_needs_it(
    model_id: str, folder: Path
) -> None:
    options = with_shipped(model_id, {})
    assert options["lora"] == str(folder / ADAPTER_FILE)
    assert options.get("abstain") == ("true" if model_id in ALWAYS_ABSTAINING else None)
    assert with_shipped(model_id, {"abstain": "false"})["abstain"] == "false"
