"""Quantisation of trained models: fewer bits per weight, at the least change of what the model computes.

`rounded_model` goes through the blocks of a model. `rounding` finds the scales; `gptq` and `awq` reduce the error
with the inputs that calibration text gives. `budget` chooses a format per tensor, `comparison` measures the
result, and `quantisation` writes files.
"""
