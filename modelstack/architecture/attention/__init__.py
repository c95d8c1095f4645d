"""Attention kinds, one file each; `registry` names them."""
