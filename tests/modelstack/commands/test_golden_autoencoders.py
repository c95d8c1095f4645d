"""Output of `modelstack sae` and its commands; the work itself is replaced."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from modelstack.align.sae.autoencoder import Autoencoder, AutoencoderConfig
from modelstack.align.sae.feature_steering import Changes, Continued, read_steering
from modelstack.align.sae.features_of_text import FeatureReport
from modelstack.align.sae.hook_point import HookPoint
from modelstack.align.sae.sae_folder import SaeOrigin, SavedSae
from tests.golden import Golden

FIGURES = {"explained_variance": 0.81, "l0": 31.9, "alive": 0.97, "loss_recovered": 0.982}
ORIGIN = SaeOrigin(
    model="toy",
    weights_sha256="0" * 64,
    hook=HookPoint(layer=2),
    recipe_sha256="1" * 64,
    row_tokens=64,
    skip_first=1,
    n_tokens=1000,
    figures=FIGURES,
)


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    config = AutoencoderConfig(activation="topk", d_in=2, d_out=2, n_latents=9, k=1)
    saved = SavedSae(Autoencoder(config).requires_grad_(False), ORIGIN, torch.ones(9), torch.ones(9))
    vocabulary = SimpleNamespace(special_ids=frozenset())
    base = SimpleNamespace(model=None, tokenizer=SimpleNamespace(vocabulary=vocabulary))
    start = SimpleNamespace(parent=SimpleNamespace(sha256="0" * 64))
    monkeypatch.setattr("modelstack.align.sae.sae_folder.load_sae", lambda _: saved)
    monkeypatch.setattr("modelstack.posttrain.starting_point.starting_point", lambda *_: start)
    monkeypatch.setattr("modelstack.reasoning.sampling.frozen_model.load_merged", lambda *_, **__: base)


def test_an_autoencoder_is_shown_by_its_figures(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[Any] = [FIGURES, FIGURES, None, None]
    monkeypatch.setattr("modelstack.align.sae.train_sae.train_sae", lambda *_: results.pop(0))
    golden.check("sae", "sae smollm2-135m", "sae smollm2-135m tokens=8192")


def test_pages_of_features_are_counted(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    report = FeatureReport(ORIGIN, 9, 1000, 8, (), ())
    monkeypatch.setattr("modelstack.align.sae.features_of_text.activations_in", lambda *_, **__: None)
    monkeypatch.setattr("modelstack.align.sae.features_of_text.texts_in", lambda *_: [])
    monkeypatch.setattr("modelstack.align.sae.features_of_text.described", lambda *_, **__: report)
    golden.check("sae-features", "sae features toy --sae runs/sae/sae --out pages")
    assert Path("pages/index.html").is_file()


def test_steering_is_shown_by_what_it_changes(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    continued = (Continued("I think", " that it is late.", " the ship left the harbour."),)
    changes = Changes(((" ship", 3.25), (" it", -2.5)), continued)
    monkeypatch.setattr("modelstack.align.sae.feature_steering.changed_by", lambda *_: changes)
    with torch.no_grad():
        steer = "sae steer toy --sae runs/sae/sae --feature 7 --out ship.safetensors"
        golden.check("sae-steer", steer, steer.replace("7", "12"))
    assert read_steering("ship.safetensors").vectors.keys() == {2}
