"""Reward models: a scalar head on a decoder, trained on pairs of replies."""
