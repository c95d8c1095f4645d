"""Forms of one model's weights: programs of the serving comparison read a checkpoint, a GGUF file, or their own.

The source is a GGUF file, whose weights are dequantised. Forms of this project are written at the first request
and live in a folder of the benchmark. A peer's conversion is slow and depends on the peer's version, so it stays
in the peer's environment, which is removed if the version changes.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from evals.speed.json_process import last_error

if TYPE_CHECKING:
    from modelstack.architecture.gguf.load import Loaded
    from modelstack.tokenizer.text_tokenizer import TextTokenizer

CHECKPOINT = "checkpoint"
"""Name of the form of a Hugging Face folder in bf16; all other names are types of GGUF files."""


class Weights:
    """The weights of a model, in all forms."""

    def __init__(self, name: str, gguf: Path, folder: Path) -> None:
        """Take a model.

        Args:
            name: The model's name, without a number type.
            gguf: The model's file.
            folder: Folder for the forms that this project writes, and for logs.
        """
        self.name, self.gguf, self.folder = name, gguf, folder
        self._written: dict[str, Path] = {}

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The model's tokenizer."""
        from modelstack.tokenizer.gguf_tokenizer import tokenizer_from_fields

        return tokenizer_from_fields(self._loaded.tokenizer, self.gguf)

    @property
    def n_vocab(self) -> int:
        """Number of the tokenizer's tokens; the model may have more."""
        return len(self.tokenizer.vocabulary)

    def in_form(self, form: str) -> Path:
        """Return the weights as `CHECKPOINT` or in a type of `modelstack export gguf`."""
        if form not in self._written:
            self._written[form] = self._checkpoint() if form == CHECKPOINT else self._gguf(form)
        return self._written[form]

    def converted(self, python: Path, conversion: Sequence[str]) -> Path:
        """Return the weights in a peer's own form, converting the checkpoint if that has not been done before.

        Args:
            python: Interpreter of the peer's environment.
            conversion: Its arguments, with the placeholders `{checkpoint}` and `{out}`.

        Raises:
            RuntimeError: the conversion failed; the message has its last line of errors.
        """
        target = python.parents[1] / "converted" / self.gguf.stem
        if target.exists():
            return target
        print(f"converting {self.gguf.stem} into {target} (once) ...", flush=True)
        target.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            out = Path(folder, "model")
            checkpoint = str(self.in_form(CHECKPOINT))
            arguments = [argument.format(checkpoint=checkpoint, out=out) for argument in conversion]
            done = subprocess.run([str(python), *arguments], capture_output=True, text=True, cwd=folder)
            if done.returncode != 0:
                raise RuntimeError(f"the conversion ended with {done.returncode}; {last_error(done.stderr)}")
            shutil.move(out, target)
        return target

    @cached_property
    def _loaded(self) -> Loaded:
        from modelstack.architecture.gguf.load import load_gguf

        return load_gguf(self.gguf)

    def _checkpoint(self) -> Path:
        import torch

        from modelstack.architecture.checkpoint import save_checkpoint
        from modelstack.tokenizer.tokenizer_folder import save_text_tokenizer

        with tempfile.TemporaryDirectory() as tokenizer:
            save_text_tokenizer(self.tokenizer, tokenizer)
            target = self.folder / CHECKPOINT
            return save_checkpoint(self._loaded.model, target, tokenizer=tokenizer, dtype=torch.bfloat16)

    def _gguf(self, form: str) -> Path:
        from modelstack.architecture.gguf.export import export_gguf

        loaded, target = self._loaded, self.folder / f"{form}.gguf"
        return export_gguf(loaded.config, loaded.state_dict, loaded.tokenizer, target, type_name=form).path
