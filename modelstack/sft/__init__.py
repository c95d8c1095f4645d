"""Step 7, supervised fine-tuning: labelled rows of examples, training of LoRA or all weights, the stage.

Reading order:

- `rendering`: an example as tokens with weights by role;
- `augment`: random changes of training examples;
- `tokenised`: all examples of a run as arrays;
- `loader`: packed and padded batches;
- `run`: fine-tuning on the driver of `modelstack.posttrain`.
"""
