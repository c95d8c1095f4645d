"""Constitutional AI: critique, revision and AI feedback in place of human labels (Bai et al., 2212.08073).

Modules in reading order:
- `schema`: the constitution, read from TOML; `default.toml` is our own.
- `asking`: protocols for asking a model.
- `quoting`: safe quotation of untrusted model text.
- `critique`: the supervised stage.
- `feedback`: the preference stage.
- `journal` and `run`: many prompts concurrently, each request answered once.
- `engine_asking`: a model in this process.

Only `engine_asking` depends on a loaded model; the package does not import torch.
"""
