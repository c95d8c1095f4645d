"""Rows of several prompts, advanced until each has ended by a caller that decides what follows them.

Letters: R rows, V vocabulary size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.evaluation import Evaluation, StreamT

Choose = Callable[[Sequence[int], NDArray[np.float32]], Sequence[Sequence[int]]]
"""Returns the next tokens of some rows, given their numbers and the logits [R, V] after their last tokens.

No tokens: the row has ended.
"""


def advance_rows(
    evaluation: Evaluation[StreamT],
    submit: Callable[[Sequence[int], Sequence[int]], StreamT],
    prompts: Sequence[Sequence[int]],
    n_rows: Sequence[int],
    choose: Choose,
    max_rows: int,
) -> None:
    """Advance all rows until each has ended; the rows of a prompt begin with the same logits.

    Args:
        evaluation: The model, without streams.
        submit: Puts a row in the evaluation's line, given its prompt and what follows it.
        prompts: Token ids of the prompts, at least one each.
        n_rows: Number of rows of each prompt.
        choose: Decides what follows; rows are numbered prompt by prompt, and those of a step are in order.
        max_rows: Number of rows that the evaluation runs at once: a prompt is submitted when there is room for
            its first row, so that rows of one prompt run together.

    Raises:
        EngineError: A stream does not fit into the cache, or the evaluation failed.
    """
    ends = itertools.accumulate(n_rows)
    groups = [(prompt, range(end - n, end)) for prompt, n, end in zip(prompts, n_rows, ends, strict=True) if n]
    left = iter(groups)
    rows_of: dict[StreamT, tuple[Sequence[int], range]] = {}
    n_open = 0
    while True:
        while n_open < max_rows and (group := next(left, None)) is not None:
            rows_of[submit(group[0], ())] = group
            n_open += len(group[1])
        if not n_open:
            return
        ready = evaluation.step()
        for _, error in ready.failed:
            raise error
        asked = sorted((row, place) for place, stream in enumerate(ready.streams) for row in rows_of[stream][1])
        if not asked:
            continue
        numbers, places = zip(*asked, strict=True)
        in_order = places == tuple(range(len(ready.streams)))
        chosen = choose(numbers, ready.logits_RV if in_order else ready.logits_RV[list(places)])
        begun = [rows_of.pop(stream) for stream in ready.streams]
        free = dict(enumerate(ready.streams))
        for (row, place), ids in zip(asked, chosen, strict=True):
            if not ids:
                n_open -= 1
                continue
            prompt = begun[place][0]
            stream = free.pop(place, None)  # of the first row that goes on; the others borrow what it holds
            if stream is None:
                stream = submit(prompt, ids)
            else:
                evaluation.extend(stream, ids)
            rows_of[stream] = prompt, range(row, row + 1)
        for stream in free.values():
            evaluation.remove(stream)
