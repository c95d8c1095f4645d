"""A model's own convention for calls against ours: twenty easy requests, one call each."""
