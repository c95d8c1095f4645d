"""A training run as a whole: a recipe, what it is made of, its folder and its report."""
