"""Hash routing: a table assigns experts to each token id; the learned scores only weight them.

Hash layers: Roller et al., arXiv 2106.04426. DeepSeek-V4 uses them in its first three MoE layers (2606.19348,
2.1): early layers know little but the token itself, and a fixed assignment cannot collapse. `hash_table` builds
the tables.

Letters: N tokens, V vocabulary, E experts, k of them selected.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.moe.router import Router


class HashRouter(Router):
    """Router of the MLP type `hash_moe`."""

    tid2eid: Tensor

    def __init__(self, config: ModelConfig) -> None:
        """Create the projection; the initial table sends token t to experts t .. t + k - 1 (mod E)."""
        super().__init__(config)
        first = torch.arange(config.vocab_size)[:, None]
        self.register_buffer("tid2eid", (first + torch.arange(self.n_chosen)) % self.n_experts)

    def choose(self, scores_NE: Tensor, token_ids_N: Tensor) -> Tensor:
        """Return the table's rows, int64 [N, k]."""
        return self.tid2eid[token_ids_N]
