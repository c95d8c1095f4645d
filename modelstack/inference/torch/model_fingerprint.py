"""Fingerprint of a torch model: equal fingerprints mean equal logits."""

from __future__ import annotations

import hashlib

import torch

from modelstack.architecture.decoder import CausalLM


def weights_fingerprint(model: CausalLM) -> str:
    """Return the SHA-256 over a model's config and weights."""
    digest = hashlib.sha256(model.config.fingerprint().encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
