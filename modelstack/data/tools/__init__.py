"""Training data for tool calling: read from files, generated from schemas, decontaminated and mixed. Torch-free.

`recipe` configures a data set and `build` produces it. `everyday` phrases requests for hand-written tools with
hand-written sentences, `api_*` for real schemas with reworded descriptions. `kinds` generates values together with
their wording.
"""
