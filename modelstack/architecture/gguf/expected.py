"""The shapes of a config's tensors: the model itself is asked, on torch's meta device, which holds no numbers."""

from __future__ import annotations

from modelstack.architecture.config import ModelConfig
from modelstack.errors import UserError


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the state dict's shapes; a tied head is not counted again.

    Raises:
        UserError: The sizes are beyond what torch can count.
    """
    import torch

    from modelstack.architecture.decoder import CausalLM

    try:
        with torch.device("meta"):
            model = CausalLM(config)
    except (RuntimeError, OverflowError) as error:
        raise UserError(f"a model of these sizes cannot be: {' '.join(str(error).split())[:200]}") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    return shapes
