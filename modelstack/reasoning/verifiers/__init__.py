"""Verifiable rewards: mathematics, programs, tool calls, formats; and the checks that guard them.

`rewards` has the shared types. `mathematics`, `code`, `calls`, `effects` and `gym` judge whether a completion is
correct; `formats`, `lengths` and `quoting` judge how it is written; `composition` combines them; `canaries`
raises an alarm when a completion gets a reward without doing the task. This package does not import torch.
"""
