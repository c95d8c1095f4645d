"""Find the directions that states are sums of, with a sparse autoencoder, and keep it for other programs.

The states below are sums of two out of thirty-two directions that this program draws, so it can count how many
were found. `modelstack sae RECIPE` does the same for the states of a model, whose directions are unknown.
"""

import tempfile
from pathlib import Path

import torch

from modelstack.align.sae.hook_point import HookPoint
from modelstack.align.sae.known_dictionary import KnownDictionary, recovered
from modelstack.align.sae.sae_folder import SaeOrigin, load_sae, save_sae
from modelstack.align.sae.sae_recipe import SaeForm
from modelstack.align.sae.trainer import SaeTrainer
from modelstack.train.schedules import ScheduleConfig

N_STEPS, WIDTH = 200, 24
known = KnownDictionary.drawn(32, WIDTH, active=2, exponent=0.2, seed=3)
generator = torch.Generator().manual_seed(0)
trainer = SaeTrainer(
    SaeForm(kind="topk", latents=32, k=2),
    WIDTH,
    WIDTH,
    rate=0.01,
    factors=ScheduleConfig(kind="wsd", warmup_steps=10, total_steps=N_STEPS, decay_steps=40),
)
first, _ = known.states(256, generator)
trainer.begin(first, first)
for _ in range(N_STEPS):
    states, _ = known.states(256, generator)
    figures = trainer.step(states)

origin = SaeOrigin(
    model="drawn",
    weights_sha256="0" * 64,
    hook=HookPoint(layer=1),
    recipe_sha256="0" * 64,
    row_tokens=1,
    skip_first=0,
    n_tokens=trainer.n_tokens,
)
with tempfile.TemporaryDirectory() as folder:
    save_sae(Path(folder) / "sae", trainer.finished(), origin)
    found = recovered(load_sae(Path(folder) / "sae").autoencoder, known)
    files = sorted(path.name for path in (Path(folder) / "sae").iterdir())
print(f"mean |cosine| of found and true directions: {found.mcc:.2f}; unexplained: {figures.unexplained:.2f}")
assert found.mcc > 0.8 and figures.unexplained < 0.4
assert {"cfg.json", "sae_weights.safetensors"} <= set(files)
