"""Training on states of a known dictionary: it is found, and a restored training goes on bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from modelstack.align.sae.known_dictionary import KnownDictionary, matched, recovered
from modelstack.align.sae.sae_recipe import SaeForm
from modelstack.align.sae.trainer import SaeTrainer, geometric_median
from modelstack.train.schedules import ScheduleConfig

WIDTH, N_STEPS, BATCH = 24, 200, 256
KNOWN = KnownDictionary.drawn(32, WIDTH, active=2, exponent=0.2, seed=3)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are bit-equal only on as many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trainer_of(kind: Any = "batch_topk", **changes: Any) -> SaeTrainer:
    keys: dict[str, Any] = {"widths": (8, 16)} if kind == "matryoshka" else {}
    form = SaeForm(kind=kind, latents=32, k=2, dead_after=10_000, **keys)
    factors = ScheduleConfig(kind="wsd", warmup_steps=10, total_steps=N_STEPS, decay_steps=40)
    return SaeTrainer(form, WIDTH, WIDTH, rate=1e-2, factors=factors, **changes)


def batches(n: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [KNOWN.states(BATCH, generator)[0] for _ in range(n)]


@pytest.mark.parametrize("kind", ["topk", "batch_topk", "matryoshka", "jumprelu"])
def test_a_known_dictionary_is_found(kind: str) -> None:
    trainer, several = trainer_of(kind), batches(N_STEPS)
    trainer.begin(several[0], several[0])
    first = trainer.step(several[0])
    for batch in several[1:]:
        last = trainer.step(batch)
    assert last.unexplained < 0.35 * first.unexplained and last.n_active == pytest.approx(2, abs=0.3)
    found = trainer.finished()
    result = recovered(found, KNOWN, 4000)
    assert result.mcc > 0.75 and result.f1 > 0.55, result  # drawn rows have .5 and .1
    norms_F = found.decoder_FO.norm(dim=1)
    torch.testing.assert_close(norms_F, torch.ones_like(norms_F))
    l0 = len(found.encode(several[-1]).values_M) / BATCH
    assert l0 == pytest.approx(2, abs=0.3)


def test_the_finished_autoencoder_reads_states_as_they_are() -> None:
    trainer, (first, other) = trainer_of("topk"), [50 * each for each in batches(2)]
    trainer.begin(first, first)
    trainer.step(first)
    inner = trainer.autoencoder
    scaled = inner(other * trainer.scale_in).detach() / trainer.scale_in
    assert float((other * trainer.scale_in).norm(dim=1).mean()) == pytest.approx(WIDTH**0.5, rel=0.05)
    torch.testing.assert_close(trainer.finished()(other), scaled, rtol=1e-4, atol=1e-3)


def test_a_transcoder_reads_and_writes_states_of_other_lengths() -> None:
    form = SaeForm(kind="batch_topk", latents=24, k=4, skip=True)
    factors = ScheduleConfig(kind="wsd", warmup_steps=5, total_steps=80, decay_steps=16)
    trainer = SaeTrainer(form, WIDTH, 20, rate=5e-3, factors=factors, is_transcoder=True)
    several, matrix = batches(80), torch.randn(WIDTH, 20, generator=torch.Generator().manual_seed(0))
    outputs = [7 * (each @ matrix).relu() for each in several]
    trainer.begin(several[0], outputs[0])
    figures = [trainer.step(x, y) for x, y in zip(several, outputs, strict=True)]
    assert figures[-1].unexplained < 0.5 * figures[0].unexplained
    error = (trainer.finished()(several[-1]) - outputs[-1]).square().mean() / outputs[-1].var(0).mean()
    assert float(error) == pytest.approx(figures[-1].unexplained, abs=0.1)


def test_a_restored_training_goes_on_bit_for_bit() -> None:
    several = batches(12)
    straight = trainer_of()
    straight.begin(several[0], several[0])
    state: dict[str, Any] = {}
    expected = found = None
    for number, batch in enumerate(several):
        if number == 5:
            state = {name: _copied(value) for name, value in straight.state_dict().items()}
        expected = straight.step(batch)
    resumed = trainer_of(seed=9)
    resumed.load_state_dict(state)
    for batch in several[5:]:
        found = resumed.step(batch)
    assert found == expected
    for ours, theirs in zip(resumed.autoencoder.parameters(), straight.autoencoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert resumed.threshold == straight.threshold


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value


def test_latents_that_do_not_fire_are_dead_until_they_do() -> None:
    trainer, (batch,) = trainer_of(), batches(1)
    trainer.begin(batch, batch)
    with torch.no_grad():
        trainer.autoencoder.encoder_bias_F[5] = -1e6
    for _ in range(10_000 // BATCH + 2):
        figures = trainer.step(batch)
    assert figures.n_dead >= 1 and int(trainer.quiet_F[5]) > 10_000


def test_the_geometric_median_withstands_outliers() -> None:
    points = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    points[:20] = 1e4
    median = geometric_median(points)
    assert float(median.norm()) < 0.5 and float(points.mean(0).norm()) > 1000
    distances = [float((points - median - step).norm(dim=1).sum()) for step in 0.01 * torch.eye(4)]
    assert min(distances) > float((points - median).norm(dim=1).sum())


def test_matching_is_the_best_over_all_permutations() -> None:
    generator = torch.Generator().manual_seed(0)
    decoder, directions = (torch.randn(5, 3, generator=generator) for _ in range(2))
    unit = torch.nn.functional.normalize
    cosines = (unit(decoder, dim=1) @ unit(directions, dim=1).T).abs()
    best = max(
        sum(float(cosines[i, j]) for i, j in enumerate(order)) for order in itertools.permutations(range(5))
    )
    latents, places, found = matched(decoder, directions)
    assert float(found.sum()) == pytest.approx(best)
    torch.testing.assert_close(found, cosines[latents, places])


def test_a_trainer_of_the_same_seed_does_not_begin_with_the_dictionary() -> None:
    known = KnownDictionary.drawn(32, WIDTH, seed=0)
    _, _, cosines = matched(trainer_of(seed=0).autoencoder.decoder_FO.detach(), known.directions_GD)
    assert float(cosines.mean()) < 0.7


def test_the_dictionary_itself_is_recovered_wholly() -> None:
    trainer = trainer_of("topk")
    with torch.no_grad():
        order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
        trainer.autoencoder.decoder_FO.copy_(-KNOWN.directions_GD[order])
    assert recovered(trainer.finished(), KNOWN, 100).mcc == pytest.approx(1, abs=1e-5)
