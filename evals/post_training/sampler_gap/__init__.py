"""Whether rollouts on quantised llama.cpp train as those of the model itself do, with and without a correction."""
