"""llama.cpp as the second opinion on ids: a vocabulary-only GGUF, tokenised in a child process.

A child, because a vocabulary that llama.cpp does not like ends its process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_vocabulary_gguf(path: Path, fields: Mapping[str, Any]) -> Path:
    """Write a GGUF without tensors that holds `fields`, as `gguf_fields` returns them."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    for key, value in fields.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def llama_ids(path: Path, texts: Sequence[str], *, parse_special: bool = False) -> list[list[int]]:
    """Return llama.cpp's ids of each text, no begin token added."""
    child = subprocess.run(
        [sys.executable, __file__, str(path), str(int(parse_special))],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    if child.returncode != 0:
        raise RuntimeError(f"llama.cpp could not use {path}: {child.stderr[-2000:]}")
    return json.loads(child.stdout)


def _tokenise(path: str, texts: list[str], parse_special: bool) -> list[list[int]]:
    import ctypes

    import llama_cpp.llama_cpp as lib

    lib.llama_backend_init()
    parameters = lib.llama_model_default_params()
    parameters.vocab_only = True
    model = lib.llama_model_load_from_file(path.encode(), parameters)
    if not model:
        raise SystemExit("the file does not load")
    vocab: Any = lib.llama_model_get_vocab(model)
    result = []
    for text in texts:
        data = text.encode()
        buffer = (ctypes.c_int32 * (len(data) + 8))()
        n = lib.llama_tokenize(vocab, data, len(data), buffer, len(buffer), False, parse_special)
        result.append(list(buffer[:n]))
    return result


if __name__ == "__main__":
    print(json.dumps(_tokenise(sys.argv[1], json.load(sys.stdin), sys.argv[2] == "1")))
