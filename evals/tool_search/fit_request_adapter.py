"""Fits the adapter of requests of `agentkit.tools.tool_search.request_embedder` and writes its file.

Low-rank updates (LoRA, arXiv 2106.09685) of the upper layers of all-MiniLM-L6-v2 read requests; tools keep the
vectors of the model as it is. The score of a tool is that of the index, with the words. A step lowers the cross
entropy of the right tool among the tools of all training requests; tools that are nearly the right one are left
out. The constants were chosen on the tuning requests.

    python -m evals.tool_search.fit_request_adapter TOOL_SCHEMAS.jsonl.zst [--out FILE]

`SOURCES.md` says where the definitions are from. Letters: Q requests of a batch, N tools, V views, D width.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import zstandard
from torch.nn.functional import cross_entropy, normalize

from agentkit.tools.definition import ToolDefinition
from agentkit.tools.tool_search.embeddings import tool_vectors
from agentkit.tools.tool_search.lexical import LexicalIndex
from agentkit.tools.tool_search.request_embedder import ADAPTER, without_arguments
from agentkit.tools.tool_search.searched_text import SearchedText, searched_text
from agentkit.tools.tool_search.tool_index import FULL_SHARE, LEXICAL_WEIGHT
from evals.tool_search.tool_data import FOLDER
from modelstack.inference.minilm import minilm, minilm_folder

TRAINING = "training_requests.tsv"
STEPS, BATCH, LEARNING_RATE, WARM_UP, SCALE = 200, 64, 1e-3, 10, 20.0
"""Steps of AdamW, requests of a step, highest rate (cosine), steps to it, and factor of a score in the softmax.
A rate of 5e-4 performs as well on the tuning requests (.932 at 5); 3e-3 overfits (.904)."""
RANK, LAYERS, MODULES = 8, [2, 3, 4, 5], ["query", "value", "dense"]
SAME_TEXT, SAME_SENTENCE = 0.93, 0.97
"""Cosines from which another tool may serve a request as well as the right one."""


def training_pairs(schemas: Path) -> tuple[list[str], list[SearchedText], list[int]]:
    """Return the requests, the tools, and the number of the tool of each request."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    with zstandard.open(schemas, "rb") as file:
        for row in map(json.loads, io.TextIOWrapper(file, encoding="utf-8")):
            rows.setdefault((row["origin"], row["name"]), row)
    lines = (FOLDER / TRAINING).read_text(encoding="utf-8").splitlines()[1:]
    cells = [line.split("\t") for line in lines]
    places = {key: place for place, key in enumerate(dict.fromkeys((each[0], each[1]) for each in cells))}
    tools = [
        searched_text(ToolDefinition(key[1], rows[key]["description"], rows[key]["parameters"]), key[0])
        for key in places
    ]
    return [each[2] for each in cells], tools, [places[each[0], each[1]] for each in cells]


class Adapted:
    """The model with low-rank updates."""

    def __init__(self, folder: Path) -> None:
        """Load it; the updates are zero."""
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModel, AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=MODULES, layers_to_transform=LAYERS)
        self.model: Any = get_peft_model(AutoModel.from_pretrained(folder), config)

    def vectors(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the vectors of texts, [Q, D]; each has length 1."""
        batch = self._tokenizer(list(texts), padding=True, truncation=True, max_length=64, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            states = self.model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"][:, :, None]
        return normalize((states * mask).sum(1) / mask.sum(1), dim=1)

    def updates(self) -> Mapping[str, torch.Tensor]:
        """Return the factors of each update by its layer: `NAME.A` [rank, in], `NAME.B` [out, rank]."""
        found: dict[str, torch.Tensor] = {}
        for name, value in self.model.named_parameters():
            for factor in "AB":
                if f".lora_{factor}." in name:
                    layer = name.split(".lora_")[0].removeprefix("base_model.model.")
                    found[f"{layer}.{factor}"] = value.detach().to(torch.float16).contiguous()
        return found


def fit(
    requests: Sequence[str], tools: Sequence[SearchedText], right: Sequence[int], cache: Path | None, seed: int
) -> Mapping[str, torch.Tensor]:
    """Return the updates."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    folder = minilm_folder()
    assert folder is not None, "agentkit models pull minilm"
    views_VND = torch.from_numpy(tool_vectors(tools, minilm(), cache)).transpose(0, 1).contiguous()
    index = LexicalIndex(tools)
    words_QN = torch.tensor([index.scores(request) for request in requests])
    words_QN = LEXICAL_WEIGHT * words_QN / words_QN.amax(1, keepdim=True).clamp(min=1e-9)
    right_Q = torch.tensor(right)
    same_NN = (views_VND[0] @ views_VND[0].T > SAME_TEXT) | (views_VND[1] @ views_VND[1].T > SAME_SENTENCE)
    adapted = Adapted(folder)
    forms = [requests, [without_arguments(request) for request in requests]]
    optimiser = torch.optim.AdamW([p for p in adapted.model.parameters() if p.requires_grad], weight_decay=0.01)
    order: list[int] = []
    for step in range(STEPS):
        if len(order) < BATCH:
            order = rng.sample(range(len(requests)), len(requests))
        batch = [order.pop() for _ in range(BATCH)]
        cosines_VQN = adapted.vectors([rng.choice(forms)[i] for i in batch]) @ views_VND.transpose(1, 2)
        scores_QN = FULL_SHARE * cosines_VQN[0] + (1 - FULL_SHARE) * cosines_VQN.amax(0) + words_QN[batch]
        ignored_QN = same_NN[right_Q[batch]].scatter(1, right_Q[batch][:, None], False)
        loss = cross_entropy((SCALE * scores_QN).masked_fill(ignored_QN, -1e4), right_Q[batch])
        for group in optimiser.param_groups:
            cosine = 0.5 * (1 + math.cos(math.pi * step / STEPS))
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARM_UP) * cosine
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (step + 1) % 10 == 0:
            print(f"step {step + 1}: loss {loss.item():.3f}", flush=True)
    return adapted.updates()


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit and write the updates."""
    from safetensors.torch import save_file

    parser = argparse.ArgumentParser(prog="python -m evals.tool_search.fit_request_adapter", description=__doc__)
    parser.add_argument("schemas", type=Path, help="definitions of tools, tool_schemas.jsonl.zst")
    parser.add_argument("--cache", type=Path, help="file in which the embeddings of the tools are kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ADAPTER)
    options = parser.parse_args(arguments)
    updates = fit(*training_pairs(options.schemas), options.cache, options.seed)
    save_file(dict(updates), options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
