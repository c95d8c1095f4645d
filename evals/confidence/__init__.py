"""How far a model's probabilities can be believed, and the temperature that mends them: `agentkit calibrate`."""
