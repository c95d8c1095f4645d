"""Expected tensor shapes of a config, from a model created on torch's meta device, which allocates no memory."""

from __future__ import annotations

from modelstack.architecture.config import ModelConfig
from modelstack.errors import UserError


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the state dict, without a tied head.

    Raises:
        UserError: The sizes are too large for torch.
    """
    from modelstack.architecture.decoder import CausalLM
    from modelstack.architecture.meta import on_meta

    try:
        with on_meta():
            model = CausalLM(config)
    except (RuntimeError, OverflowError) as error:
        raise UserError(
            f"a model of these sizes cannot be created: {' '.join(str(error).split())[:200]}"
        ) from error
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    return shapes
