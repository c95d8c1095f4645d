"""Compares training on rollouts from quantised llama.cpp with training on the model's own rollouts."""
