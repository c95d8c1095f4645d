"""Tools: what a model is told of them, where they come from, how they are run."""
