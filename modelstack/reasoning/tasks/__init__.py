"""Tasks whose answers can be checked: how files say them, what is right, and which verifier judges it."""
