"""Calibration of a model's probabilities by a temperature: `agentkit calibrate`."""
