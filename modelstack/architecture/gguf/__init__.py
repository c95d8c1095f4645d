"""Models as GGUF files, llama.cpp's format, out and in.

Reading order: `family` (what a family of models is called in GGUF), `families` (one file each), `registry`;
`export` and `numbers` (out), `load` (in); the file itself is taken apart by `modelstack.gguf_file`.
"""
