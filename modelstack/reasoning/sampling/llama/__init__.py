"""Replies of llama.cpp in the place of the model in training, on the quantised weights that will be served."""
