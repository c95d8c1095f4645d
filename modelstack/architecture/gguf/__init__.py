"""Export and import of models as GGUF files, the format of llama.cpp.

Reading order: `family` (GGUF names of a family's metadata and tensors), `families` (one per file), `registry`;
`export` and `numbers` (export), `load` (import). `modelstack.gguf_file` parses the file itself.
"""
