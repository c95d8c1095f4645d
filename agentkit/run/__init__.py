"""A run of an agent: what it decides, performs, offers and stores."""
