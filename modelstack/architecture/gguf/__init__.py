"""Models as GGUF files, llama.cpp's format, out and in.

Reading order: `family` (what a family of models is called in GGUF), `families` (one file each), `registry`;
`export` and `numbers` (out), `container` and `load` (in).
"""
