"""How each family's decisions and tensors are called in GGUF, one file each; `registry` names them."""
