"""The adapter that the package carries is the one that its record, its prior and its card speak of."""

from __future__ import annotations

from agentkit.models.profiles import PROFILES
from agentkit.models.shipped import ADAPTER_FILE, PRIOR_FILE, shipped_folder
from modelstack.files import sha256_of
from modelstack.sft.stage import open_stage
from modelstack.toolcalls.lexical import DecisionPrior

FOLDER = shipped_folder(PROFILES["tiny"])
MOST_BYTES = 12_000_000
"""The whole package stays small enough for anybody to install."""


def test_the_tiny_profile_has_an_adapter_small_enough_to_ship() -> None:
    assert FOLDER is not None
    assert (FOLDER / ADAPTER_FILE).stat().st_size <= MOST_BYTES


def test_record_and_prior_are_of_this_adapter() -> None:
    assert FOLDER is not None
    record = open_stage(FOLDER).record
    sha256 = sha256_of(FOLDER / ADAPTER_FILE)
    assert record.files[ADAPTER_FILE].sha256 == sha256
    if (FOLDER / PRIOR_FILE).is_file():
        fitted = DecisionPrior.read(FOLDER / PRIOR_FILE).fitted
        assert fitted is not None
        assert (fitted.adapter_sha256, fitted.model_sha256) == (sha256, record.base_sha256)
    assert (FOLDER / "README.md").read_text(encoding="utf-8").startswith(f"# {record.name}")
