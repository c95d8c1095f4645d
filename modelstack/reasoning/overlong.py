"""Soft overlong punishment: what a completion near the limit loses (DAPO, 2503.14476 equation 13).

A completion that was cut off says nothing of its reasoning, so a hard 0 there is noise. Up to the last `cache`
tokens of the limit there is no punishment, within them it grows linearly to -1, beyond the limit it is -1.
"""

from __future__ import annotations

from torch import Tensor

from modelstack.errors import UserError


def soft_overlong_rewards(n_tokens_B: Tensor, max_tokens: int, cache_tokens: int) -> Tensor:
    """Return what is added to rewards, fp32 [B], from 0 to -1.

    Args:
        n_tokens_B: Lengths of the completions.
        max_tokens: The limit; DAPO's 20,480.
        cache_tokens: Over how many tokens before it the punishment grows; DAPO's 4,096.

    Raises:
        UserError: `cache_tokens` is not from 1 to `max_tokens`.
    """
    if not 1 <= cache_tokens <= max_tokens:
        raise UserError(f"cache_tokens {cache_tokens} must be from 1 to max_tokens, {max_tokens}")
    return ((max_tokens - cache_tokens - n_tokens_B).float() / cache_tokens).clamp(-1.0, 0.0)
