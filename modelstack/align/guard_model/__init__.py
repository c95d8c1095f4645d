"""Generative guard in the format of Llama Guard: policy, prompt, verdict, and the guard. Works without torch."""
