"""Small byte-level training for the stability benchmarks: model, text, batches, and evaluation.

The text consists of the stories in the corpus shipped with the package, split by document. A token is a byte, so
bits per byte are the loss / ln 2. A batch depends only on its position and the seed: two runs see the same data at
the same step, even if one of them was interrupted.

Letters: B rows, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelstack.architecture.config import build
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.initialise import initialise
from modelstack.data.batches import Batch
from modelstack.data.shipped_corpus import domain_file
from modelstack.tokenizer.documents import is_held_out, read_documents

DOMAIN = "stories"
HELD_OUT_SHARE = 0.05
END_OF_DOCUMENT = b"\0"
VOCABULARY = 256


def model_keys(*, width: int, layers: int) -> dict[str, Any]:
    """Return the configuration of a llama model with head dimension 32."""
    return {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": width * 11 // 4,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "num_key_value_heads": width // 64,
        "head_dim": 32,
        "layer_types": ("full_attention",) * layers,
        "mlp_layer_types": ("dense",) * layers,
        "tie_word_embeddings": True,
    }


def new_model(keys: Mapping[str, Any], seed: int) -> CausalLM:
    """Return an initialised model."""
    return initialise(CausalLM(build(dict(keys))), seed)


@cache
def corpus(*, held_out: bool) -> Tensor:
    """Return the training or held-out text as bytes [n]."""
    texts = (document.text for document in read_documents(domain_file(DOMAIN)))
    chosen = (text for text in texts if is_held_out(text, HELD_OUT_SHARE) == held_out)
    return torch.frombuffer(bytearray(END_OF_DOCUMENT.join(text.encode() for text in chosen)), dtype=torch.uint8)


@dataclass(slots=True)
class ByteRows:
    """A `Loader` of rows at random positions of the text; each rank gets its own rows of a batch."""

    rows: int
    """Number of rows per batch and rank."""
    row_tokens: int
    seed: int
    rank: int = 0
    world: int = 1
    position: int = 0

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches from the current position on."""
        text = corpus(held_out=False)
        while True:
            position = self.position
            generator = torch.Generator().manual_seed((self.seed << 32) + position)
            n_rows = self.rows * self.world
            starts = torch.randint(0, len(text) - self.row_tokens - 1, (n_rows,), generator=generator)
            own = starts[self.rank * self.rows :][: self.rows]
            self.position += n_rows
            yield batch_at(text, own, self.row_tokens, position)

    def state_dict(self) -> dict[str, Any]:
        """Return the position."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position."""
        self.position = state["position"]


def batch_at(text: Tensor, starts: Tensor, row_tokens: int, position: int) -> Batch:
    """Return the rows that begin at `starts`; the label of a byte is the next byte."""
    places = starts[:, None] + torch.arange(row_tokens)
    ids_BT = text[places].long()
    return Batch(ids_BT, text[places + 1].long(), torch.zeros_like(ids_BT), position)


def held_out_bits(model: nn.Module, n_rows: int, row_tokens: int) -> float:
    """Return bits per byte on `n_rows` rows spread evenly over the held-out text.

    Every call uses the same rows.
    """
    text = corpus(held_out=True)
    starts = torch.linspace(0, len(text) - row_tokens - 2, n_rows).long()
    was_training = model.training
    model.eval()
    total = 0.0
    with torch.no_grad():
        for some in starts.split(32):
            batch = batch_at(text, some, row_tokens, 0)
            logits = model(batch.ids_BT, documents_BT=batch.documents_BT).logits_BTV
            total += float(F.cross_entropy(logits.flatten(0, 1), batch.labels_BT.flatten(), reduction="sum"))
    model.train(was_training)
    return total / (n_rows * row_tokens) / math.log(2)
