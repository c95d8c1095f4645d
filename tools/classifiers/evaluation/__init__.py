"""The shipped safety classifiers, measured beside an n-gram baseline of the same run."""
