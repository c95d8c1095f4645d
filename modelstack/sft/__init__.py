"""Step 7, supervised fine-tuning: examples into labelled rows, LoRA or all weights, what came of it as a stage.

Everything here is another loader and another loss on the loop of `modelstack.train`, not another loop.
"""
