"""Build the corpus that ships with the package."""
