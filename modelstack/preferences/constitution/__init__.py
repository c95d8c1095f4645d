"""A constitution instead of human labels: critique, revision, and AI feedback (Bai et al., 2212.08073); no torch.

Reading order: `schema` (what a constitution is, TOML; `default.toml` is ours), `asking` (what a model is asked, as
protocols), `quoting` (texts of models are hostile), `critique` (the supervised stage), `feedback` (the preference
stage), `journal` and `run` (many prompts at once, nothing asked twice), `engine_asking` (a model in this process).
"""
