"""Advances several continuations of one prompt in a single batch, even if they read different numbers of tokens.

A cache has one length for all rows, so no row can run ahead. Each row has a queue of tokens still to be read: a
token that it drew, a block forced by a grammar, or the result of a tool. In each pass every row reads as many
tokens as the shortest queue holds, and a row with an empty queue decides on its next tokens. Rows therefore draw
independently, nothing is read twice, and there are at most as many passes as the longest row has tokens: while
one row reads a tool result, the others write. Serving engines use a page table per row instead; the cache of a
training model is a single tensor.

Letters: G rows, K tokens in a pass, V vocabulary.
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
    """State of one row, which decides which tokens follow the prompt."""

    def next_ids(self, logits_V: NDArray[np.float32]) -> Sequence[int]:
        """Return the next tokens, given the logits after the last token read.

        Returns:
            Tokens to read before the next call; an empty sequence if the row has ended.
        """
        ...


@torch.no_grad()
def continue_together(
    model: CausalLM, prompt_ids: Sequence[int], rows: Sequence[Continuation], max_tokens: int
) -> None:
    """Advance all rows until each has ended; the model's mode and torch's random state are restored afterwards.

    Args:
        model: Policy, on its own device.
        prompt_ids: Token ids of the prompt, at least one; evaluated once.
        rows: G continuations, asked in this order.
        max_tokens: Maximum number of tokens that a row reads.

    Raises:
        UserError: Prompt and continuation exceed the model's context length.
    """
    if len(prompt_ids) + max_tokens > (longest := model.config.max_position_embeddings):
        raise UserError(
            f"a prompt of {len(prompt_ids)} tokens and {max_tokens} more exceed the context of {longest}; "
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
            # A finished row continues unrecorded, since all rows of a batch have one length.
            ids_GK = torch.tensor([queue[:K] or [0] * K for queue in queues], device=device)
            for queue in queues:
                del queue[:K]
            output = model(ids_GK, cache=cache, last_only=True)
            logits_GV = output.logits_BTV[:, -1].float().cpu().numpy()
