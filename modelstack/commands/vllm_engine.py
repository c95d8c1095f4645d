"""Files that vLLM serves a model from, and its start where it is installed.

vLLM runs on several GPUs and, with a router in front of several servers, on several machines. It reads checkpoint
folders, compressed-tensors and adapters in peft's format as this project writes them, so that only GGUF files are
converted. The folder holds

    vllm.yaml     options, for `vllm serve --config`
    router.yaml   servers by model, for `vllm-router --dynamic-config-yaml` (vLLM's production stack)
    model/        the converted weights, if the source is a GGUF file

Source: vLLM 0.32, `vllm serve --help=all`; vllm-project/production-stack, src/vllm_router.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from modelstack.errors import UserError

if TYPE_CHECKING:
    from modelstack.toolcalls.conventions.recognition import Recognised

OPTIONS_FILE, ROUTER_FILE, WEIGHTS = "vllm.yaml", "router.yaml", "model"
PARSERS: Mapping[str, str] = {
    "deepseek": "deepseek_v3",
    "functiongemma": "functiongemma",
    "gemma4": "gemma4",
    "granite": "granite",
    "hermes": "hermes",
    "lfm2": "lfm2",
    "llama3": "llama3_json",
    "mistral": "mistral",
    "mistral-nemo": "mistral",
    "qwen3-coder": "qwen3_coder",
}
"""vLLM's reader of calls by our name of their convention."""


@dataclass(frozen=True, slots=True)
class VllmServer:
    """Settings of a server."""

    name: str
    host: str
    port: int
    context_window: int | None
    max_running: int
    adapters: Sequence[tuple[str, Path]] = ()
    """Stages with an adapter of the model, by name."""

    def write(self, source: Path, folder: Path) -> list[str]:
        """Write the files; return what is worth knowing, in sentences.

        Args:
            source: A checkpoint folder, a stage with a model, or a GGUF file.
            folder: Folder of the files, which are replaced; weights that are there already are kept.

        Raises:
            UserError: The source or an adapter cannot be read, or an adapter belongs to other weights.
        """
        from modelstack.posttrain.base_hash import require_same_base
        from modelstack.posttrain.lora.files import read_adapter
        from modelstack.posttrain.stages.stage import ADAPTER
        from modelstack.posttrain.starting_point import starting_point

        start = starting_point(source)
        # A stage with an adapter is two of vLLM's models: the base, and the adapter by the name that is asked for.
        served = self.name if start.stage is None else f"{self.name}-base"
        stages = [*self.adapters] if start.stage is None else [(self.name, start.stage.path), *self.adapters]
        read = {name: read_adapter(stage / ADAPTER) for name, stage in stages}
        for name, adapter in read.items():
            if adapter.base_sha256 is not None:
                require_same_base(adapter.base_sha256, start.sha256)
            if adapter.config.dora:
                raise UserError(f"the adapter {name!r} is DoRA, which vLLM does not apply: merge it first")
        folder.mkdir(parents=True, exist_ok=True)
        weights = start.weights if start.weights.is_dir() else _converted(start.weights, folder / WEIGHTS)
        recognised = _convention(weights)
        parser = PARSERS.get(recognised.convention.name)
        options: dict[str, Any] = {
            "model": str(weights.resolve()),
            "served-model-name": served,
            "host": self.host,
            "port": self.port,
            "max-num-seqs": self.max_running,
        }
        if self.context_window is not None:
            options["max-model-len"] = self.context_window
        if parser is not None:
            options |= {"enable-auto-tool-choice": True, "tool-call-parser": parser}
        if stages:
            options["enable-lora"] = True
            options["lora-modules"] = [f"{name}={(stage / ADAPTER).resolve()}" for name, stage in stages]
            options["max-lora-rank"] = _lora_rank(max(adapter.config.rank for adapter in read.values()))
        _write(folder / OPTIONS_FILE, options)
        _write(folder / ROUTER_FILE, self._router([served, *read]))
        reads = f"reads calls as {parser}" if parser else "does not read calls"
        return [f"vLLM {reads}: the convention is {recognised.convention.name} ({recognised.why})"]

    def _router(self, names: Sequence[str]) -> dict[str, Any]:
        reachable = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        backends = {"static_backends": [f"http://{reachable}:{self.port}"], "static_model_type": "chat"}
        return {
            "service_discovery": "static",
            "routing_logic": "prefixaware",
            "static_models": dict.fromkeys(names, backends),
        }


def start_vllm(folder: Path, key: str | None) -> None:
    """Replace this process by vLLM's server on the folder's options; returns if vLLM is not installed."""
    program = shutil.which("vllm")
    if program is None:
        return
    environment = dict(os.environ) | ({"VLLM_API_KEY": key} if key is not None else {})
    os.execve(program, ["vllm", "serve", "--config", str(folder / OPTIONS_FILE)], environment)


def _converted(file: Path, folder: Path) -> Path:
    """Return a checkpoint folder in bf16 with the weights of a GGUF file; one that is there is taken."""
    import torch

    from modelstack.architecture.checkpoint import save_checkpoint
    from modelstack.posttrain.base import load_base
    from modelstack.tokenizer.tokenizer_folder import save_text_tokenizer

    if not folder.exists():
        base = load_base(file)
        with tempfile.TemporaryDirectory() as tokenizer:
            save_text_tokenizer(base.tokenizer, tokenizer)
            save_checkpoint(base.model, folder, tokenizer=tokenizer, dtype=torch.bfloat16)
    return folder


def _convention(weights: Path) -> Recognised:
    from modelstack.tokenizer.tokenizer_folder import load_tokenizer
    from modelstack.toolcalls.conventions.recognition import recognise

    tokenizer = load_tokenizer(weights)
    return recognise(tokenizer.chat_template, tokenizer.vocabulary)


def _lora_rank(rank: int) -> int:
    """Return the smallest of vLLM's maximum ranks that holds a rank."""
    known = (8, 16, 32, 64, 128, 256, 320, 512)
    return next((each for each in known if each >= rank), rank)


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding="utf-8")
