"""Training of a guard model, from a recipe to a stage with an adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from modelstack.align.guard_model.policy import MLCOMMONS
from modelstack.align.guard_model.prompt import INSTRUCTIONS_FIRST
from modelstack.align.guard_model.tokens import PromptTokens
from modelstack.align.guard_model.verdict_grammar import VerdictTree
from modelstack.align.guard_training.loader import GuardLoader, GuardRows, guard_batch, paired
from modelstack.align.guard_training.measured import measured
from modelstack.align.guard_training.passes import GuardPasses, unsafe_logits
from modelstack.align.guard_training.recipe import GuardRecipe
from modelstack.align.guard_training.rows import GuardRow, read_rows
from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.posttrain.data_files import data_file, drawn, refuse_both_sides
from modelstack.posttrain.driver import run_training
from modelstack.posttrain.recipe import TuningResolved
from modelstack.posttrain.row_loader import row_order
from modelstack.posttrain.shared_prefix import require_shareable
from modelstack.posttrain.stages.record import DataFile, DataManifest, Kind, Measurement
from modelstack.posttrain.stages.stage import Stage
from modelstack.posttrain.starting_point import load_start
from modelstack.posttrain.training import Job, Report, Told, Training
from modelstack.train.evaluation import in_use

VERDICTS_FILE = "verdicts.jsonl"
"""File of the metrics of each step."""
SCORED_TOGETHER = 32
"""Rows of a batch for measurements."""
GuardResolved = TuningResolved[GuardRecipe]


def train_guard(recipe: GuardRecipe, path: Path, console: Console) -> Stage | None:
    """Train a guard; see `run_training`."""
    return run_training(GuardTraining, recipe, path, console)


class GuardTraining(Training[GuardResolved]):
    """Training of a guard on conversations with verdicts."""

    kind: ClassVar[Kind] = "guard"
    values_file: ClassVar[str] = VERDICTS_FILE

    def __init__(self, job: Job[GuardResolved], told: Told) -> None:
        """Read the rows, and load the base with its adapter."""
        super().__init__(job, told)
        recipe = self.resolved.recipe
        told("reading rows")
        training = {file.path: list(read_rows(file.path)) for file in recipe.data.training}
        validation = {path: list(read_rows(path)) for path in recipe.data.validation}
        held_back = [row for rows in validation.values() for row in rows]
        trained_on = {row.id for rows in training.values() for row in rows}
        refuse_both_sides("rows", trained_on, ((row.id, row.id) for row in held_back))
        told("loading the base")
        self.base = load_start(recipe, self.resolved.lora, job.start)
        require_shareable(self.base.model)
        self.model = self.base.model
        told("encoding rows")
        self._prompts = PromptTokens(self.base.encoder, INSTRUCTIONS_FIRST)
        tree = VerdictTree(self.base.tokenizer.vocabulary, MLCOMMONS, INSTRUCTIONS_FIRST)
        self._verdicts = (tree.safe_id, tree.unsafe_id)
        n_most = len(self._prompts.prefix(MLCOMMONS)) + recipe.data.row_tokens
        if n_most > self.base.config.max_position_embeddings:
            raise UserError(
                f"a policy and data.row_tokens = {recipe.data.row_tokens} take {n_most} tokens, and the base has "
                f"a context of {self.base.config.max_position_embeddings}: lower data.row_tokens"
            )
        self._rows, n_long = tokenised(training, self._prompts, recipe.data.row_tokens)
        chosen = [row for rows in validation.values() for row in self._chosen(rows)]
        self._held_back: GuardRows | None = None
        if chosen:
            self._held_back = tokenised({"validation": chosen}, self._prompts, recipe.data.row_tokens)[0]
        self.n_rows = len(self._rows.units)
        files = [_file(path, "training", rows) for path, rows in training.items()]
        files += [_file(path, "validation", rows) for path, rows in validation.items()]
        self.data = DataManifest(files=tuple(files), n_too_long=n_long)

    def _chosen(self, rows: Sequence[GuardRow]) -> list[GuardRow]:
        recipe = self.resolved.recipe
        return drawn(rows, recipe.max_validation, recipe.seed, lambda row: row.id)

    def measure(self, told: Told) -> None:
        """Measure the base's verdicts on held-back rows."""
        if self._held_back is not None:
            told("judging held-back rows with the base")
            self.before = self._measured()

    def parts(self) -> tuple[GuardLoader, GuardPasses]:
        """Return the loader of rows, and the passes of the loss."""
        recipe = self.resolved.recipe
        loader = GuardLoader(
            self._rows,
            self._prompts,
            recipe.policies,
            row_order(recipe.data, rows=recipe.rows, seed=recipe.seed, row_tokens=2 * recipe.data.row_tokens),
            category_weight=recipe.category_weight,
            rows_per_batch=self.rows_per_batch,
        )
        passes = GuardPasses(self.base.model, self._verdicts, recipe.verdict_weight, recipe.pair_weight)
        return loader, passes

    def report(self, n_steps: int, told: Told) -> Report:
        """Measure the guard's verdicts on held-back rows."""
        what = (
            f"Guard model of {self.trained}: {n_steps:,} steps of {self.resolved.recipe.rows} pairs of "
            f"conversations, from {len(self._rows.rows):,}."
        )
        if self._held_back is None:
            return Report(what)
        told("judging held-back rows")
        return Report(what, self._measured())

    def _measured(self) -> tuple[Measurement, ...]:
        assert self._held_back is not None
        logits = score(self.base.model, self._held_back, self._prompts, self._verdicts)
        return measured(self._held_back.rows, logits)


def _file(path: str, role: Literal["training", "validation"], rows: Sequence[GuardRow]) -> DataFile:
    return data_file(
        path,
        role,
        kinds=["unsafe" if row.unsafe else "safe" for row in rows],
        sources=[row.source for row in rows],
        licences=[row.license for row in rows],
    )


def tokenised(
    rows_by_source: dict[str, list[GuardRow]], prompts: PromptTokens, row_tokens: int
) -> tuple[GuardRows, int]:
    """Return rows with their tokens, and the number of rows that were too long.

    Raises:
        UserError: No row of a source fits.
    """
    kept: list[GuardRow] = []
    conversations: list[list[int]] = []
    lengths: list[int] = []
    source_of: list[int] = []
    n_long = 0
    digest = hashlib.sha256()
    for number, (source, rows) in enumerate(rows_by_source.items()):
        n_before = len(kept)
        for row in rows:
            ids = prompts.conversation(MLCOMMONS, row.guard_turns)
            length = len(ids) + len(prompts.answer(row.categories, unsafe=row.unsafe))
            if length > row_tokens:
                n_long += 1
                continue
            kept.append(row)
            conversations.append(ids)
            lengths.append(length)
            source_of.append(number)
            digest.update(row.model_dump_json().encode())
        if len(kept) == n_before:
            raise UserError(f"no row of {source} fits {row_tokens} tokens; raise data.row_tokens, or leave it out")
    units = paired(kept, lengths)
    return (
        GuardRows(
            tuple(kept),
            tuple(conversations),
            tuple(units),
            np.array([sum(lengths[number] for number in unit) for unit in units], np.int64),
            np.array([source_of[unit[0]] for unit in units], np.int64),
            tuple(rows_by_source),
            digest.hexdigest(),
        ),
        n_long,
    )


@torch.no_grad()
def score(
    model: CausalLM,
    rows: GuardRows,
    prompts: PromptTokens,
    verdicts: tuple[int, int],
) -> NDArray[np.float64]:
    """Return log P(unsafe) - log P(safe) of each row under the whole policy."""
    logits = np.empty(len(rows.rows))
    order = np.argsort([len(ids) for ids in rows.conversations], kind="stable")
    with in_use(model):
        for start in range(0, len(order), SCORED_TOGETHER):
            numbers = order[start : start + SCORED_TOGETHER]
            batch = guard_batch(rows, [numbers.tolist()], prompts, MLCOMMONS)
            logits[numbers] = unsafe_logits(model, batch, verdicts).double().cpu().numpy()
    return logits
