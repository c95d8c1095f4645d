"""Step 7, supervised fine-tuning: examples rendered as labelled rows, LoRA or all weights, a stage at the end.

Reading order: `rendering` (an example as tokens with weights by role), `augment`, `tokenised` (all examples of a
run), `loader` (packed and padded batches), `run` (the method, on the driver of `modelstack.posttrain`).
"""
