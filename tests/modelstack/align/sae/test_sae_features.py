"""Features: where they fire, pages that hostile text cannot change, and steering of both engines."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from modelstack.align.sae.feature_pages import shown, write_pages
from modelstack.align.sae.feature_steering import feature_steering, read_steering
from modelstack.align.sae.features_of_text import (
    HIGHEST,
    Activations,
    Example,
    Feature,
    FeatureReport,
    activations_in,
    described,
)
from modelstack.align.sae.hook_point import HookPoint, states_at
from modelstack.align.sae.sae_folder import SaeOrigin, SavedSae, load_sae
from modelstack.align.sae.state_windows import StateSource
from modelstack.align.sae.train_sae import train_sae
from modelstack.cli import app
from modelstack.errors import UserError
from modelstack.inference.engine import GenerateRequest
from modelstack.inference.torch.engine import TorchEngine
from modelstack.posttrain.base import Base, load_base
from tests.modelstack.align.sae.toy_sae import recipe, silent, write_toy

TEXTS = ["abc def abc ghi", "hgf edc bah", "aaaa bbbb cccc dddd eeee"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    write_toy(folder)
    train_sae(recipe(folder), folder / "run", silent)
    return folder


@pytest.fixture(scope="module")
def base(toy: Path) -> Base:
    return load_base(toy / "toy.gguf")


@pytest.fixture(scope="module")
def saved(toy: Path) -> SavedSae:
    return load_sae(toy / "run" / "sae")


@pytest.fixture(scope="module")
def found(base: Base, saved: SavedSae) -> Activations:
    source = StateSource(base.model, HookPoint(layer=1), base.tokenizer.vocabulary.special_ids, 1)
    return activations_in(source, saved.autoencoder, base.tokenizer, TEXTS, n_tokens=400, row_tokens=48)


def test_activations_are_those_of_the_states(base: Base, saved: SavedSae, found: Activations) -> None:
    ids_RT, documents_RT = torch.from_numpy(found.ids_RT), torch.from_numpy(found.documents_RT)
    x_RTD, _ = states_at(base.model, HookPoint(layer=1), ids_RT, documents_RT)
    dense_NF = saved.autoencoder.encode(x_RTD.flatten(0, 1)).dense()
    for latent in range(0, 96, 7):
        places, values = found.of(latent)
        np.testing.assert_allclose(values, dense_NF[places, latent].numpy(), rtol=1e-3, atol=1e-4)
        assert (np.diff(places) > 0).all() and (values > 0).all()
    assert found.n_tokens <= ids_RT.numel() and len(found.values_M)


def test_examples_show_the_tokens_around_and_their_values(base: Base, saved: SavedSae, found: Activations) -> None:
    assert saved.origin is not None
    report = described(found, saved.origin, base.model, saved.autoencoder, base.tokenizer, n_features=5)
    assert len(report.features) == 5 and report.n_latents == 96
    densities = [each.density for each in report.features]
    counts = np.bincount(found.latents_M, minlength=96) / found.n_tokens
    assert sorted(densities) == pytest.approx(sorted(counts)[-5:])
    for feature in report.features:
        groups = dict(feature.examples)
        peak = groups[HIGHEST][0]
        assert max(peak.values) == pytest.approx(feature.highest) and len(peak.tokens) == len(peak.values)
        for name, low, high in (("75 to 100 %", 0.75, 1.0), ("0 to 25 %", 0.0, 0.25)):
            for example in groups[name]:
                assert any(low < value / feature.highest <= high + 1e-6 for value in example.values)
        row_D = saved.autoencoder.decoder_FO[feature.number]
        weight: Any = base.model.model.norm.weight
        logits_V = base.model.lm_head.weight @ (weight * row_D / row_D.square().mean().sqrt())
        best = base.tokenizer.vocabulary.decode([int(logits_V.argmax())])
        assert feature.promoted[0][0] == best
        assert feature.promoted[0][1] == pytest.approx(float(logits_V.detach().max()), rel=1e-3)
        assert feature.suppressed[0][1] == pytest.approx(float(logits_V.detach().min()), rel=1e-3)


def test_chosen_features_are_shown_though_they_never_fire(base: Base, saved: SavedSae, found: Activations) -> None:
    assert saved.origin is not None
    arguments: Any = (found, saved.origin, base.model, saved.autoencoder, base.tokenizer)
    silent_one = int(np.argmin(np.bincount(found.latents_M, minlength=96)))
    report = described(*arguments, n_features=5, chosen=[silent_one])
    assert [each.number for each in report.features] == [silent_one]
    with pytest.raises(UserError, match="feature 96 of 96: features are 0 to 95"):
        described(*arguments, n_features=5, chosen=[96])


class Read(HTMLParser):
    """Reads a page: its tags, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style></div>",
    "&lt;b&gt;",
    "\u202egnp.exe\u2066",
    "\x00\x1b[31m",
    "javascript:alert(1)",
)


def test_hostile_text_is_text_on_the_pages(tmp_path: Path) -> None:
    example = Example(HOSTILE, (0.0, 3.0, *[1.0] * (len(HOSTILE) - 2)))
    tokens = tuple((text, 1.0) for text in HOSTILE)
    feature = Feature(0, 0.1, 3.0, ((HIGHEST, (example,)),), tokens, tokens)
    features = tuple(replace(feature, number=number) for number in range(51))
    origin = SaeOrigin(
        model=HOSTILE[1],
        weights_sha256="0",
        hook=HookPoint(layer=1),
        recipe_sha256="0",
        row_tokens=8,
        skip_first=1,
        n_tokens=1,
        figures={"<script>": 1.0},
    )
    index = write_pages(FeatureReport(origin, 51, 100, 51, ((-6.0, 2),), features), tmp_path / "pages")
    assert {path.name for path in index.parent.iterdir()} == {
        "index.html",
        "features-0001.html",
        "features-0002.html",
    }
    for page in index.parent.iterdir():
        source = page.read_text(encoding="utf-8")
        read = Read()
        read.feed(source)
        assert not read.tags & {"script", "img", "b", "iframe", "link"}
        assert not {name for name in read.attributes if name.startswith("on")} | (read.attributes & {"src"})
        assert "alert(1)" in read.text and "&lt;b&gt;" in read.text
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b]", source)
        assert "default-src 'none'" in source
        assert set(re.findall(r'href="([^"]*)"', source)) <= {
            "index.html",
            "features-0001.html",
            "features-0002.html",
            *(f"features-000{1 + n // 50}.html#f{n}" for n in range(51)),
        }


def test_invisible_characters_are_shown() -> None:
    assert shown("a\nb\tc") == "a⏎b→c"
    assert shown("\u200bx\u202e") == html.escape("\\u200bx\\u202e")
    assert shown("<é\N{GRINNING FACE}>") == "&lt;é\N{GRINNING FACE}&gt;"


def test_the_command_writes_pages(toy: Path, tmp_path: Path) -> None:
    arguments = ["sae", "features", str(toy / "toy.gguf"), "--sae", str(toy / "run" / "sae")]
    arguments += ["--text", str(toy / "texts.jsonl"), "--out", str(tmp_path / "pages"), "--tokens", "1024"]
    result = CliRunner().invoke(app, [*arguments, "--n", "3", "--precision", "fp32", "--threads", "1"])
    assert result.exit_code == 0, result.output
    assert "index.html: 3 of 96 features" in result.output
    assert "residual of layer 1" in (tmp_path / "pages" / "index.html").read_text(encoding="utf-8")


def strongest(saved: SavedSae) -> int:
    assert saved.highest_F is not None
    return int(saved.highest_F.argmax())


def test_the_command_writes_steering_that_moves_an_engine(toy: Path, saved: SavedSae, tmp_path: Path) -> None:
    feature, out = strongest(saved), tmp_path / "steering.safetensors"
    arguments = ["sae", "steer", str(toy / "toy.gguf"), "--sae", str(toy / "run" / "sae"), "--out", str(out)]
    arguments += ["--feature", str(feature), "--strength", "2", "--prompt", "abc", "--tokens", "4"]
    result = CliRunner().invoke(app, [*arguments, "--threads", "1"])
    assert result.exit_code == 0, result.output
    assert "Continuations" in result.output and f"feature {feature} of layer 1" in result.output
    assert saved.origin is not None and saved.highest_F is not None
    steering = read_steering(out, saved.origin.weights_sha256)
    expected = (2 * saved.highest_F[feature] * saved.autoencoder.decoder_FO[feature]).numpy()
    np.testing.assert_allclose(steering.vectors[1], expected, rtol=1e-5)
    states = []
    for each in (None, steering):
        with TorchEngine.load(toy / "toy.gguf", context_window=64, steering=each, state_layers=(1,)) as engine:
            states.append(_state(engine))
    np.testing.assert_allclose(
        states[1] - states[0], steering.vectors[1], atol=0.1 * float(np.abs(expected).max())
    )
    with pytest.raises(UserError, match="a direction means nothing in other weights"):
        read_steering(out, "f" * 64)


def _state(engine: TorchEngine) -> Any:
    kept: list[Any] = []

    def watch(states_LD: Any, written: Any) -> bool:
        kept.append(np.array(states_LD))
        return True

    engine.generate(GenerateRequest(engine.vocabulary.encode("abc"), 1, watch=watch))
    return kept[0][0]


def test_what_cannot_steer_is_refused(saved: SavedSae, tmp_path: Path) -> None:
    feature = strongest(saved)
    assert saved.origin is not None and saved.highest_F is not None
    for arguments, message in (
        ((96, 1.0), "features are 0 to 95"),
        ((feature, 0.0), "strength 0 changes nothing"),
    ):
        with pytest.raises(UserError, match=message):
            feature_steering(saved, *arguments)
    dead = replace(saved, highest_F=torch.zeros(96))
    with pytest.raises(UserError, match="never fired"):
        feature_steering(dead, feature, 1.0)
    with pytest.raises(UserError, match="no record of its origin"):
        feature_steering(replace(saved, highest_F=None), feature, 1.0)
    low = replace(saved, origin=saved.origin.model_copy(update={"hook": HookPoint(layer=0)}))
    with pytest.raises(UserError, match="layer 0 cannot be steered"):
        feature_steering(low, feature, 1.0)
    (tmp_path / "other").write_bytes(b"not safetensors")
    with pytest.raises(UserError, match="other is no steering"):
        read_steering(tmp_path / "other")
