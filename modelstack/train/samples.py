"""Sample texts that the model writes during training, as a first check of its progress.

The prompts are fixed and sampled with the same random numbers each time, so samples differ only by the model. The
random numbers come from a separate generator and do not affect training. Sampling applies the temperature, then
the smallest set of tokens whose probabilities reach `top_p`, as in `modelstack.inference.sampling`.

`samples.md` lists the newest samples last. Texts are indented, so no text can end its block or add a heading.

Letters: T tokens, V vocabulary.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.files import replacing
from modelstack.inference.rows import advance_rows
from modelstack.inference.torch.lockstep import LockstepBatch
from modelstack.tokenizer.text_tokenizer import TextTokenizer
from modelstack.train.evaluation import in_use, is_due
from modelstack.train.loop import Run
from modelstack.train.metrics import Metrics, SpentRecord
from modelstack.train.step import StepReport

SAMPLES_FILE = "samples.md"
_HEADING = re.compile(r"^## After (\d+) steps", re.MULTILINE)


class SamplingConfig(BaseModel, frozen=True, extra="forbid"):
    """Prompts and sampling parameters."""

    prompts: tuple[str, ...] = ()
    """Beginnings of the texts."""
    n_tokens: int = Field(default=64, gt=0)
    """Maximum number of tokens; an end-of-text token ends a text earlier."""
    temperature: float = Field(default=0.8, ge=0)
    """Sampling temperature; 0: always the most probable token."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Share of the probability that the sampled tokens make up."""
    seed: int = 0
    """Seed of the sampling."""


class Samples:
    """Hook that writes samples every `every` steps and at the end of the run."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        tokenizer: TextTokenizer,
        config: SamplingConfig,
        *,
        every: int,
        metrics: Metrics,
        writes: bool = True,
    ) -> None:
        """Sample into a file.

        Args:
            path: Path of `samples.md`.
            tokenizer: The model's own.
            config: The prompts and the sampling parameters.
            every: Number of steps between samples.
            metrics: Receives the time spent.
            writes: False on ranks that must not write; they still call the model.

        Raises:
            UserError: A prompt has no token.
        """
        self.path = Path(path)
        self._tokenizer = tokenizer
        self._config = config
        self._every = every
        self._metrics = metrics
        self._writes = writes
        self._prompt_ids = [prompt_ids(tokenizer, prompt) for prompt in config.prompts]

    def after_step(self, run: Run, report: StepReport) -> None:
        """Sample if it is due."""
        if not self._prompt_ids or not is_due(run, self._every):
            return
        started = time.perf_counter()
        model = cast(CausalLM, run.state.model)
        texts = [self._tokenizer.vocabulary.decode(ids) for ids in self.sample(model)]
        if self._writes:
            self._write(run.state.step, run.state.n_tokens, texts)
        self._metrics.add(SpentRecord(step=report.step, cause="samples", seconds=time.perf_counter() - started))

    def sample(self, model: CausalLM) -> list[list[int]]:
        """Return the tokens written for each prompt, without the end-of-text token."""
        ends = frozenset(self._tokenizer.vocabulary.end_ids)
        return [continuation(model, ids, self._config, ends) for ids in self._prompt_ids]

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the file holds everything."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: the next write drops the samples of repeated steps."""

    def _write(self, steps: int, n_tokens: int, texts: Sequence[str]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = self.path.read_text(encoding="utf-8") if self.path.exists() else "# Samples\n"
        section = sample_section(steps, n_tokens, self._config.prompts, texts)
        with replacing(self.path) as temporary:
            temporary.write_text(f"{sections_before(before, steps)}\n{section}", encoding="utf-8", newline="\n")


def prompt_ids(tokenizer: TextTokenizer, prompt: str) -> list[int]:
    """Return a prompt's tokens, including the begin token of a document.

    Raises:
        UserError: There are no tokens: the prompt is empty and the tokenizer has no begin token.
    """
    begin = tokenizer.vocabulary.bos_id
    ids = ([] if begin is None else [begin]) + tokenizer.encode(prompt)
    if not ids:
        raise UserError("an empty prompt requires a tokenizer with a begin-of-text token; use a non-empty prompt")
    return ids


def continuation(model: CausalLM, ids: Sequence[int], config: SamplingConfig, ends: frozenset[int]) -> list[int]:
    """Return the model's continuation of some tokens, without the end token.

    Args:
        model: The model, on its own device; its mode is restored afterwards.
        ids: At least one token.
        config: The sampling parameters.
        ends: Tokens that end a text.
    """
    generator = torch.Generator().manual_seed(config.seed)
    written: list[int] = []

    def choose(_: Sequence[int], logits_1V: NDArray[np.float32]) -> list[Sequence[int]]:
        token = draw(torch.from_numpy(logits_1V[0]), config, generator)
        if token in ends:
            return [()]
        written.append(token)
        return [(token,) if len(written) < config.n_tokens else ()]

    with in_use(model):
        rows = LockstepBatch(model)
        advance_rows(rows, rows.submit, [ids], [1], choose, max_rows=1)
    return written


def draw(logits_V: Tensor, config: SamplingConfig, generator: torch.Generator) -> int:
    """Return a token drawn from the smallest set of most probable tokens that reaches `top_p`."""
    if config.temperature == 0:
        return int(logits_V.argmax())
    probabilities, order = (logits_V / config.temperature).softmax(-1).sort(descending=True, stable=True)
    # The criterion is the probability of the tokens before, so the first token is always kept.
    outside = probabilities.cumsum(-1) - probabilities >= config.top_p
    chosen = torch.multinomial(probabilities.masked_fill(outside, 0), 1, generator=generator)
    return int(order[chosen])


def sample_section(steps: int, n_tokens: int, prompts: Sequence[str], texts: Sequence[str]) -> str:
    """Return the section of `samples.md` for one time: each prompt and the model's continuation."""
    parts = [f"## After {steps} steps, {n_tokens:,} tokens\n"]
    for prompt, text in zip(prompts, texts, strict=True):
        parts.append(f"Prompt:\n\n{_indented(prompt)}\n\nContinuation:\n\n{_indented(text)}\n")
    return "\n".join(parts)


def sections_before(page: str, steps: int) -> str:
    """Return a page of samples without those of `steps` steps and more."""
    for heading in _HEADING.finditer(page):
        if int(heading[1]) >= steps:
            return page[: heading.start()].rstrip("\n") + "\n"
    return page


def last_section(page: str) -> str:
    """Return the newest samples of a page; "" if there are none."""
    headings = list(_HEADING.finditer(page))
    return page[headings[-1].start() :] if headings else ""


def _indented(text: str) -> str:
    # Markdown ends lines at a carriage return too; the page shows it as a symbol.
    lines = text.replace("\r", "\u240d").split("\n")
    return "\n".join(f"    {line}" for line in lines)
