"""Guesses at the next tokens of a reply, which one evaluation of the model accepts or refuses."""
