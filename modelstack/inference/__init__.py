"""Step 10: engines that run a model, quantised or not, and the decode loop around them."""
