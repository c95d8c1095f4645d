"""The tasks, a module for each area: its start state, then what is asked of it."""
