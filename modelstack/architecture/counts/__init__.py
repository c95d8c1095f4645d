"""Formulas for parameters, FLOPs and bytes of a `ModelConfig`, without torch: `parameters`, `flops`, `memory`."""
