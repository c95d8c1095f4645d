"""The direction of refusal: a planted one is found, moves refusals, and becomes an engine's steering."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from modelstack.align.guard_training.rows import GuardRow, Turn
from modelstack.align.refusal_direction import find
from modelstack.align.refusal_direction.direction import RefusalDirection
from modelstack.align.refusal_direction.find import REFUSALS, ablated, added, find_direction, prompt_ids
from modelstack.align.refusal_direction.replies import ABLATED, STRENGTHS, refused_by_strength
from modelstack.architecture.checkpoint import save_checkpoint
from modelstack.architecture.decoder import CausalLM
from modelstack.cli import app
from modelstack.errors import UserError
from modelstack.posttrain.base import Base, load_base
from tests.modelstack.sft.toy_sft import write_base

N_LAYERS = 4


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("direction"), num_hidden_layers=N_LAYERS)


@pytest.fixture
def base(file: Path) -> Base:
    return load_base(file, dtype=torch.float32)


@pytest.fixture
def planted(base: Base) -> Iterator[Tensor]:
    """Plant a direction [D]: `x` has it, attention carries it to the last token, and refusals are read from it."""
    torch.manual_seed(0)
    model, encoder = base.model, base.encoder
    unit_D = torch.nn.functional.normalize(torch.randn(model.config.hidden_size), dim=0)
    (x_id,) = encoder.content_ids("x")
    attention: Any = model.model.layers[0].self_attn
    with torch.no_grad():
        model.lm_head.weight.mul_(0.05)  # other tokens hardly read it
        model.model.embed_tokens.weight[x_id] += 2 * unit_D
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj):
            projection.weight.zero_()  # every token attends to all alike
        attention.v_proj.weight[0] = unit_D
        attention.o_proj.weight[:, 0] = 4 * unit_D
        for text in REFUSALS:
            model.lm_head.weight[encoder.content_ids(text)[0]] = 0.5 * unit_D
    yield unit_D


def texts(letter: str, n: int = 80) -> list[str]:
    draw = random.Random(letter)
    return ["".join(draw.choices(f"abcdefg{letter * 6}", k=12)) for _ in range(n)]


@torch.no_grad()
def refusal_probability(model: CausalLM, base: Base, several: list[str]) -> float:
    tokens = sorted({base.encoder.content_ids(text)[0] for text in REFUSALS})
    prompts = [torch.tensor([prompt_ids(base.encoder, text)]) for text in several]
    logits = torch.stack([model(ids_BT, last_only=True).logits_BTV[0, 0] for ids_BT in prompts])
    return float(logits.softmax(-1)[:, tokens].sum(-1).mean())


def test_a_planted_direction_is_found_and_moves_refusals(base: Base, planted: Tensor) -> None:
    found = find_direction(base.model, base.encoder, texts("x"), texts("y"), weights_sha256="0" * 64)
    assert found.layer in range(1, int(0.8 * N_LAYERS)) and found.size > 0
    assert abs(float(torch.from_numpy(found.unit_D) @ planted)) > 0.8
    chosen = next(each for each in found.card["layers"] if each["layer"] == found.layer)
    assert chosen["separation"] > 0.95 and chosen["added"] > 0 > chosen["ablated"]
    model, harmful, harmless = base.model, texts("x", 8), texts("y", 8)
    before = [refusal_probability(model, base, several) for several in (harmful, harmless)]
    assert before[0] > before[1]
    with ablated(model, torch.from_numpy(found.unit_D)):
        assert refusal_probability(model, base, harmful) < before[0]
    with added(model, found.layer, torch.from_numpy(found.size * found.unit_D)):
        assert refusal_probability(model, base, harmless) > before[1]
    assert [refusal_probability(model, base, several) for several in (harmful, harmless)] == before


@pytest.mark.usefixtures("planted")
def test_requests_that_share_batches_and_their_beginning_give_the_figures_of_requests_asked_alone(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = [[text[: 2 + number % 11] for number, text in enumerate(texts(letter))] for letter in "xy"]
    together = find_direction(base.model, base.encoder, *several, weights_sha256="0" * 64).card
    monkeypatch.setattr(find, "BATCH", 1)
    monkeypatch.setattr(find, "common_prefix_length", lambda left, right: 1)
    alone = find_direction(base.model, base.encoder, *several, weights_sha256="0" * 64).card
    assert together["refusal_log_odds"] == pytest.approx(alone["refusal_log_odds"], rel=1e-4)
    for found, wanted in zip(together["layers"], alone["layers"], strict=True):
        assert found == pytest.approx(wanted, rel=1e-3, abs=1e-5)


def test_each_state_of_the_model_is_counted(base: Base, planted: Tensor) -> None:
    found = find_direction(base.model, base.encoder, texts("x"), texts("y"), weights_sha256="0" * 64)
    states = refused_by_strength(base.model, base.encoder, found, texts("x", 3), texts("y", 2))
    assert [each.state for each in states] == ["as it is", ABLATED, *(f"strength {each:+g}" for each in STRENGTHS)]
    assert all(0 <= each.n_harmful <= 3 and 0 <= each.n_harmless <= 2 for each in states)


def test_a_file_gives_the_same_steering(tmp_path: Path) -> None:
    unit_D = np.array([0.6, 0.8], np.float32)
    direction = RefusalDirection(3, unit_D, 2.5, "0" * 64, {"n_harmful": 1})
    direction.save(tmp_path / "a.safetensors")
    again = RefusalDirection.load(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(again.unit_D, unit_D)
    assert (again.layer, again.size, again.card) == (3, 2.5, {"n_harmful": 1})
    steering = again.steering(-0.5)
    np.testing.assert_allclose(steering.vectors[3], -1.25 * unit_D)


def test_broken_files_and_too_few_requests_are_refused(tmp_path: Path, base: Base) -> None:
    with pytest.raises(UserError, match=r"none\.safetensors"):
        RefusalDirection.load(tmp_path / "none.safetensors")
    RefusalDirection(1, np.ones(2, np.float32), 1.0, "0" * 64).save(tmp_path / "long.safetensors")
    with pytest.raises(UserError, match="not of length 1"):
        RefusalDirection.load(tmp_path / "long.safetensors")
    with pytest.raises(UserError, match="80 harmful and 9 harmless requests: at least 64"):
        find_direction(base.model, base.encoder, texts("x"), texts("y", 9), weights_sha256="0" * 64)


def test_a_model_that_does_not_refuse_has_no_direction(base: Base) -> None:
    with torch.no_grad():
        base.model.lm_head.weight.zero_()
    with pytest.raises(UserError, match="Does this model refuse at all"):
        find_direction(base.model, base.encoder, texts("x"), texts("y"), weights_sha256="0" * 64)


def test_the_command_writes_a_direction_and_shows_refusals(
    file: Path, base: Base, planted: Tensor, tmp_path: Path
) -> None:
    checkpoint = save_checkpoint(base.model, tmp_path / "planted", tokenizer=file.parent / "tokenizer")
    rows = [
        GuardRow(
            id=f"{unsafe}-{n}",
            turns=(Turn(role="user", content=text),),
            unsafe=unsafe,
            source="toy",
            license="CC0-1.0",
        )
        for unsafe in (True, False)
        for n, text in enumerate(texts("x" if unsafe else "y"))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(f"{row.model_dump_json()}\n" for row in rows))
    out = tmp_path / "refusal.safetensors"
    arguments = ["direction", str(checkpoint), "--rows", str(tmp_path / "rows.jsonl"), "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--n", "76", "--replies", "4", "--threads", "1"])
    assert result.exit_code == 0, result.output
    assert "projected out" in result.output and "of 4 harmful and 4 harmless requests" in result.output
    assert RefusalDirection.load(out).layer >= 1
