"""Rewards that can be checked: answers of mathematics, programs, tool calls, formats; and what watches over them.

`rewards` has the vocabulary. `mathematics`, `code`, `calls`, `effects` and `gym` judge whether a completion is
right; `formats`, `lengths` and `quoting` how it is written; `composition` puts them together; `canaries`
raises an alarm when a reward can be had without the work. Torch-free.
"""
