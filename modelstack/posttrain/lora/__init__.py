"""Low-rank adapters (Hu et al., arXiv 2106.09685): layers, files in the formats of peft and GGUF, merging."""
