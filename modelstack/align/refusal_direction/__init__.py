"""The direction of refusal in a model's hidden states: found, measured, and used as a knob."""
