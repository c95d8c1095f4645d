"""Parameters, FLOPs and bytes of a `ModelConfig` by formula, without torch: `parameters`, `flops`, `memory`."""
