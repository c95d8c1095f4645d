"""GGUF names of each family's metadata and tensors, one family per file; `registry` lists them."""
