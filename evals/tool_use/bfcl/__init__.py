"""BFCL v4, scored by this package's checker, which agrees with the original checker item by item."""
