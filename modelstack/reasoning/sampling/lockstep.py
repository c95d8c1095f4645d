"""Continues sequences of equal length in one cache, for models whose past is not kept in blocks.

A model's own cache has one length for all rows, so no row can run ahead. Each row has a queue of tokens still to
be read: a token that it drew, a block forced by a grammar, or the result of a tool. In each pass every row reads
as many tokens as the shortest queue holds, and a row with an empty queue decides on its next tokens. Nothing is
read twice, and there are at most as many passes as the longest row has tokens. Models of the usual kinds are
continued in batches of any lengths (`continuing`).

Letters: R rows, K tokens in a pass, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelstack.architecture.cache import Cache
from modelstack.architecture.decoder import CausalLM

Choose = Callable[[Sequence[int], NDArray[np.float32]], Sequence[Sequence[int]]]
"""Returns the next tokens of some rows, given their numbers and the logits [R, V] after their last tokens.

No tokens: the row has ended.
"""


@torch.no_grad()
def continue_in_lockstep(model: CausalLM, prompt_ids: Sequence[int], n_rows: int, choose: Choose) -> None:
    """Advance all rows behind one prompt until each has ended.

    Args:
        model: Policy in evaluation mode, on its own device.
        prompt_ids: Token ids of the prompt, at least one; evaluated once.
        n_rows: R.
        choose: Decides what follows; rows are numbered from 0.
    """
    device = next(model.parameters()).device
    queues: list[list[int]] = [[] for _ in range(n_rows)]
    is_open = [True] * n_rows
    cache = model.new_cache()
    first = model(torch.tensor([list(prompt_ids)], device=device), cache=cache, last_only=True)
    logits_RV = first.logits_BTV[:, -1].float().cpu().expand(n_rows, -1).numpy()
    cache = repeated(cache, n_rows)
    while True:
        asked = [r for r in range(n_rows) if is_open[r] and not queues[r]]
        for r, ids in zip(asked, choose(asked, logits_RV[asked]) if asked else (), strict=True):
            queues[r] = list(ids)
            is_open[r] = bool(ids)
        if not any(is_open):
            return
        K = min(len(queue) for queue, still in zip(queues, is_open, strict=True) if still)
        # A finished row continues unrecorded, since all rows of a batch have one length.
        ids_RK = torch.tensor([queue[:K] or [0] * K for queue in queues], device=device)
        for queue in queues:
            del queue[:K]
        output = model(ids_RK, cache=cache, last_only=True)
        logits_RV = output.logits_BTV[:, -1].float().cpu().numpy()


def repeated(cache: Cache, n: int) -> Cache:
    """Return a copy of a cache for n equal sequences, made from a cache for one."""
    return Cache([_repeated(layer, n) for layer in cache.layers], cache.n_tokens)


def _repeated(part: Any, n: int) -> Any:
    """Return a part of a layer's cache with its first axis repeated from length 1 to n."""
    if isinstance(part, Tensor):
        return part.repeat_interleave(n, dim=0)
    if isinstance(part, list | tuple):
        return type(part)(_repeated(each, n) for each in part)
    if is_dataclass(part) and not isinstance(part, type):
        made = copy.copy(part)
        for field in fields(part):
            setattr(made, field.name, _repeated(getattr(part, field.name), n))
        return made
    return part
