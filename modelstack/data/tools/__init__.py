"""Training data for tool calling: read from files, made from schemas, composed, decontaminated, mixed. Torch-free.

`recipe` says what a data set is made of and `build` makes it. `everyday` speaks hand-written tools in hand-written
sentences, `api` real schemas in reworded descriptions; `kinds` makes a value together with the words for it.
"""
