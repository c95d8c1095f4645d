"""A run of `modelstack sae`: it resumes bit for bit after a stop and a kill, and says what it cannot do."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from modelstack.align.sae.hook_point import HookPoint
from modelstack.align.sae.sae_folder import load_sae
from modelstack.align.sae.state_windows import StateSource, StateWindows
from modelstack.align.sae.train_sae import train_sae
from modelstack.cli import app
from modelstack.data.loader import PackedLoader, PackingConfig
from modelstack.data.shard_writing import SourcedText, write_shards
from modelstack.data.shards import Shards
from modelstack.errors import UserError
from modelstack.posttrain.base import load_base
from modelstack.train.run.stopping import STOPPED
from tests.modelstack.align.sae.toy_sae import keys, recipe, silent, train_until_killed, write_toy
from tests.processes import start


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the model and the text, with a finished run."""
    folder = tmp_path_factory.mktemp("sae")
    write_toy(folder)
    assert train_sae(recipe(folder), folder / "whole", silent) is not None
    return folder


def weights(run: Path) -> bytes:
    return (run / "sae" / "sae_weights.safetensors").read_bytes()


def steps_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_run_leaves_an_autoencoder_with_its_figures(toy: Path) -> None:
    saved = load_sae(toy / "whole" / "sae")
    assert saved.origin is not None and saved.origin.hook == HookPoint(layer=1)
    figures = saved.origin.figures
    assert figures["explained_variance"] > 0 and 0 < figures["alive"] <= 1 and figures["kl_score"] < 1
    steps = steps_of(toy / "whole")
    assert [each["step"] for each in steps] == list(range(1, 25))
    assert steps[-1]["unexplained"] < 0.9 * steps[0]["unexplained"]
    page = (toy / "whole" / "sae.md").read_text(encoding="utf-8")
    assert "residual of layer 1 of toy.gguf" in page and "loss recovered" in page and "## Density" in page


def test_a_stopped_run_resumes_bit_for_bit(toy: Path, tmp_path: Path) -> None:
    def stop(name: str, done: float = 0, total: float | None = None, note: str = "") -> None:
        if name == "training" and done == 13:
            os.kill(os.getpid(), signal.SIGINT)

    assert train_sae(recipe(toy), tmp_path / "run", stop) is None
    assert len(steps_of(tmp_path / "run")) == 13 and not (tmp_path / "run" / "sae").exists()
    assert train_sae(recipe(toy), tmp_path / "run", silent) is not None
    assert weights(tmp_path / "run") == weights(toy / "whole")
    assert steps_of(tmp_path / "run") == steps_of(toy / "whole")


def test_a_killed_run_loses_the_steps_since_its_checkpoint_alone(toy: Path, tmp_path: Path) -> None:
    process = start(train_until_killed, toy, tmp_path / "run", 18)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    kept = [path.name for path in sorted((tmp_path / "run" / "checkpoints").glob("step-*"))]
    assert kept[-1] == "step-00000015"
    first: list[float] = []

    def tell(name: str, done: float = 0, total: float | None = None, note: str = "") -> None:
        if name == "training":
            first.append(done)

    assert train_sae(recipe(toy), tmp_path / "run", tell) is not None
    assert first[0] == 16
    assert weights(tmp_path / "run") == weights(toy / "whole")
    assert steps_of(tmp_path / "run") == steps_of(toy / "whole")


def test_a_folder_keeps_its_settings(toy: Path) -> None:
    with pytest.raises(UserError, match=r"recipe\.sae\.k = 4, the recipe says 5"):
        train_sae(recipe(toy, sae={"k": 5}), toy / "whole", silent)
    with pytest.raises(UserError, match=r"recipe\.layer = 1, the recipe says 2"):
        train_sae(recipe(toy, layer=2), toy / "whole", silent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": 3}, r"layer 3 of a model with 3: layers are 0 to 2"),
        ({"base": "none.gguf"}, r"none\.gguf"),
        ({"data": {"text": ["none.jsonl"]}}, r"none\.jsonl is neither a folder nor a file"),
        ({"data": {"skip_first": 60}}, r"no token that is read: lower data\.skip_first"),
        ({"data": {"held_out": 1e-9}}, r"held out at data\.held_out = 1e-09 are not enough"),
    ],
)
def test_what_cannot_be_trained_is_said(toy: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_sae(recipe(toy, **changes), tmp_path / "run", silent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": 63}, "no step"),
        ({"data": {"window_tokens": 32}}, "less than batch_tokens"),
        ({"sae": {"skip": True}}, "only a transcoder has a skip matrix"),
        ({"point": "transcoder", "sae": {"kind": "topk"}}, "use batch_topk"),
        ({"sae": {"latent": 3}}, r"'sae\.latent' is not known; nearest: 'sae\.latents'"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(toy: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe(toy, **changes)


def test_windows_hold_read_tokens_alone_in_an_order_of_their_own(toy: Path, tmp_path: Path) -> None:
    base = load_base(toy / "toy.gguf")
    texts = [f"abc {number} defg" * 4 for number in range(30)]
    write_shards((SourcedText(text, "t") for text in texts), base.tokenizer, tmp_path / "shards")
    shards = Shards(tmp_path / "shards", base.tokenizer)

    def windows(seed: int = 0) -> StateWindows:
        source = StateSource(base.model, HookPoint(layer=1), base.tokenizer.vocabulary.special_ids, 2)
        loader = PackedLoader(shards, PackingConfig(row_tokens=32), rows_per_batch=2)
        return StateWindows(source, loader, window_tokens=100, batch_tokens=16, seed=seed)

    first, other = windows(), windows(seed=1)
    found = torch.cat([first.take()[0] for _ in range(6)])
    again = torch.cat([other.take()[0] for _ in range(6)])
    assert not torch.equal(found, again)
    by_rows = [sorted(map(tuple, each.tolist())) for each in (found, again)]
    assert by_rows[0] == by_rows[1], "another seed is another order of the same states"
    state = first.state_dict()
    next_batches = [first.take()[0] for _ in range(8)]
    resumed = windows()
    resumed.load_state_dict(state)
    assert all(torch.equal(resumed.take()[0], batch) for batch in next_batches)


def test_special_and_first_tokens_are_left_out(toy: Path, tmp_path: Path) -> None:
    base = load_base(toy / "toy.gguf")
    special = base.tokenizer.vocabulary.special_ids
    write_shards((SourcedText(text, "t") for text in ("abcdef", "ghi")), base.tokenizer, tmp_path / "shards")
    loader = PackedLoader(
        Shards(tmp_path / "shards", base.tokenizer), PackingConfig(row_tokens=16, window_rows=1), rows_per_batch=1
    )
    batch = next(loader)
    is_read_BT = StateSource(base.model, HookPoint(layer=1), special, 2).is_read_BT(batch)
    documents: dict[int, list[int]] = {}
    for token, document in zip(batch.ids_BT[0].tolist(), batch.documents_BT[0].tolist(), strict=True):
        documents.setdefault(document, []).append(token)
    expected = [
        at >= 2 and token not in special for tokens in documents.values() for at, token in enumerate(tokens)
    ]
    counted = batch.counted_BT[0].tolist() if batch.counted_BT is not None else [True] * 16
    assert is_read_BT[0].tolist() == [a and b for a, b in zip(expected, counted, strict=True)]
    assert is_read_BT.any()


def test_the_command_trains_and_stops(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f"{name} = {json.dumps(value)}" for name, value in keys(toy).items() if not isinstance(value, dict)]
    for name, table in keys(toy).items():
        if isinstance(table, dict):
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    Path("toy.toml").write_text("\n".join(lines), encoding="utf-8")
    result = CliRunner().invoke(app, ["sae", "toy.toml", "tokens=320"])
    assert result.exit_code == 0, result.output
    assert "loss recovered" in result.output and "runs/toy/sae: 96 latents" in result.output
    monkeypatch.setattr("modelstack.align.sae.train_sae.train_sae", lambda *_: None)
    stopped = CliRunner().invoke(app, ["sae", "toy.toml", "tokens=320"])
    assert stopped.exit_code == STOPPED and "the same command resumes runs/toy" in stopped.output
