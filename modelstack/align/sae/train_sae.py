"""Training of an autoencoder, from a recipe to a folder that SAELens loads; interruptible at any step.

The run's folder holds the text as token shards, checkpoints, a line of figures for each step, and at the end
`sae/` and a page. A killed run loses the steps since its last checkpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from modelstack.align.sae.reconstruction import density_histogram, measured
from modelstack.align.sae.sae_folder import SaeOrigin, save_sae
from modelstack.align.sae.sae_recipe import SaeRecipe, SaeResolved
from modelstack.align.sae.state_windows import StateSource, StateWindows
from modelstack.align.sae.trainer import SaeTrainer, StepFigures
from modelstack.data.loader import PackedLoader, PackingConfig
from modelstack.data.shard_writing import SourcedText, write_shards
from modelstack.data.shards import Shards
from modelstack.data.shipped_corpus import SHIPPED_CORPUS
from modelstack.errors import UserError
from modelstack.files import replacing, sha256_of, whole_lines
from modelstack.posttrain.base import Base
from modelstack.posttrain.starting_point import starting_point
from modelstack.reasoning.sampling.frozen_model import load_merged
from modelstack.run_folder import RunFolder, claim
from modelstack.stability.run_checkpoints import LocalStore
from modelstack.tokenizer.documents import find_files, is_held_out, read_documents
from modelstack.train.process import set_up_process
from modelstack.train.run.stopping import stop_asked

if TYPE_CHECKING:
    from modelstack.terminal.progress_bars import Tell

SAE, PAGE, HELD_OUT = "sae", "sae.md", "held-out"
"""Names in a run's folder: the autoencoder, its page, shards of held-out text."""


def train_sae(
    recipe: SaeRecipe, path: Path, tell: Tell, warn: Callable[[str], object] = print
) -> dict[str, float] | None:
    """Train an autoencoder, or resume; return its figures, or None if a stop was requested.

    Raises:
        UserError: The model or the text cannot be read, the folder holds another run, or the loss is not finite.
    """
    set_up_process(recipe.threads)
    folder = RunFolder(path)
    with folder.held(), stop_asked() as stop:
        start = starting_point(recipe.base)
        files = find_files(recipe.data.text or [SHIPPED_CORPUS])
        resolved = SaeResolved(
            recipe=recipe,
            weights=str(start.weights),
            base_sha256=start.parent.sha256,
            text_sha256=tuple(map(sha256_of, files)),
        )
        changed = claim(
            folder.recipe, resolved, resolved.fingerprint, free=SaeResolved.free, layout=SaeResolved.layout
        )
        if changed:
            warn(f"{', '.join(changed)} changed since the run began; sums are taken in another order")
        tell("loading the model")
        base = load_merged(start, precision=recipe.precision, device=recipe.device)
        shards, held_out = _written(recipe, files, base, folder, tell)
        hook = recipe.hook
        source = StateSource(base.model, hook, base.tokenizer.vocabulary.special_ids, recipe.data.skip_first)
        loader = _loader(recipe, shards, recipe.data.rows_at_once)
        windows = StateWindows(
            source,
            loader,
            window_tokens=min(recipe.data.window_tokens, recipe.n_steps * recipe.batch_tokens),
            batch_tokens=recipe.batch_tokens,
            seed=recipe.seed,
            told=lambda done, total: tell("states of a window", done, total),
        )
        trainer = _trainer(recipe, base)
        _resume(trainer, windows, folder)
        if not _trained(recipe, trainer, windows, folder, tell, lambda: stop.asked):
            return None
        autoencoder = trainer.finished().to(base.model.lm_head.weight.device)
        rows = list(islice(_loader(recipe, held_out, 1), recipe.evaluation_rows))
        figures, states = measured(source, autoencoder, rows, lambda done, total: tell("measuring", done, total))
        origin = SaeOrigin(
            model=start.parent.name,
            weights_sha256=resolved.base_sha256,
            hook=hook,
            recipe_sha256=resolved.fingerprint,
            row_tokens=recipe.data.row_tokens,
            skip_first=recipe.data.skip_first,
            n_tokens=trainer.n_tokens,
            figures=figures,
        )
        dataset = ", ".join(file.name for file in files)
        save_sae(
            path / SAE,
            autoencoder.cpu(),
            origin,
            dataset=dataset,
            density_F=states.density_F,
            highest_F=states.highest_F,
        )
        with replacing(path / PAGE) as temporary:
            temporary.write_text(page_text(recipe, origin, states.density_F, states.n), encoding="utf-8")
        return figures


def _written(
    recipe: SaeRecipe, files: list[Path], base: Base, folder: RunFolder, tell: Tell
) -> tuple[Shards, Shards]:
    """Return the text as shards of tokens: for training, and held out."""
    n_done = 0

    def count(n: int) -> None:
        nonlocal n_done
        n_done += n
        tell("documents as tokens", n_done)

    found: list[Shards] = []
    for is_out, place in ((False, folder.shards), (True, folder.path / HELD_OUT)):
        texts = (
            SourcedText(document.text, document.domain)
            for file in files
            for document in read_documents(file)
            if is_held_out(document.text, recipe.data.held_out) == is_out
        )
        try:
            write_shards(texts, base.tokenizer, place, on_documents=count)
        except UserError as error:
            side = "held out" if is_out else "left for training"
            raise UserError(
                f"{error}; the documents {side} at data.held_out = {recipe.data.held_out:g} are not enough: "
                f"change it, or split the text into more documents"
            ) from error
        found.append(Shards(place, base.tokenizer))
    return found[0], found[1]


def _loader(recipe: SaeRecipe, shards: Shards, n_rows: int) -> PackedLoader:
    packing = PackingConfig(row_tokens=recipe.data.row_tokens, seed=recipe.seed)
    return PackedLoader(shards, packing, rows_per_batch=n_rows)


def _trainer(recipe: SaeRecipe, base: Base) -> SaeTrainer:
    width = base.config.hidden_size
    return SaeTrainer(
        recipe.sae,
        width,
        width,
        rate=recipe.rate,
        factors=recipe.schedule,
        max_norm=recipe.max_norm,
        seed=recipe.seed,
        is_transcoder=recipe.hook.is_transcoder,
        device=base.model.lm_head.weight.device,
    )


def _resume(trainer: SaeTrainer, windows: StateWindows, folder: RunFolder) -> None:
    """Restore the newest checkpoint, or begin with the first window; forget figures of later steps."""
    loaded = LocalStore(folder.checkpoints).load({})
    if loaded is not None:
        trainer.load_state_dict(loaded.state["trainer"])
        windows.load_state_dict(loaded.state["windows"])
    else:
        trainer.begin(*windows.peek())
    kept = [line for line in whole_lines(folder.metrics) if json.loads(line)["step"] <= trainer.n_steps]
    with replacing(folder.metrics) as temporary:
        temporary.write_bytes(b"".join(line + b"\n" for line in kept))


def _trained(
    recipe: SaeRecipe,
    trainer: SaeTrainer,
    windows: StateWindows,
    folder: RunFolder,
    tell: Tell,
    is_stopped: Callable[[], bool],
) -> bool:
    """Take the remaining steps; return whether all are done."""
    store = LocalStore(folder.checkpoints, keep=recipe.checkpoints.keep)
    n_steps = recipe.n_steps
    with folder.metrics.open("a", encoding="utf-8") as lines:
        while trainer.n_steps < n_steps:
            x_ND, y_NO = windows.take()
            figures = trainer.step(x_ND, y_NO if recipe.hook.is_transcoder else None)
            if not math.isfinite(figures.loss) or not math.isfinite(figures.norm):
                raise UserError(
                    f"the loss is not finite at step {trainer.n_steps} of {n_steps}: lower lr ({recipe.rate:g}), "
                    f"and give another --out; checkpoints up to the step are in {folder.checkpoints}"
                )
            lines.write(json.dumps({"step": trainer.n_steps} | asdict(figures)) + "\n")
            tell("training", trainer.n_steps, n_steps, _note(figures))
            stopped = is_stopped() and trainer.n_steps < n_steps
            if stopped or trainer.n_steps == n_steps or trainer.n_steps % recipe.checkpoints.every == 0:
                lines.flush()
                store.save(trainer.n_steps, {"trainer": trainer.state_dict(), "windows": windows.state_dict()})
            if stopped:
                return False
    return True


def _note(figures: StepFigures) -> str:
    return f"unexplained {figures.unexplained:.3f}  L0 {figures.n_active:.1f}  dead {figures.n_dead}"


def page_text(recipe: SaeRecipe, origin: SaeOrigin, density_F: torch.Tensor, n_tokens: int) -> str:
    """Return the page of a trained autoencoder, in Markdown."""
    hook, figures = origin.hook, origin.figures
    lines = [f"# Sparse autoencoder: {hook.point} of layer {hook.layer} of {origin.model}", ""]
    lines.append(
        f"{recipe.sae.latents:,} latents, {recipe.sae.kind} with k = {recipe.sae.k}, {origin.n_tokens:,} tokens. "
        f"Figures are of {n_tokens:,} tokens of held-out text in rows of {origin.row_tokens}; the first "
        f"{origin.skip_first} tokens of a document and special tokens are left out. `sae/` loads in SAELens: "
        f'`SAE.load_from_disk("sae")`.'
    )
    lines += ["", "| figure | value |", "| --- | --- |"]
    lines += [f"| {name.replace('_', ' ')} | {value:.4f} |" for name, value in figures.items()]
    lines += ["", "## Density", "", "| share of tokens, from | latents |", "| --- | --- |"]
    lines.append(f"| never | {int((density_F == 0).sum()):,} |")
    lines += [f"| 1e{edge:.1f} | {count:,} |" for edge, count in density_histogram(density_F) if count]
    return "\n".join(lines) + "\n"
