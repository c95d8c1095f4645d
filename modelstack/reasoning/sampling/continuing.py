"""Continues many prompts at once with the policy's current weights; replies of one prompt share its evaluation.

Rows of all prompts run in one batch: each reads as many tokens as it has to read, a finished row leaves, and the
next takes its place. Rows draw independently. A policy is the model in training, evaluated by the torch engine's
batches (`TorchPolicy`), or llama.cpp's copy of it (`llama.policy`). Torch models whose past is not kept in blocks
are continued one prompt at a time (`lockstep`).

Letters: R rows, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.inference.evaluation import Evaluation, StreamT
from modelstack.inference.scheduler import StepLimits
from modelstack.inference.streams import Stream
from modelstack.inference.torch.stream_batch import StreamBatch, is_paged
from modelstack.reasoning.sampling.lockstep import Choose, continue_in_lockstep
from modelstack.train.evaluation import in_use

MAX_ROWS = 256
"""Maximum number of rows that are written together."""
MAX_STEP_TOKENS = 512
"""Maximum number of tokens evaluated together."""
MAX_CACHE_BYTES = 2**30
"""Bytes of keys and values, unless one row alone needs more."""
BLOCK_TOKENS = 4
"""Tokens per block. A prompt is shared in whole blocks, and each of its rows reads the rest again."""


class RowPolicy(Protocol):
    """Evaluates rows of tokens with the current weights of a policy."""

    def continue_rows(
        self, prompts: Sequence[Sequence[int]], n_rows: Sequence[int], choose: Choose, max_tokens: int
    ) -> None:
        """Advance all rows until each has ended.

        Args:
            prompts: Token ids of the prompts, at least one each.
            n_rows: Number of rows of each prompt.
            choose: Decides what follows; rows are numbered from 0, prompt by prompt.
            max_tokens: Maximum number of tokens that a row reads.

        Raises:
            UserError: Prompt and continuation exceed the model's context length.
            EngineError: The evaluation failed.
        """
        ...


class Continuation(Protocol):
    """State of one row, which decides which tokens follow the prompt."""

    def next_ids(self, logits_V: NDArray[np.float32]) -> Sequence[int]:
        """Return the next tokens, given the logits after the last token read.

        Returns:
            Tokens to read before the next call; an empty sequence if the row has ended.
        """
        ...


def continue_together(
    policy: RowPolicy, prompts: Sequence[Sequence[int]], rows: Sequence[Sequence[Continuation]], max_tokens: int
) -> None:
    """Advance the rows of all prompts until each has ended; see `RowPolicy.continue_rows`.

    Args:
        policy: Evaluates the rows.
        prompts: Token ids of the prompts.
        rows: Continuations of each prompt.
        max_tokens: Maximum number of tokens that a row reads.

    Raises:
        UserError: Prompt and continuation exceed the model's context length.
        EngineError: The evaluation failed.
    """
    flat = [row for of_prompt in rows for row in of_prompt]

    def choose(numbers: Sequence[int], logits_RV: NDArray[np.float32]) -> list[Sequence[int]]:
        return [flat[r].next_ids(logits_V) for r, logits_V in zip(numbers, logits_RV, strict=True)]

    policy.continue_rows(prompts, [len(of_prompt) for of_prompt in rows], choose, max_tokens)


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


def require_context(prompts: Sequence[Sequence[int]], max_tokens: int, room: int) -> None:
    """Check that prompts and what follows fit into a model's context of `room` tokens.

    Raises:
        UserError: They do not.
    """
    longest = max((len(prompt) for prompt in prompts), default=0)
    if longest + max_tokens > room:
        raise UserError(
            f"a prompt of {longest} tokens and {max_tokens} more exceed the context of {room}; "
            f"lower max_tokens or leave such prompts out"
        )


@dataclass(frozen=True, slots=True)
class TorchPolicy:
    """The model in training, on its own device; its mode and torch's random state are restored after each call."""

    model: CausalLM

    def continue_rows(
        self, prompts: Sequence[Sequence[int]], n_rows: Sequence[int], choose: Choose, max_tokens: int
    ) -> None:
        """Advance all rows until each has ended; see `RowPolicy`."""
        model = self.model
        require_context(prompts, max_tokens, model.config.max_position_embeddings)
        with in_use(model):
            if is_paged(model.config):
                self._in_batches(prompts, n_rows, choose, max_tokens)
                return
            first = 0
            for prompt, n in zip(prompts, n_rows, strict=True):
                continue_in_lockstep(model, prompt, n, _shifted(choose, first))
                first += n

    def _in_batches(
        self, prompts: Sequence[Sequence[int]], n_rows: Sequence[int], choose: Choose, max_tokens: int
    ) -> None:
        rows = [prompt for prompt, n in zip(prompts, n_rows, strict=True) for _ in range(n)]
        lengths = sorted((len(prompt) + max_tokens + BLOCK_TOKENS for prompt in rows), reverse=True)[:MAX_ROWS]
        n_tokens = max(min(sum(lengths), MAX_CACHE_BYTES // _bytes_per_token(self.model)), *lengths[:1], 1)
        limits = StepLimits(MAX_ROWS, MAX_STEP_TOKENS)
        batch = StreamBatch(self.model, n_tokens, limits, block_tokens=BLOCK_TOKENS)

        def submit(prompt: Sequence[int], ids: Sequence[int]) -> Stream:
            return batch.queue.submit([*prompt, *ids], len(prompt) + max_tokens)

        advance_rows(batch, submit, prompts, n_rows, choose, MAX_ROWS)


def _bytes_per_token(model: CausalLM) -> int:
    config = model.config
    n_values = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return n_values * model.lm_head.weight.element_size()


def _shifted(choose: Choose, first: int) -> Choose:
    """Return `choose` for rows that are numbered from 0 and stand at `first`."""
    return lambda numbers, logits_RV: choose([first + number for number in numbers], logits_RV)
