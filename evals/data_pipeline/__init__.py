"""How well a data recipe does what labels and planted cases say it should."""
