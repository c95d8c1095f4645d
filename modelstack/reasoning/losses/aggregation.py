"""Reduction of token losses to a scalar.

| name | divisor | consequence |
|---|---|---|
| sequence_mean | each completion's tokens, then completions | a token of a short completion weighs more (GRPO) |
| token_mean | tokens of the step | long completions weigh more (DAPO) |
| prompt_token_mean | tokens of a prompt's replies, then prompts | prompts weigh the same (TRL's bnpo) |
| constant | completions times the sampler's limit | length has no influence (Dr. GRPO) |
| sequence_sum | completions | completions weigh by their length (LUSPO) |

With `StepTotals`, losses and gradients of a step's micro-batches and ranks add up to those of one large batch.
`prompt_token_mean` assumes that a micro-batch holds the replies to one prompt.

Letters: B completions, T tokens.
"""

from __future__ import annotations

from torch import Tensor

from modelstack.reasoning.losses.policy_config import Aggregation
from modelstack.reasoning.losses.rollouts import StepTotals


def aggregate(
    loss: Tensor,
    mask_BT: Tensor,
    aggregation: Aggregation,
    *,
    max_completion_tokens: int,
    totals: StepTotals | None = None,
) -> Tensor:
    """Return the scalar loss.

    Args:
        loss: Losses of tokens [B, T], or [B, 1] with one loss for all tokens of a completion.
        mask_BT: bool; losses at False positions are ignored.
        aggregation: Name of a row in the table above.
        max_completion_tokens: Sampling limit in tokens; only read by `constant`.
        totals: Totals of the optimizer step; None: this batch is the whole step.
    """
    masked_BT = loss.expand(mask_BT.shape).where(mask_BT, 0)
    n_sequences = len(mask_BT) if totals is None else totals.n_sequences
    if aggregation == "sequence_mean":
        return (masked_BT.sum(-1) / mask_BT.sum(-1).clamp(min=1)).sum() / n_sequences
    if aggregation == "token_mean":
        return masked_BT.sum() / (mask_BT.sum().clamp(min=1) if totals is None else totals.n_tokens)
    if aggregation == "prompt_token_mean":
        return masked_BT.sum() / mask_BT.sum().clamp(min=1) * len(mask_BT) / n_sequences
    if aggregation == "constant":
        return masked_BT.sum() / (n_sequences * max_completion_tokens)
    return masked_BT.sum() / n_sequences
