"""Shared parts of post-training: recipe, starting point, driver, adapters, stages."""
