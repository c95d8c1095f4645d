"""Padding steers nothing: the same documents, in rows with and without it, train and balance a model alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.initialise import initialise
from modelstack.data.batches import Batch
from modelstack.data.loader import batch_of_rows
from modelstack.data.packing import Piece, Row
from modelstack.data.shard_writing import SourcedText
from modelstack.data.shards import Shards
from modelstack.posttrain.row_loader import RowOrder
from modelstack.sft.loader import SftLoader
from modelstack.train.parallel.pipeline import Stage
from modelstack.train.step import StepReport, local_state, train_step
from tests.modelstack.data.toy_shards import toy_shards
from tests.modelstack.sft.test_sft_loader import toy_data
from tests.modelstack.train.toys import family_config

ROUTED: dict[str, Any] = {"vocab_size": 258, "seq_aux_loss_coef": 0.5, "router_z_loss_coef": 0.25}
MODELS: dict[str, dict[str, Any]] = {
    "deepseek_v3": ROUTED
    | {
        "score_correction_bias": True,
        "num_nextn_predict_layers": 1,
        "mtp_loss_coef": 0.3,
        "n_group": 1,
        "topk_group": 1,
    },
    "deepseek_v4": ROUTED,
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    texts = ["abcab", "the dog sat on a mat", "hen", "a fox ran over the hill by night", "so it was", "zzzz"]
    documents = [SourcedText(text, "one") for text in texts]
    return toy_shards(tmp_path_factory.mktemp("shards"), documents)


def _rows(shards: Shards) -> list[Row]:
    """Return two rows of three whole documents each."""
    pieces = [Piece(number, 0, int(length)) for number, length in enumerate(shards.lengths)]
    return [pieces[:3], pieces[3:]]


def _full_rows(shards: Shards) -> list[Row]:
    """Return the rows cut to one length, so that none has padding."""
    rows = _rows(shards)
    length = min(sum(piece.n_tokens for piece in row) for row in rows)
    cut: list[Row] = []
    for row in rows:
        left, kept = length, list[Piece]()
        for piece in row:
            kept.append(piece._replace(n_tokens=min(left, piece.n_tokens)))
            left -= kept[-1].n_tokens
        cut.append([piece for piece in kept if piece.n_tokens])
    return cut


def _with_and_without(shards: Shards) -> tuple[Batch, Batch]:
    rows = _full_rows(shards)
    length = sum(piece.n_tokens for piece in rows[0])
    return batch_of_rows([*rows, []], shards, length + 13, 0), batch_of_rows(rows, shards, length, 0)


def _trained(family: str, batch: Batch) -> tuple[StepReport, dict[str, Tensor]]:
    model = initialise(CausalLM(family_config(family).with_(**MODELS[family])), 0).train()
    state = local_state(model, torch.optim.SGD(model.parameters(), lr=0.1))
    report = train_step(state, [batch])
    return report, {name: value.clone() for name, value in model.state_dict().items()}


def test_batches_say_which_tokens_are_padding(shards: Shards) -> None:
    padded, full = _with_and_without(shards)
    assert full.counted_BT is None
    assert padded.counted_BT is not None
    length = full.ids_BT.shape[1]
    assert padded.counted_BT[:2, :length].all() and padded.counted_BT.sum() == 2 * length
    moved = padded.to(torch.device("meta"))
    assert moved.counted_BT is not None and moved.counted_BT.device.type == "meta"


@pytest.mark.parametrize("family", MODELS)
def test_padding_changes_neither_losses_nor_the_balancing_update_nor_the_weights(
    shards: Shards, family: str
) -> None:
    (padded, with_padding), (full, without) = (_trained(family, batch) for batch in _with_and_without(shards))
    assert {"seq_aux_loss", "router_z_loss"} <= full.losses.keys() == padded.losses.keys()
    for name, loss in full.losses.items():
        assert padded.losses[name] == pytest.approx(loss, rel=1e-5), name
    biases = [name for name in without if name.endswith("e_score_correction_bias")]
    assert biases and any(without[name].any() for name in biases)
    for name in biases:
        assert torch.equal(with_padding[name], without[name]), name
    for name, value in without.items():
        torch.testing.assert_close(
            with_padding[name], value, atol=1e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("family", ["deepseek_v3", "deepseek_v4"])
def test_a_pipelines_stage_leaves_padding_out_too(shards: Shards, family: str) -> None:
    config = family_config(family).with_(**MODELS[family])
    found: list[tuple[dict[str, float], int]] = []
    for batch in _with_and_without(shards):
        stage = initialise(Stage(config, 0, [range(config.num_hidden_layers)]), 0)
        seen: list[Any] = []
        stage.observer = lambda *observed, seen=seen: seen.append(observed)
        stage(
            ids_BT=batch.ids_BT,
            labels_BT=batch.labels_BT,
            documents_BT=batch.documents_BT,
            forced_experts={},
            n_labels=100.0,
            **({} if batch.counted_BT is None else {"counted_BT": batch.counted_BT}),
        )
        [(_, losses, counted_BT)] = seen
        found.append(({name: loss.item() for name, loss in losses.items()}, int(counted_BT.sum())))
    (padded, n_padded), (full, n_full) = found
    assert padded == pytest.approx(full, rel=1e-5)
    assert n_padded == n_full


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_rows_of_fine_tuning_say_which_tokens_are_padding(layout: Any) -> None:
    data = toy_data()
    made = SftLoader(data, RowOrder(row_tokens=48, layout=layout), rows_per_batch=4)
    n_padded = 0
    for _ in range(10):
        batch = next(made)
        counted = np.ones(batch.ids_BT.shape, np.bool_) if batch.counted_BT is None else batch.counted_BT.numpy()
        n_padded += int((~counted).sum())
        # Padding stands behind all that counts, and no label counts in it.
        assert (np.diff(counted.astype(int), axis=1) <= 0).all()
        assert (batch.labels_BT.numpy()[~counted] < 0).all()
        assert (batch.ids_BT.numpy()[~counted] == 0).all()
    assert n_padded > 0
