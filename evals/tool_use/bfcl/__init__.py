"""BFCL v4, scored by our own checker, which agrees with the original item by item."""
