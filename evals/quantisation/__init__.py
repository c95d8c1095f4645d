"""How much quantised models differ from the original."""
