"""Continuations of one prompt that advance together in one batch, whatever each of them has to read.

A cache has one length for all rows, so no row may run ahead. Each has a queue of tokens that it has yet to read:
one that it drew, a block that a grammar forced, the result of a tool. In each pass all rows read as many tokens
as the shortest queue holds; a row whose queue is empty decides what comes next. So rows draw independently of each
other, nothing is ever read twice, and there are at most as many passes as the longest row has tokens: while one
reads a tool's result, the others write. (Serving engines keep a page table for each row instead; a training
model's cache is one tensor.)

Letters: G rows, K tokens of a pass, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.reasoning.sampling.group_sampler import repeated
from modelstack.train.evaluation import in_use


class Continuation(Protocol):
    """What one row writes and reads behind the prompt."""

    def next_ids(self, logits_V: NDArray[np.float32]) -> Sequence[int]:
        """Decide how it goes on behind the last token read, whose logits are given.

        Returns:
            Tokens to be read before it is asked again; none where it has ended.
        """
        ...


@torch.no_grad()
def continue_together(
    model: CausalLM, prompt_ids: Sequence[int], rows: Sequence[Continuation], max_tokens: int
) -> None:
    """Let all rows go on until each has ended; the model's mode and torch's random numbers are as before after it.

    Args:
        model: On its own device.
        prompt_ids: At least one token; read once.
        rows: G continuations. Their decisions are asked for in order.
        max_tokens: The most that any of them will read.

    Raises:
        UserError: Prompt and continuation are longer than the model's context.
    """
    if len(prompt_ids) + max_tokens > (longest := model.config.max_position_embeddings):
        raise UserError(
            f"a prompt of {len(prompt_ids)} tokens and {max_tokens} more are over the context of {longest}; "
            f"lower max_tokens or leave such prompts out"
        )
    device = next(model.parameters()).device
    queues: list[list[int]] = [[] for _ in rows]
    is_open = [True] * len(rows)
    with in_use(model):
        cache = model.new_cache()
        first = model(torch.tensor([list(prompt_ids)], device=device), cache=cache, last_only=True)
        logits_GV = first.logits_BTV[:, -1].float().cpu().expand(len(rows), -1).numpy()
        cache = repeated(cache, len(rows))
        while True:
            for g, row in enumerate(rows):
                if is_open[g] and not queues[g]:
                    queues[g] = list(row.next_ids(logits_GV[g]))
                    is_open[g] = bool(queues[g])
            if not any(is_open):
                return
            K = min(len(queue) for queue, still in zip(queues, is_open, strict=True) if still)
            # A row that has ended goes on unseen: rows of a batch have one length.
            ids_GK = torch.tensor([queue[:K] or [0] * K for queue in queues], device=device)
            for queue in queues:
                del queue[:K]
            output = model(ids_GK, cache=cache, last_only=True)
            logits_GV = output.logits_BTV[:, -1].float().cpu().numpy()
