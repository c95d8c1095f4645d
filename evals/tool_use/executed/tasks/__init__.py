"""The tasks: one module per area with its initial state and its tasks."""
